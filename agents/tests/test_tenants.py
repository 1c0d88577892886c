"""Tenants: who sees, changes and stops what, on each of Agno's routes that know rows or runs."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from agentos.environment import normalise_database_url
from redis import Redis

from tests.servers import PATIENCE_S, Postgresql, RedisServer, Service, serving, wait_until
from tests.test_tokens import answering, websocket_events
from tests.tokens import token

SCOPES = [
    f"{resource}:{action}"
    for resource in ("agents", "teams", "workflows", "sessions", "memories", "learnings",
                     "evals", "traces", "approvals", "config")
    for action in ("read", "run", "write", "delete")
]  # fmt: skip
WORKFLOW_RUNS = "/workflows/stack-check/runs"
AGENT = "/agents/stack-guide"
SECRET = "the password is swordfish"
# What takes the place of a foreign id: an id that nobody has.
UNKNOWN = "00000000-unknown"

WHO = {
    "another user": lambda: token("acme", "bob", scopes=SCOPES),
    "same name, another tenant": lambda: token("evil", "alice", scopes=SCOPES),
    "another tenant's administrator": lambda: token("evil", "root", scopes=["agent_os:admin"]),
}


@dataclass
class World:
    """What Alice of Acme has stored, in a service of which the model is a server of the tests."""

    service: Service
    ids: dict[str, str]
    prompts: list[str]

    def client(self, tenant: str = "acme", sub: str = "alice", **claims: Any) -> httpx.Client:
        return self.service.client(token(tenant, sub, **{"scopes": SCOPES, **claims}))

    def rows(self) -> dict[str, object]:
        """Give all that Alice sees of hers."""
        ids = self.ids
        sessions = {
            kind: f"/sessions/{ids[f'{kind}_session']}?type={kind}"
            for kind in ("agent", "workflow")
        }
        paths = {
            **sessions,
            "runs": f"/sessions/{ids['workflow_session']}/runs?type=workflow",
            "memory": f"/memories/{ids['memory']}",
            "learning": f"/learnings/{ids['learning']}",
            "approval": f"/approvals/{ids['approval']}",
        }
        with self.client() as client:
            answers = {name: client.get(path) for name, path in paths.items()}
        for name, answer in answers.items():
            assert answer.status_code == 200, (name, answer.text)
        return {name: answer.json() for name, answer in answers.items()}


def run(client: httpx.Client, path: str, **form: str) -> httpx.Response:
    return client.post(path, data={"message": SECRET, "stream": "false", **form})


@pytest.fixture(scope="module")
def world(environment: dict[str, str], postgresql: Postgresql) -> Iterator[World]:
    """Give a service, and in it a row of Alice's of each kind."""
    prompts: list[str] = []

    def model(_path: str, body: bytes) -> bytes:
        prompts.append(body.decode())
        message = {"role": "assistant", "content": "An answer."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return json.dumps(
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m",
             "choices": [choice], "usage": usage}
        ).encode()  # fmt: skip

    with answering(model) as url:
        settings = {"AGENTOS_MODEL_URL": f"{url}/v1", "AGENTOS_MODEL": "m"}
        with serving(environment | settings) as service:
            world = World(service, {}, prompts)
            with world.client() as client:
                world.ids.update(stored(client, postgresql))
            yield world


