"""Runs: what a client is told of them, however they were started and however they end."""

import json
import random
from collections.abc import Iterator

import pytest

from tests.servers import Postgresql, Service, serving, wait_until
from tests.trial_runs import (
    PROGRAM,
    SECRET,
    WAYS,
    client_of,
    open_websocket,
    read,
    run,
    stored_status,
)

# The messages of what ends badly, and what the client is told of it.
FAILURES = {
    "raise": "The step Act has failed; the log says why.",
    "fail there is no tea": "there is no tea",
}


@pytest.fixture(scope="module")
def trial(environment: dict[str, str]) -> Iterator[Service]:
    """Give a service with the workflow `trial`."""
    with serving(environment, program=PROGRAM) as service:
        yield service


def test_stack_check(service: Service) -> None:
    with client_of(service) as client:
        assert [workflow["id"] for workflow in client.get("/workflows").json()] == ["stack-check"]
    outcome = run(service, component="workflows/stack-check")
    assert outcome.completed
    postgresql, redis = outcome.body["content"].splitlines()
    assert postgresql.startswith("PostgreSQL 16.")
    assert postgresql.endswith(": logged in as agentos, schema 0001.")
    assert redis.endswith(": a key was written, read back and removed.")


@pytest.mark.parametrize("way", WAYS)
def test_completes(trial: Service, postgresql: Postgresql, way: str) -> None:
    outcome = run(trial, way)
    if way == "background":
        assert outcome.status == 202
        assert outcome.body["status"] == "PENDING"
    else:
        assert outcome.completed
    wait_until(lambda: stored_status(trial, outcome) == "COMPLETED")
    rows = postgresql.query(
        "SELECT run_data->>'content', tenant_id, agno_sessions.user_id FROM agentos.agno_runs"
        " JOIN agentos.agno_sessions USING (tenant_id, session_id)"
        f" WHERE run_id = '{outcome.run_id}'"
    )
    assert rows == [("ended", "acme", "acme|alice")]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "background"])
def test_is_stored_when_it_is_confirmed(trial: Service, postgresql: Postgresql, way: str) -> None:
    """Not a moment later, though the storage is slow."""
    postgresql.query(
        "CREATE FUNCTION public.nap() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END';"
        "CREATE TRIGGER nap BEFORE INSERT OR UPDATE ON agentos.agno_runs"
        " FOR EACH ROW EXECUTE FUNCTION public.nap()"
    )
    try:
        outcome = run(trial, way)
        statement = f"SELECT status FROM agentos.agno_runs WHERE run_id = '{outcome.run_id}'"
        assert outcome.completed
        assert postgresql.query(statement) == [("COMPLETED",)]
    finally:
        postgresql.query("DROP FUNCTION public.nap CASCADE")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("message", FAILURES)
def test_a_step_fails(trial: Service, message: str, way: str) -> None:
    """The run has failed, which is a result; the steps after it do not run."""
    outcome = run(trial, way, message)
    told = FAILURES[message]
    if way == "plain":
        assert outcome.status == 200
        assert outcome.body["status"] == "ERROR"
        assert told in outcome.body["content"]
        begin, act = outcome.body["step_results"]
        assert (begin["content"], begin["success"]) == ("begun", True)
        assert (act["error"], act["success"]) == (told, False)
    elif way != "background":
        assert outcome.kinds[-2:] == ["StepError", "WorkflowError"]
        assert [event["error"] for event in outcome.events[-2:]] == [told, told]
        assert not outcome.completed
        assert '"End"' not in outcome.text
    wait_until(lambda: stored_status(trial, outcome) == "ERROR")
    with client_of(trial) as client:
        url = f"/workflows/trial/runs/{outcome.run_id}"
        stored = client.get(url, params={"session_id": str(outcome.session_id)})
    assert told in stored.json()["content"]
    assert len(stored.json()["step_results"]) == 2
    for text in (outcome.text, stored.text):
        for hidden in (SECRET, "RuntimeError", "Traceback"):
            assert hidden not in text
    if message == "raise":
        wait_until(lambda: SECRET in trial.log())


