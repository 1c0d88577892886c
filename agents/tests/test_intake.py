"""What a run may be given, and that nothing else of it reaches Agno."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from agentos import logs
from agentos.errors import FailureError
from agentos.intake import DEPTH, MEDIA_COUNT, check_run_message
from packaging.requirements import Requirement

from tests.fake_servers import FakeModel, FakeProxy, serving_model, serving_proxy
from tests.servers import AGENTS, Service, serving
from tests.test_agents import KEY, PROVIDERS
from tests.trial_runs import client_of, run

AGENT, WORKFLOW = "/agents/stack-guide/runs", "/workflows/stack-check/runs"
# No team is served, but the routes are there.
STARTS = (AGENT, WORKFLOW, "/teams/none/runs")
RUNS = (*STARTS, *(f"{path}/none/continue" for path in STARTS))
MEDIA = ("images", "audio", "videos", "input_files")
SECRET = "a-secret-of-a-file"
PROMPT = "a-prompt-of-a-user"


@pytest.fixture(scope="module")
def model() -> Iterator[FakeModel]:
    """Give a model."""
    with serving_model() as model:
        yield model


@pytest.fixture(scope="module", params=["own server", "Anthropic"])
def asked(
    request: pytest.FixtureRequest, environment: dict[str, str], model: FakeModel
) -> Iterator[Service]:
    """Give a service with an agent, of either protocol."""
    provider = {name: text.format(model.url) for name, text in PROVIDERS[request.param].items()}
    with serving(environment | provider) as service:
        yield service


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[FakeProxy]:
    """Give a server that nobody may ask."""
    with serving_proxy() as server:
        yield server
        assert server.asked == []


def refused(service: Service, path: str, form: dict[str, str], **more: Any) -> str:
    """Send a form that must be refused, and give what is said of it."""
    whole = {"message": "x", "session_id": "x", "stream": "false"} | form
    if path.endswith("/continue"):
        del whole["message"]
    with client_of(service) as client:
        answer = client.post(path, data=whole, **more)
    assert answer.status_code == 422, (path, form, answer.text)
    assert SECRET not in answer.text
    return str(answer.json()["error"]["message"])


def completed(service: Service, path: str, **form: Any) -> dict[str, Any]:
    """Send a form that must be run, and give the answer."""
    with client_of(service) as client:
        data = {"message": "x", "stream": "false"} | form.pop("data", {})
        answer = client.post(path, data=data, **form)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "COMPLETED", answer.text
    return dict(answer.json())


@pytest.mark.parametrize("path", RUNS)
@pytest.mark.parametrize("field", MEDIA)
def test_media_are_not_read_from_elsewhere(
    asked: Service, elsewhere: FakeProxy, tmp_path: Path, path: str, field: str
) -> None:
    file = tmp_path / "secret.txt"
    file.write_text(SECRET)
    sources: tuple[dict[str, Any], ...] = (
        {"filepath": str(file)},
        {"url": elsewhere.url},
        {"media_reference": {"storage_key": str(file), "url": elsewhere.url}},
        {"filepath": None},
    )
    for source in sources:
        for item in (
            source,
            {"content": "eHh4", **source},
            {"content": "eHh4", "metadata": source},
            {"content": "xxx", "mime_type": "text/plain", **source},
        ):
            said = refused(asked, path, {field: json.dumps([{"content": "eHh4"}, item])})
            assert f"body.{field}" in said
    for form in ({field: json.dumps({"filepath": str(file)})}, {field: json.dumps([str(file)])}):
        assert f"body.{field}" in refused(asked, path, form)


@pytest.mark.parametrize("path", [path for path in RUNS if path.endswith("/continue")])
def test_requirements_bring_no_media(asked: Service, path: str) -> None:
    for source in ("filepath", "url", "media_reference"):
        step = {"step_id": "x", "step_input": {"images": [{source: "/etc/hostname"}]}}
        output = {"step_id": "x", "step_output": {"files": [{"x": [{source: None}]}]}}
        for requirements in ([step], [output]):
            said = refused(asked, path, {"step_requirements": json.dumps(requirements)})
            assert "body.step_requirements" in said


@pytest.mark.parametrize(
    ("field", "item"),
    [
        ("images", {"content": "iVBORw0KGgoAAAANSUhEUg==", "mime_type": "image/png"}),
        ("audio", {"content": "eHh4", "mime_type": "audio/wav"}),
        ("videos", {"content": "eHh4", "mime_type": "video/mp4", "format": "mp4"}),
        ("input_files", {"content": "JVBERi0xLjQ=", "mime_type": "application/pdf"}),
        ("input_files", {"content": "/etc/hostname", "mime_type": "text/plain", "name": "x"}),
    ],
)
def test_media_in_the_request_are_taken(asked: Service, field: str, item: dict[str, str]) -> None:
    for path in (AGENT, WORKFLOW):
        completed(asked, path, data={field: json.dumps([item])})


@pytest.mark.parametrize("field", MEDIA)
@pytest.mark.parametrize(
    "value",
    ["", "x", "{}", "1", "null", "[1]", "[{}]", '[{"content": ""}]', '[{"content": 1}]',
     '[{"content": "%"}]', '[{"content": null}]', '[{"content": "eHh4", "id": 1}]',
     '[{"content": "eHh4", "name": "\\u0000"}]', "[" * 100_000,
     json.dumps([{"content": "eHh4"}] * (MEDIA_COUNT + 1)),
     json.dumps([{"content": "eHh4", "name": "x" * 256}])],
)  # fmt: skip
def test_odd_media(asked: Service, field: str, value: str) -> None:
    assert f"body.{field}" in refused(asked, AGENT, {field: value})


@pytest.mark.parametrize("path", RUNS)
def test_fields_that_are_not_a_clients(asked: Service, path: str) -> None:
    for name in (
        "add_dependencies_to_context", "add_history_to_context", "additional_data", "agent",
        "agent_id", "auth_token", "background_tasks", "debug_mode", "enable_websocket", "enqueue",
        "executor", "knowledge_filters", "output_schema", "parent_run_id", "requirements_",
        "run_context", "run_id", "run_response", "self", "stream_events", "updated_tools",
        "use_json_schema", "websocket", "workflow", "yield_run_output", "", "x" * 900,
    ):  # fmt: skip
        said = refused(asked, path, {name: "true"})
        assert said.startswith(f"body.{name}"[:400])
    if not path.endswith("/continue"):
        assert "body.input" in refused(asked, path, {"input": "x"})
    # The same in the other kind of form, and as a file.
    assert "body.debug_mode" in refused(asked, path, {}, files={"debug_mode": (None, "true")})
    assert "body.self" in refused(asked, path, {}, files={"self": ("x.txt", b"x")})


@pytest.mark.parametrize("field", ["session_state", "dependencies", "metadata"])
@pytest.mark.parametrize(
    "value",
    ["", "x", "[]", "null", "1", "{", '{"x": NaN}', '{"x": 1e999}', '{"x": "\\u0000"}',
     '{"\\ud800": 1}', '{"x":' * (DEPTH + 1) + "1" + "}" * (DEPTH + 1)],
)  # fmt: skip
def test_odd_objects(asked: Service, field: str, value: str) -> None:
    for path in (AGENT, WORKFLOW):
        assert f"body.{field}" in refused(asked, path, {field: value})
    assert f"body.{field}" in refused(asked, AGENT, {}, files={field: ("x.json", b"{}")})


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (f"{AGENT}/none/continue", "tools", "[" * 100_000),
        (f"{AGENT}/none/continue", "tools", "{}"),
        (f"{AGENT}/none/continue", "tools", '[{"tool_args": {"x": "\\u0000"}}]'),
        (f"{AGENT}/none/continue", "continue_from", "²"),
        (f"{AGENT}/none/continue", "continue_from", "--1"),
        (f"{AGENT}/none/continue", "continue_from", "9" * 5000),
        (f"{AGENT}/none/continue", "session_state", "{}"),
        (f"{WORKFLOW}/none/continue", "metadata", "{}"),
        ("/teams/none/runs/none/continue", "requirements", "[" * 100_000),
        (AGENT, "files_metadata", "[" * 7000),
        (AGENT, "files_metadata", '[{"x": "\\u0000"}]'),
        (AGENT, "factory_input", "[]"),
    ],
)
def test_odd_fields(asked: Service, path: str, field: str, value: str) -> None:
    assert f"body.{field}" in refused(asked, path, {field: value})


def test_fields_that_are_a_clients(asked: Service) -> None:
    data = dict.fromkeys(("session_state", "dependencies", "metadata"), '{"x": {"y": 1}}')
    for path, kind in ((AGENT, "agent"), (WORKFLOW, "workflow")):
        run = completed(asked, path, data=data)
        assert run["metadata"] == {"x": {"y": 1}}
        with client_of(asked) as client:
            url = f"/sessions/{run['session_id']}"
            session = client.get(url, params={"type": kind}).json()
        assert session["session_state"]["x"] == {"y": 1}
    form = {"session_id": "", "dependencies": "{}", "metadata": "{}", "stream": "false"}
    run = completed(asked, AGENT)
    form["session_id"] = run["session_id"]
    with client_of(asked) as client:
        answer = client.post(f"{AGENT}/{run['run_id']}/continue", data={**form, "input": "more"})
    assert answer.json()["content"].startswith("You have asked"), answer.text


@pytest.mark.parametrize("name", ["../../etc/passwd.txt", "/etc/passwd", "x" * 500 + ".txt", "ä"])
def test_an_uploads_name_is_only_a_name(asked: Service, name: str) -> None:
    answer = completed(asked, AGENT, files={"files": (name, b"what is sent", "text/plain")})
    assert "root:" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.txt", b"a\0b", "text/plain"),
        ("x.txt", b"\xff\xfe", "text/plain"),
        ("x.csv", b"a\0b", "application/octet-stream"),
        ("x.json", b"a\0b", "application/json"),
        ("x.txt", b"", "text/plain"),
        ("x.exe", b"x", "application/x-msdownload"),
        ("\0.txt", b"x", "text/plain"),
        ("x.png", b"x", "image/png"),
    ],
)
def test_odd_uploads(asked: Service, name: str, content: bytes, kind: str) -> None:
    with client_of(asked) as client:
        form = {"message": "x", "stream": "false"}
        answer = client.post(AGENT, data=form, files={"files": (name, content, kind)})
    assert answer.status_code in (200, 400, 422), answer.text
    if answer.status_code == 200:
        assert answer.json()["status"] == "COMPLETED", answer.text


@pytest.mark.parametrize(
    "message",
    [{"message": {}}, {"message": []}, {"session_id": 1}, {"version": True}, {"version": "1"},
     {"factory_input": "x"}, {"user_id": {}}, {"workflow_id": []}, {"run_id": 1},
     {"message": "\0"}, {"message": "\ud800"},
     {"step_requirements": {}}, {"step_requirements": "{"}, {"step_requirements": "1"},
     {"step_requirements": [{"step_input": {"images": [{"filepath": "x"}]}}]},
     {"step_requirements": '[{"step_input": {"images": [{"url": "x"}]}}]'}],
)  # fmt: skip
def test_odd_messages(message: dict[str, Any]) -> None:
    for action in ("start-workflow", "continue-workflow"):
        with pytest.raises(FailureError, match=next(iter(message))):
            check_run_message({"action": action} | message)
    check_run_message({"action": "ping"} | message)


def test_messages() -> None:
    requirements = [{"user_input": {"url": "x"}, "tool_args": {"filepath": "x"}}]
    good = {"workflow_id": "x", "message": "x", "session_id": None, "version": 1}
    for more in ({}, {"step_requirements": requirements}, {"step_requirements": ""}):
        check_run_message({"action": "continue-workflow"} | good | more)


def test_the_log_holds_no_prompts(asked: Service) -> None:
    """Agno sets the level of its loggers with each run."""
    for way in ("plain", "stream", "background", "background stream"):
        run(asked, way, f"{PROMPT} where?", "agents/stack-guide")
    refused(asked, AGENT, {"message": PROMPT, "session_state": PROMPT})
    completed(asked, WORKFLOW, data={"message": PROMPT})
    completed(asked, AGENT, data={"message": PROMPT})
    lines = [json.loads(line) for line in asked.log().splitlines() if line.startswith("{")]
    assert {line["level"] for line in lines if line["logger"].startswith("agno")} <= {
        "ERROR",
        "WARNING",
    }
    assert PROMPT not in asked.log()
    assert KEY not in asked.log()


@pytest.mark.parametrize(
    ("level", "kept"),
    [("debug", 10), ("info", 30), ("warning", 30), ("error", 40), ("critical", 50)],
)
def test_the_level_of_agno(level: str, kept: int) -> None:
    options = dict(logs.log_config(level, "json")["filters"]["agno_level"])
    assert options.pop("()") == "agentos.logs.AgnoLevel"
    keep = logs.AgnoLevel(**options)
    for number in (10, 20, 30, 40, 50):
        for name in ("agno", "agno-team", "agno-workflow", "agno.x"):
            assert keep.filter(record(name, number)) is (number >= kept)
        assert keep.filter(record("agnostic", number))


def record(name: str, level: int) -> logging.LogRecord:
    """Make a record."""
    return logging.LogRecord(name, level, "", 0, "", None, None)


def needed() -> set[str]:
    """Give the distributions that requirements.txt installs."""
    lines = (AGENTS / "requirements.txt").read_text().splitlines()
    stated = [line.partition("#")[0].strip() for line in lines]
    return {normal(Requirement(line).name) for line in stated if line}


def normal(name: str) -> str:
    """Give a distribution's name in the one form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_requirements_need_no_others() -> None:
    for name in needed():
        if name == "async-timeout" and sys.version_info >= (3, 11, 3):
            continue
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert normal(requirement.name) in needed(), (name, line)