def stored(client: httpx.Client, postgresql: Postgresql) -> dict[str, str]:
    """Store a row of Alice's of each kind, and give their ids."""
    ids = {"agent_session": "of-alice-agent", "workflow_session": "of-alice-workflow"}
    for kind, path in (("agent", f"{AGENT}/runs"), ("workflow", WORKFLOW_RUNS)):
        # In the background, with events: these stay in Redis for whoever reconnects.
        form = {"session_id": ids[f"{kind}_session"], "stream": "false"}
        if kind == "workflow":
            form |= {"stream": "true", "background": "true"}
        answer = run(client, path, **form)
        assert answer.status_code == 200, answer.text
        text = answer.text.replace("data: ", "").splitlines()
        found = [json.loads(line) for line in text if line.startswith("{")]
        ids[f"{kind}_run"] = found[0]["run_id"]
    memory = client.post("/memories", json={"memory": SECRET, "topics": ["swordfish"]})
    ids["memory"] = memory.json()["memory_id"]
    learning = {"learning_type": "user_memory", "content": {"text": SECRET}}
    ids["learning"] = client.post("/learnings", json=learning).json()["learning_id"]
    ids["approval"] = "of-alice-approval"
    with psycopg.connect(normalise_database_url(postgresql.url()), autocommit=True) as database:
        database.execute(
            "INSERT INTO agentos.agno_approvals (tenant_id, id, run_id, session_id, status,"
            " source_type, pause_type, tool_name, user_id, workflow_id, created_at)"
            " VALUES ('acme', %s, %s, %s, 'pending', 'workflow', 'confirmation', %s,"
            " 'acme|alice', 'stack-check', 1)",
            (ids["approval"], ids["workflow_run"], ids["workflow_session"], SECRET),
        )
    return ids


# Method, path and the rest of requests that name something of Alice's.
NAMING: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/sessions/{agent_session}?type=agent", {}),
    ("GET", "/sessions/{workflow_session}?type=workflow", {}),
    ("GET", "/sessions/{workflow_session}?type=workflow&user_id=acme|alice", {}),
    ("GET", "/sessions/{workflow_session}/runs?type=workflow&user_id=acme|alice", {}),
    ("GET", "/sessions/{workflow_session}/run-previews?type=workflow", {}),
    ("GET", "/sessions/{workflow_session}/runs/{workflow_run}?type=workflow", {}),
    ("POST", "/sessions/{workflow_session}/rename?type=workflow", {"json": {"session_name": "x"}}),
    ("PATCH", "/sessions/{workflow_session}?type=workflow&user_id=acme|alice",
     {"json": {"session_name": "x", "session_state": {"x": 1}}}),
    ("DELETE", "/sessions/{workflow_session}?user_id=acme|alice", {}),
    ("DELETE", "/sessions", {"json": {"session_ids": ["{agent_session}", "{workflow_session}"],
                                      "session_types": ["agent", "workflow"]}}),
    ("GET", WORKFLOW_RUNS + "?session_id={workflow_session}", {}),
    ("GET", WORKFLOW_RUNS + "/{workflow_run}?session_id={workflow_session}", {}),
    ("POST", WORKFLOW_RUNS + "/{workflow_run}/cancel?session_id={workflow_session}", {}),
    ("POST", WORKFLOW_RUNS + "/{workflow_run}/resume",
     {"data": {"session_id": "{workflow_session}", "user_id": "acme|alice"}}),
    ("POST", WORKFLOW_RUNS + "/{workflow_run}/continue",
     {"data": {"session_id": "{workflow_session}", "user_id": "acme|alice"}}),
    ("GET", AGENT + "/runs?session_id={agent_session}", {}),
    ("GET", AGENT + "/runs/{agent_run}?session_id={agent_session}", {}),
    ("GET", AGENT + "/runs/{agent_run}/checkpoints?session_id={agent_session}", {}),
    ("GET", AGENT + "/runs/{agent_run}/checkpoints/0?session_id={agent_session}", {}),
    ("POST", AGENT + "/runs/{agent_run}/cancel?session_id={agent_session}", {}),
    ("POST", AGENT + "/runs/{agent_run}/resume", {"data": {"session_id": "{agent_session}"}}),
    ("POST", AGENT + "/runs/{agent_run}/continue",
     {"data": {"session_id": "{agent_session}", "stream": "false"}}),
    ("POST", AGENT + "/sessions/{agent_session}/fork",
     {"json": {"run_id": "{agent_run}", "user_id": "acme|alice"}}),
    ("POST", AGENT + "/sessions/{agent_session}/compact", {"json": {}}),
    ("GET", "/memories/{memory}?user_id=acme|alice", {}),
    ("PATCH", "/memories/{memory}",
     {"json": {"memory": "x", "user_id": "acme|alice", "topics": []}}),
    ("DELETE", "/memories/{memory}?user_id=acme|alice", {}),
    ("DELETE", "/memories", {"json": {"memory_ids": ["{memory}"], "user_id": "acme|alice"}}),
    ("GET", "/learnings/{learning}", {}),
    ("PATCH", "/learnings/{learning}", {"json": {"content": {"x": 1}}}),
    ("DELETE", "/learnings/{learning}", {}),
    ("GET", "/approvals/{approval}", {}),
    ("GET", "/approvals/{approval}/status", {}),
    ("POST", "/approvals/{approval}/resolve",
     {"json": {"status": "approved", "resolved_by": "acme|alice"}}),
    ("DELETE", "/approvals/{approval}", {}),
    ("GET", "/sessions?type=workflow&user_id=acme|alice&session_name=sword", {}),
    ("GET", "/sessions?type=agent&user_id=acme|alice", {}),
    ("GET", "/memories?user_id=acme|alice&search_content=sword", {}),
    ("GET", "/memory_topics?user_id=acme|alice", {}),
    ("GET", "/user_memory_stats?user_id=acme|alice", {}),
    ("GET", "/learnings?user_id=acme|alice", {}),
    ("GET", "/learnings/users", {}),
    ("GET", "/approvals?user_id=acme|alice&run_id={workflow_run}", {}),
    ("GET", "/approvals/count?user_id=acme|alice", {}),
]  # fmt: skip