def test_a_session_goes_on(trial: Service) -> None:
    """After a run that failed, too."""
    first = run(trial)
    for message in ("raise", "go"):
        run(trial, message=message, session_id=str(first.session_id))
    with client_of(trial) as client:
        runs = client.get(f"/sessions/{first.session_id}/runs").json()
    assert [stored["status"] for stored in runs] == ["COMPLETED", "ERROR", "COMPLETED"]


@pytest.mark.parametrize("way", ["background", "websocket"])
def test_is_cancelled(trial: Service, way: str) -> None:
    waiting = trial.log().count("a run waits")
    if way == "background":
        outcome = run(trial, way, "wait 3")
        run_id, session_id = outcome.run_id, outcome.session_id
        cancel(trial, run_id, session_id, waiting)
    else:
        with open_websocket(trial) as socket:
            start = {"action": "start-workflow", "workflow_id": "trial", "message": "wait 3"}
            socket.send(json.dumps(start))
            event = read(socket)
            run_id, session_id = event["run_id"], event["session_id"]
            cancel(trial, run_id, session_id, waiting)
            while read(socket)["event"] != "WorkflowCancelled":
                pass
    with client_of(trial) as client:
        url, query = f"/workflows/trial/runs/{run_id}", {"session_id": str(session_id)}
        wait_until(lambda: client.get(url, params=query).json()["status"] == "CANCELLED")


def cancel(service: Service, run_id: str | None, session_id: str | None, waiting: int) -> None:
    """Cancel a run, once one more waits than have so far."""
    wait_until(lambda: service.log().count("a run waits") > waiting)
    with client_of(service) as client:
        url = f"/workflows/trial/runs/{run_id}/cancel"
        answer = client.post(url, params={"session_id": str(session_id)})
        assert answer.status_code == 200, answer.text


def test_resumes_a_stream(trial: Service) -> None:
    """A client that was away gets the events that it has missed."""
    outcome = run(trial, "background stream")
    with client_of(trial) as client:
        answer = client.post(
            f"/workflows/trial/runs/{outcome.run_id}/resume",
            data={"session_id": str(outcome.session_id), "last_event_index": "3"},
        )
    assert answer.status_code == 200
    assert "event: WorkflowCompleted" in answer.text


def test_several_runs_over_one_websocket(trial: Service) -> None:
    """What fails in one is not told of another."""
    start = {"action": "start-workflow", "workflow_id": "trial"}
    too_long = random.Random(1).randbytes(4000).hex()
    with open_websocket(trial) as socket:
        for message in ({"message": "wait 1"}, {"message": "raise"}, {"session_id": too_long}):
            socket.send(json.dumps(start | message))
        ends: list[str] = []
        while len(ends) < 3:
            event = read(socket)
            if event["event"] in ("WorkflowCompleted", "WorkflowError", "error"):
                ends.append(event["event"])
    assert sorted(ends) == ["WorkflowCompleted", "WorkflowError", "error"]


def test_memories(service: Service) -> None:
    """Each of them is found again, changed and forgotten."""
    body = {"memory": "likes tea", "topics": ["tea"]}
    with client_of(service) as client:
        memory_id = client.post("/memories", json=body).json()["memory_id"]
        url = f"/memories/{memory_id}"
        assert client.get(url).json()["memory"] == "likes tea"
        assert client.patch(url, json=body | {"memory": "likes milk"}).status_code == 200
        assert client.get(url).json()["memory"] == "likes milk"
        assert memory_id in client.get("/memories").text
        assert client.delete(url).status_code == 204
        assert client.get(url).status_code == 404


def test_no_answer_names_a_tenant(trial: Service) -> None:
    """The column is the database's alone."""
    outcome = run(trial)
    with client_of(trial) as client:
        for path in ("/sessions?type=workflow", f"/sessions/{outcome.session_id}", "/memories"):
            assert "tenant_id" not in client.get(path).text