# Writes down at its end which modules it has loaded.
MODULES = """
import json, os, sys
import agentos.app
from agentos.__main__ import run

end_runs = agentos.app.end_runs

async def write_down(*limits):
    with open(os.environ["MODULES"], "w") as file:
        json.dump(sorted(sys.modules), file)
    await end_runs(*limits)

agentos.app.end_runs = write_down
raise SystemExit(run())
"""


@pytest.mark.parametrize("provider", ["own server", "Anthropic"])
def test_nothing_runs_that_requirements_lack(
    environment: dict[str, str], model: FakeModel, tmp_path: Path, provider: str
) -> None:
    variables = {name: text.format(model.url) for name, text in PROVIDERS[provider].items()}
    file = tmp_path / "modules"
    variables["MODULES"] = str(file)
    with serving(environment | variables, program=("-c", MODULES)) as service:
        item = json.dumps([{"content": "JVBERi0xLjQ=", "mime_type": "application/pdf"}])
        completed(service, AGENT, data={"input_files": item, "metadata": "{}"})
        completed(service, WORKFLOW)
        service.stop()
    origins = packages_distributions()
    loaded = {name.partition(".")[0] for name in json.loads(file.read_text())}
    assert {"agno", "fastapi", "uvicorn", "sqlalchemy"} <= loaded
    # What psycopg[binary] brings, and what every environment has.
    there = {"psycopg_binary", "_distutils_hack"}
    lacking = {
        name: origins[name]
        for name in loaded - sys.stdlib_module_names - there
        if name in origins and needed().isdisjoint(map(normal, origins[name]))
    }
    assert lacking == {}