def filled(value: Any, ids: dict[str, str]) -> Any:
    """Put ids into a request."""
    if isinstance(value, dict):
        return {name: filled(part, ids) for name, part in value.items()}
    if isinstance(value, list):
        return [filled(part, ids) for part in value]
    return value.format(**ids) if isinstance(value, str) else value


def without_ids(text: str, ids: dict[str, str]) -> str:
    """Give what an answer says whatever was asked for, and at whatever time."""
    for value in ids.values():
        text = text.replace(value, "ID")
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)


@pytest.mark.parametrize("who", WHO)
def test_foreign_ids_are_unknown_ids(world: World, who: str) -> None:
    before = world.rows()
    unknown = {name: f"{UNKNOWN}-{name}" for name in world.ids}
    with world.service.client(WHO[who]()) as client:
        for method, path, rest in NAMING:
            foreign, missing = (
                client.request(method, path.format(**ids), **filled(rest, ids))
                for ids in (world.ids, unknown)
            )
            name = (method, path, foreign.text)
            assert foreign.status_code == missing.status_code, (name, missing.text)
            assert foreign.status_code < 500, name
            assert without_ids(foreign.text, world.ids) == without_ids(missing.text, unknown), name
            assert "swordfish" not in foreign.text, name
    assert world.rows() == before


def listed(world: World) -> dict[str, list[str]]:
    """Give the ids of all that its user is shown."""
    with world.client() as client:
        return {
            name: sorted(
                entry[name] for entry in client.get(path, params={"limit": 100}).json()["data"]
            )
            for path, name in (
                ("/memories", "memory_id"),
                ("/learnings", "learning_id"),
                ("/sessions", "session_id"),
            )
        }


@pytest.mark.parametrize("who", WHO)
def test_nothing_can_be_written_in_another_users_name(world: World, who: str) -> None:
    before, seen_before = world.rows(), listed(world)
    with world.service.client(WHO[who]()) as client:
        answers = [
            client.post("/memories", json={"memory": "planted", "user_id": "acme|alice"}),
            client.post(
                "/learnings",
                json={"learning_type": "user_memory", "content": {}, "user_id": "acme|alice"},
            ),
            client.post(
                "/sessions?type=workflow",
                json={"workflow_id": "stack-check", "user_id": "acme|alice"},
            ),
            run(client, WORKFLOW_RUNS, user_id="acme|alice"),
            run(client, f"{AGENT}/runs", user_id="acme|alice"),
            client.delete("/learnings/users/acme|alice"),
        ]
    for answer in answers:
        assert answer.status_code < 500, answer.text
    assert world.rows() == before
    assert listed(world) == seen_before


