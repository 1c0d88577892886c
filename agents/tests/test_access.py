"""Scopes: what a token permits on each of Agno's routes."""

import json
from collections.abc import Iterator

import httpx
import pytest
from agentos.access import SCOPES
from agno.os.scopes import get_default_scope_mappings, get_required_scopes_for_route

from tests.servers import PATIENCE_S, Service, serving, wait_until
from tests.test_tokens import CLIENT, websocket_events
from tests.tokens import token

RUNS = "/workflows/stack-check/runs"
# What any token may see: it tells nothing about anyone.
OPEN = {("GET", "/info")}


@pytest.fixture(scope="module")
def with_agents(environment: dict[str, str]) -> Iterator[Service]:
    """Give AgentOS with a model, and so with the routes of agents; nobody answers as the model."""
    model = {"AGENTOS_MODEL_URL": "http://127.0.0.1:9/v1", "AGENTOS_MODEL": "none"}
    with serving(environment | model) as service:
        yield service


def routes(service: Service) -> list[tuple[str, str]]:
    """Give each method and path that needs a token."""
    paths = service.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path)
        for path, item in paths.items()
        for method, operation in item.items()
        if operation.get("security") and path != "/metrics"
    ]


def ask(service: Service, method: str, path: str, *scopes: str) -> httpx.Response:
    """Ask for a path with a token that has these scopes."""
    path = path.replace("{", "").replace("}", "").replace("workflow_id", "stack-check")
    path = path.replace("agent_id", "stack-guide").replace("user_id", "scopes|alice")
    headers = {"Authorization": f"Bearer {token('scopes', scopes=list(scopes))}"}
    return CLIENT.request(method, service.url + path, headers=headers)


def needed(method: str, path: str) -> list[str]:
    """Say which scopes a route needs."""
    path = path.replace("{", "").replace("}", "")
    return get_required_scopes_for_route(get_default_scope_mappings() | SCOPES, method, path)


def test_every_route_needs_a_token_and_a_scope(with_agents: Service) -> None:
    found = routes(with_agents)
    groups = {path.split("/")[1] for _, path in found}
    assert {"agents", "workflows", "sessions", "memories", "learnings", "approvals"} <= groups
    for method, path in (*found, *((method, f"{path}/") for method, path in found)):
        assert CLIENT.request(method, with_agents.url + path).status_code == 401, (method, path)
        if (method, path.rstrip("/")) in OPEN:
            continue
        assert needed(method, path.rstrip("/")), (method, path)
        answer = ask(with_agents, method, path, "nosuch:read", "scopes:*:run")
        assert answer.status_code == 403, (method, path, answer.text)
        assert list(answer.json()) == ["error"]
        assert answer.json()["error"]["code"] == "forbidden"


def test_each_route_is_content_with_its_scope(with_agents: Service) -> None:
    for method, path in routes(with_agents):
        kind = path.split("/")[1]
        # Reading a run also needs the scope to run: its input and output are as good as the run.
        also = (
            [f"{kind}:run"] if "/runs" in path and kind in ("agents", "teams", "workflows") else []
        )
        answer = ask(with_agents, method, path, *needed(method, path), *also)
        assert answer.status_code not in (401, 403, 500), (method, path, answer.text)


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("workflows:run", 200),
        ("workflows:*:run", 200),
        ("workflows:stack-check:run", 200),
        ("agent_os:admin", 200),
        ("workflows:other:run", 403),
        ("workflows:read", 403),
        ("workflows:write", 403),
        ("agents:run", 403),
        ("workflows:", 403),
        ("*:*", 403),
        ("*", 403),
        ("admin", 403),
        ("workflows:run:", 403),
        ("Workflows:Run", 403),
        ("", 403),
    ],
)
def test_scopes_of_a_run(service: Service, scope: str, status: int) -> None:
    sent = token("scopes", scopes=[scope])
    with service.client(sent) as client:
        answer = client.post(RUNS, data={"message": "hello", "stream": "false"})
    assert answer.status_code == status, answer.text
    login = {"action": "authenticate", "token": sent}
    # Without a run_id it does not begin.
    resume = {"action": "continue-workflow", "workflow_id": "stack-check"}
    *_, event, _pong = websocket_events(service, login, resume)
    refused = event["error"] == "Insufficient permissions to continue this workflow"
    assert refused is (status == 403)


@pytest.mark.parametrize("scopes", [None, [], ""])
def test_no_scopes(service: Service, scopes: object) -> None:
    with service.client(token("scopes", scopes=scopes)) as client:
        assert client.get("/config").status_code == 403
        assert client.post(RUNS, data={"message": "hello"}).status_code == 403
        assert client.get("/workflows").status_code == 403
        assert client.get("/info").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "//config",
        "/config/",
        "/config//",
        "/CONFIG",
        "/%63onfig",
        "/./config",
        "/health/../config",
        "/config;x",
    ],
)
def test_no_way_around(service: Service, path: str) -> None:
    for sent in (None, token("scopes", scopes=[])):
        with service.client(sent) as client:
            answer = client.send(
                httpx.Request(
                    "GET", client.base_url.copy_with(raw_path=path.encode()), headers=client.headers
                )
            )
        assert answer.status_code in (307, 401, 403, 404), answer.text
        assert "os_id" not in answer.text


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT", "TRACE"])
def test_other_methods_need_a_token_too(service: Service, method: str) -> None:
    assert httpx.request(method, service.url + "/config", timeout=PATIENCE_S).status_code == 401


@pytest.mark.parametrize("principal", ["sa:x", "__scheduler__", "__oauth__:x"])
def test_a_token_cannot_name_one_of_agnos_own_principals(service: Service, principal: str) -> None:
    with service.client(token("scopes", principal)) as client:
        form = {"message": "hello", "stream": "false", "session_id": f"of {principal}"}
        run = client.post(RUNS, data=form, headers={"X-Agno-Schedule-Owner": "scopes|alice"})
    assert run.json()["user_id"] == f"scopes|{principal}"
    with service.client(token("scopes", "alice")) as client:
        found = client.get(f"/sessions/of {principal}", params={"type": "workflow"})
    assert found.status_code == 404


@pytest.mark.parametrize(
    "field",
    ["auth_token", "background_tasks", "enable_websocket", "input", "run_id", "websocket"],
)
@pytest.mark.parametrize("multipart", [False, True])
def test_fields_that_are_not_a_clients(service: Service, field: str, multipart: bool) -> None:
    form = {"message": "hello", "stream": "false", field: "x"}
    with service.client(token("scopes")) as client:
        if multipart:
            answer = client.post(RUNS, files={name: (None, form[name]) for name in form})
        else:
            answer = client.post(RUNS, data=form)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == f"body.{field}: there is no such field."


def test_log_of_a_refusal(service: Service) -> None:
    sent = token("scopes", "mallory", scopes=[])
    with service.client(sent) as client:
        request_id = client.get("/config").headers["x-request-id"]
    wait_until(lambda: request_id in service.log())  # written after the answer
    lines = [json.loads(line) for line in service.log().splitlines() if request_id in line]
    assert {line.get("tenant") for line in lines} == {"scopes"}
    assert {line.get("subject") for line in lines} == {"mallory"}
    assert sent not in service.log()