@pytest.mark.parametrize("kind", ["workflow", "agent"])
def test_a_run_in_a_foreign_session(world: World, kind: str) -> None:
    path = WORKFLOW_RUNS if kind == "workflow" else f"{AGENT}/runs"
    session = world.ids[f"{kind}_session"]
    before = world.rows()
    with world.client("acme", "bob") as bob:
        for form in ({}, {"background": "true"}, {"user_id": "acme|alice"}):
            assert run(bob, path, session_id=session, **form).status_code == 404
        # With a run's id, the row of that run would be overwritten.
        assert run(bob, path, run_id=world.ids[f"{kind}_run"]).status_code == 422
    with world.client("third") as other:
        del world.prompts[:]
        answer = run(other, path, session_id=session, message="What do you know?")
        assert answer.status_code == 200
        assert not any("swordfish" in prompt for prompt in world.prompts)
        runs = other.get(f"/sessions/{session}/runs", params={"type": kind}).json()
        assert [found["run_id"] for found in runs] == [answer.json()["run_id"]]
        assert other.delete(f"/sessions/{session}").status_code == 204
    assert world.rows() == before


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("action", ["reconnect", "continue-workflow", "start-workflow"])
def test_websocket(world: World, who: str, action: str) -> None:
    before = world.rows()

    def answers(ids: dict[str, str]) -> str:
        login = {"action": "authenticate", "token": WHO[who]()}
        message = {
            "action": action,
            "workflow_id": "stack-check",
            "run_id": ids["workflow_run"],
            "session_id": ids["workflow_session"],
            "user_id": "acme|alice",
            "message": "hello",
        }
        return without_ids(json.dumps(websocket_events(world.service, login, message)), ids)

    if action == "start-workflow":
        # Another tenant begins a session of its own.
        assert ("Session not found" in answers(world.ids)) is (who == "another user")
    else:
        foreign = answers(world.ids)
        assert foreign == answers(dict.fromkeys(world.ids, UNKNOWN))
        assert "not found" in foreign
    assert world.rows() == before


def test_websocket_stays_with_its_user(world: World) -> None:
    mine, others = token("acme"), [token("evil"), token("acme", "bob")]
    messages = [{"action": "authenticate", "token": each} for each in (mine, *others, mine)]
    events = websocket_events(world.service, *messages)
    refused = [event["error"] for event in events if event["event"] == "auth_error"]
    assert refused == ["This connection belongs to another user"] * 2
    told = [event["user_id"] for event in events if event.get("user_id")]
    assert told == ["acme|alice"] * 2


def test_administrator_sees_the_tenant_and_no_other(world: World) -> None:
    run_id, session = world.ids["workflow_run"], world.ids["workflow_session"]
    with world.client(sub="root", scopes=["agent_os:admin"]) as root:
        for path in (
            f"/sessions/{session}?type=workflow",
            f"{WORKFLOW_RUNS}/{run_id}?session_id={session}",
            f"/memories/{world.ids['memory']}",
            f"/learnings/{world.ids['learning']}",
            f"/approvals/{world.ids['approval']}",
        ):
            assert root.get(path).status_code == 200, path
        resumed = root.post(f"{WORKFLOW_RUNS}/{run_id}/resume", data={"session_id": session})
        assert "WorkflowCompleted" in resumed.text
        assert "acme|alice" in root.get("/sessions/" + session, params={"type": "workflow"}).text
    with world.client("empty", "root", scopes=["agent_os:admin"]) as other:
        for path in ("/memories", "/learnings", "/approvals", "/sessions"):
            assert other.get(path).json()["data"] == []
            assert other.get(path, params={"user_id": "acme|alice"}).json()["data"] == []


def test_cancelling_ahead_stops_nobody_elses_run(world: World, redis: RedisServer) -> None:
    """An administrator may cancel what has not begun; ids in other tenants are not theirs."""
    run_id = world.ids["workflow_run"]
    with world.client("evil", "root", scopes=["agent_os:admin"]) as evil:
        assert evil.post(f"{WORKFLOW_RUNS}/{run_id}/cancel").status_code == 200
    with Redis.from_url(redis.url(), decode_responses=True) as client:
        keys = [str(key) for key in client.keys(f"*{run_id}*")]
    assert [key for key in keys if ":cancellation:" in key] == [
        f"agentos:evil:cancellation:{run_id}"
    ]
    assert all(key.startswith("agentos:acme:") for key in keys if ":events:" in key)
    assert any(":events:" in key for key in keys)


def test_two_tenants_on_one_connection(world: World) -> None:
    """Requests that are sent at once, without waiting for answers, by a proxy for instance."""
    tokens = [token("acme", scopes=SCOPES), token("evil", "mallory", scopes=SCOPES), "bad.to.ken"]
    with socket.create_connection(("127.0.0.1", world.service.port)) as connection:
        order = [0, 1, 0, 2, 1, 0, 2, 0]
        for last, number in ((place == len(order) - 1, who) for place, who in enumerate(order)):
            connection.sendall(
                b"GET /memories HTTP/1.1\r\nHost: localhost\r\n"
                b"Authorization: Bearer " + tokens[number].encode() + b"\r\n"
                b"Connection: " + (b"close" if last else b"keep-alive") + b"\r\n\r\n"
            )
        received = connection.makefile("rb").read().decode()
    answers = received.split("HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [["200", "200", "401"][who] for who in order]
    assert ["swordfish" in answer for answer in answers] == [who == 0 for who in order]


def test_many_at_once(world: World) -> None:
    users = [(f"many-{tenant}", sub) for tenant in range(4) for sub in ("alice", "bob")]

    async def check() -> None:
        limits = httpx.Limits(max_connections=8)
        async with httpx.AsyncClient(
            base_url=world.service.url, timeout=PATIENCE_S, limits=limits
        ) as client:

            async def use(tenant: str, sub: str, number: int) -> None:
                headers = {"Authorization": f"Bearer {token(tenant, sub, scopes=SCOPES)}"}
                name = f"{tenant}|{sub}"
                made = await client.post(
                    "/memories", json={"memory": f"{name} {number}"}, headers=headers
                )
                assert made.json()["user_id"] == name
                seen = await client.get("/memories", params={"limit": 100}, headers=headers)
                assert {each["user_id"] for each in seen.json()["data"]} == {name}
                assert all(each["memory"].startswith(name) for each in seen.json()["data"])

            await asyncio.gather(*(use(*user, number) for number in range(12) for user in users))

    asyncio.run(check())
    for tenant, sub in users:
        with world.client(tenant, sub) as client:
            assert client.get("/memories").json()["meta"]["total_count"] == 12


def test_background_work_stays_in_its_tenant(world: World, postgresql: Postgresql) -> None:
    """A run that goes on after its answer stores for the tenant that began it."""
    with world.client("later") as client:
        begun = run(client, WORKFLOW_RUNS, background="true")
        assert begun.status_code == 202, begun.text
        ids = begun.json()
        for other in range(20):
            with world.client(f"other-{other % 3}") as others:
                others.get("/memories")
        path, query = f"{WORKFLOW_RUNS}/{ids['run_id']}", {"session_id": ids["session_id"]}
        wait_until(lambda: client.get(path, params=query).json()["status"] == "COMPLETED")
    with psycopg.connect(normalise_database_url(postgresql.url())) as database:
        found = database.execute(
            "SELECT tenant_id, user_id FROM agentos.agno_runs WHERE run_id = %s", (ids["run_id"],)
        ).fetchall()
    assert found == [("later", "later|alice")]
