"""What AgentOS answers to what it does not expect, and whether its description tells the truth."""

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from websockets.sync.client import ClientConnection

from tests.servers import AUTH_SECRET, PATIENCE_S, Postgresql, RedisServer, Service
from tests.tokens import token
from tests.websocket import authenticate, opened

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
)
BODY_LIMIT = 10 * 2**20
FORM = "application/x-www-form-urlencoded"
RUN = "/workflows/stack-check/runs"


@pytest.fixture(scope="module")
def user(service: Service) -> Iterator[httpx.Client]:
    """Give a client of a user."""
    with service.client(token()) as client:
        yield client


@pytest.fixture(scope="module")
def admin(service: Service) -> Iterator[httpx.Client]:
    """Give a client of an administrator."""
    with service.client(token(scopes=["agent_os:admin"])) as client:
        yield client


@pytest.fixture(scope="module")
def document(service: Service) -> Any:
    """Give the API's description."""
    return service.get("/openapi.json").json()


def operations(document: Any) -> list[tuple[str, str, Any]]:
    """Give method, path and description of each operation."""
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


@pytest.fixture(scope="module")
def secrets(postgresql: Postgresql, redis: RedisServer) -> list[str]:
    """Give what no answer may hold."""
    passwords = [postgresql.password, postgresql.role_password, redis.password, AUTH_SECRET]
    return [*passwords, "Traceback", "psycopg", "sqlalche", "SELECT ", "site-packages"]


def wrong_with_error(status: int, text: str, secrets: list[str]) -> list[str]:
    """Say what is wrong with an error that an odd request gets."""
    wrong = [f"it holds {secret}" for secret in secrets if secret in text]
    if not 400 <= status < 500:
        wrong.append(f"its status is {status}")
    if len(text) > 2000:
        wrong.append("it is long")
    try:
        match json.loads(text):
            case {"error": {"code": str(code), "message": str(message), **more}, **rest}:
                if not code.isidentifier() or not message or more or rest:
                    wrong.append("its form is not quite the one")
            case _:
                wrong.append("its form is not the one")
    except ValueError:
        wrong.append("it is not JSON")
    return wrong


@pytest.fixture
def ids(admin: httpx.Client) -> dict[str, str]:
    """Give the ids of what is there, all of it alice's, by the names of path parameters."""
    run = admin.post(RUN, data={"message": "x", "stream": "false"}).json()
    memory = {"memory": "x", "topics": ["y"], "user_id": "acme|alice"}
    learning = {"learning_type": "x", "content": {}}
    return {
        "workflow_id": "stack-check",
        "session_id": run["session_id"],
        "run_id": run["run_id"],
        "memory_id": admin.post("/memories", json=memory).json()["memory_id"],
        "learning_id": admin.post("/learnings", json=learning).json()["learning_id"],
    }


def call_every_operation(
    service: Service, client: httpx.Client, phase: str, ids: dict[str, str], secrets: list[str]
) -> int:
    """Call every operation with what Schemathesis makes up, always the same; count the calls.

    Phases: `coverage` gives every parameter every kind of value in turn, `fuzzing` any at once.
    """
    # Else it makes later calls of the answers to earlier ones, which are not always the same.
    unlearned = {"extra-data-sources": {"responses": False}}
    phases: dict[str, dict[str, Any]] = {
        "examples": unlearned,
        "coverage": unlearned,
        "fuzzing": unlearned | {"error-feedback": {"enabled": False}},
        "stateful": {},
    }
    config = {
        "seed": 1,
        "cache": {"enabled": False},
        "request-timeout": PATIENCE_S,
        "continue-on-failure": True,
        "headers": {"Authorization": client.headers["Authorization"]},
        "parameters": {f"path.{name}": value for name, value in ids.items()},
        "generation": {"max-examples": 5, "deterministic": True, "database": "none"},
        "phases": {name: options | {"enabled": name == phase} for name, options in phases.items()},
        "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
    }
    schema = schemathesis.openapi.from_url(
        service.url + "/openapi.json", config=SchemathesisConfig.from_dict(config)
    )
    failures, calls = [], 0
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.FatalError | events.NonFatalError), event
        if not isinstance(event, events.ScenarioFinished):
            continue
        for name, interaction in event.recorder.interactions.items():
            calls += 1
            wrong = [
                check.name
                for check in event.recorder.checks.get(name, ())
                if check.status is Status.FAILURE
            ]
            response = interaction.response
            if response is not None and response.status_code >= 400:
                wrong += wrong_with_error(response.status_code, response.text, secrets)
            if wrong:
                command = event.recorder.cases[name].value.as_curl_command()
                failures.append(f"{wrong}: {response and response.text}\n    {command}")
    assert not failures, "\n".join(failures)
    # Every operation may refuse a token that has expired, so no check would tell.
    assert client.get("/config").status_code == 200
    return calls


def test_every_operation_answers_as_described_to_an_administrator(
    service: Service, admin: httpx.Client, ids: dict[str, str], secrets: list[str]
) -> None:
    assert call_every_operation(service, admin, "coverage", ids, secrets) > 1000


def test_every_operation_answers_as_described_to_a_user(
    service: Service, user: httpx.Client, ids: dict[str, str], secrets: list[str]
) -> None:
    assert call_every_operation(service, user, "fuzzing", ids, secrets) > 250


def test_the_description_is_sound(document: Any) -> None:
    schemathesis.openapi.from_dict(document).validate()
    for name, schema in document["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(schema), name
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names)) > 60
    for method, path, operation in operations(document):
        assert operation["summary"] and operation["description"], (method, path)
        assert len(operation["tags"]) == 1, (method, path)
    for schema in document["components"]["schemas"]:
        assert f'"#/components/schemas/{schema}"' in json.dumps(document), "of no use"


def test_the_websocket_is_described(document: Any) -> None:
    assert "/workflows/ws" in document["info"]["description"]


def test_the_docs_load(service: Service) -> None:
    response = service.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in response.text


def test_a_token_is_needed_where_the_description_says_so(service: Service, document: Any) -> None:
    with service.client() as nobody:
        for method, path, operation in operations(document):
            needed = operation.get("security") == [{"token": []}]
            status = nobody.request(method, path).status_code
            assert (status == 401) is needed, (method, path, status)


@pytest.mark.parametrize(
    "path",
    [
        "/sessions/none",
        "/sessions/a%2Fb",
        "/sessions/%00",
        "/sessions/%ff",
        "/sessions/%",
        "/sessions/%F0%9F%98%80",
        "/sessions/" + "x" * 10_000,
        "/sessions/none/runs/none",
        "/workflows/none",
        "/agents/none",
        "/teams/none",
        "/memories/none",
        "/learnings/none",
        "/nowhere",
        "/sessions?page=0",
        "/sessions?page=-1",
        "/sessions?page=0.0",
        "/sessions?page=x",
        "/sessions?limit=0",
        f"/sessions?page={10**30}",
        f"/memories?limit={10**30}",
        "/learnings?page=1&page=nan",
        "/sessions?db_id=none",
        "/sessions?table=none",
        "/sessions?db_id=agentos&table=none",
        "/sessions?user_id=%00",
        "/sessions?user_id=%ff",
        "/sessions?sort_order=up",
        "/sessions?type=x",
        f"/sessions/none/runs?created_after={10**30}",
        f"{RUN}?session_id=none&factory_input=%7B",
        f"{RUN}/none?session_id=",
        f"{RUN}/none?session_id=none",
    ],
)
def test_a_bad_url_gets_a_4xx(user: httpx.Client, secrets: list[str], path: str) -> None:
    response = user.get(path)
    assert not wrong_with_error(response.status_code, response.text, secrets), response.text


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/sessions?type=agent", "application/json", b"{"),
        ("/sessions?type=agent", "application/json", b"[" * 100_000),
        ("/sessions?type=agent", "application/json", b"[]"),
        ("/sessions?type=agent", "application/json", b'{"session_id": 1}'),
        ("/sessions?type=agent", "application/json", b'{"session_id": "\xff"}'),
        ("/sessions?type=agent", "application/json", b'{"session_id": "\\u0000"}'),
        ("/sessions?type=agent", "application/json", b'{"session_id": "\\ud800"}'),
        ("/sessions?type=agent", "application/json", b'{"metadata": {"\\u0000": 1}}'),
        ("/sessions?type=agent", "application/json", b'{"metadata": {"x": [NaN]}}'),
        ("/sessions?type=agent", "application/json", b'{"metadata": {"x": 1e999}}'),
        ("/sessions?type=agent", "application/json", b'{"metadata": ' + b"9" * 9999 + b"}"),
        ("/sessions?type=agent", "application/json", b" " * (BODY_LIMIT + 1)),
        ("/sessions?type=agent", "text/plain", b"{}"),
        ("/sessions?type=agent", "/", b"{}"),
        ("/sessions?type=agent", FORM, b"session_id=x"),
        ("/sessions?type=none", "application/json", b"{}"),
        ("/memories?db_id=none", "application/json", b'{"memory": "x"}'),
        (RUN, FORM, b""),
        (RUN, FORM, b"message=%00"),
        (RUN, FORM, b"message=" + b"x" * (BODY_LIMIT + 1)),
        (RUN, FORM, b"message=x&stream=perhaps"),
        (RUN, FORM, b"message=x&version=x"),
        (RUN, "application/json", b'{"message": "x"}'),
        (RUN, "multipart/form-data", b"message=x"),
        (RUN, "multipart/form-data; boundary=x", b"message=x"),
        (RUN, "multipart/form-data; boundary=x", b"--x\r\n\r\nx\r\n--x--\r\n"),
        (f"{RUN}/none/continue", FORM, b"session_id=none&step_requirements=%7B"),
        (f"{RUN}/none/continue", "text/plain", b"session_id=none"),
        ("/workflows/none/runs", FORM, b"message=x"),
        ("/agents/none/runs", FORM, b"message=x"),
    ],
)
def test_a_bad_body_gets_a_4xx(
    admin: httpx.Client, user: httpx.Client, secrets: list[str], path: str, kind: str, body: bytes
) -> None:
    for client in (admin, user):
        response = client.post(path, content=body, headers={"Content-Type": kind})
        assert not wrong_with_error(response.status_code, response.text, secrets), response.text


def test_a_body_may_be_large_but_not_endless(user: httpx.Client) -> None:
    def body(size: int) -> Iterator[bytes]:
        yield b'{"memory": "x"'
        for _ in range(size // 2**20):
            yield b" " * 2**20
        yield b"}"

    path = "/memories"
    headers = {"Content-Type": "application/json"}
    assert user.post(path, content=body(BODY_LIMIT - 2**20), headers=headers).status_code == 200
    response = user.post(path, content=body(BODY_LIMIT), headers=headers)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    "summary",
    [{}, {"summary": 1}, {"summary": "x", "topics": "y"}, {"summary": "x", "more": 1},
     {"summary": "x", "updated_at": "never"}, {"summary": "x", "updated_at": 1}, "x"],
)  # fmt: skip
def test_a_bad_summary_of_a_session_gets_a_4xx(
    user: httpx.Client, secrets: list[str], summary: object
) -> None:
    session = user.post("/sessions?type=agent", json={}).json()["session_id"]
    path = f"/sessions/{session}"
    response = user.patch(path, json={"summary": summary})
    assert not wrong_with_error(response.status_code, response.text, secrets), response.text
    good = {"summary": "x", "topics": ["y"], "updated_at": "2026-01-01T00:00:00Z"}
    assert user.patch(path, json={"summary": good}).status_code == 200
    assert user.get(path).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "TRACE", "OPTIONS", "QUERY"])
@pytest.mark.parametrize("path", ["/", "/health", "/config", "/sessions/x/y/z"])
def test_another_method_gets_a_4xx(
    user: httpx.Client, secrets: list[str], method: str, path: str
) -> None:
    response = user.request(method, path)
    assert not wrong_with_error(response.status_code, response.text, secrets), response.text
    assert user.head(path).status_code in (404, 405)


@pytest.mark.parametrize(
    "header",
    [
        b"Authorization: Bearer \xff\xfe",
        b"Authorization: \xff",
        b"Authorization: Bearer a.b.c",
        b"Authorization: Bearer " + b"x." * 20_000,
        b"Authorization: Bearer \xc3\xa4.\xc3\xa4.\xc3\xa4",
        b"Host: \xff",
    ],
)
def test_an_odd_header_gets_a_4xx(service: Service, secrets: list[str], header: bytes) -> None:
    host = b"" if header.startswith(b"Host") else b"Host: localhost\r\n"
    answer = send(service, b"GET /config HTTP/1.1\r\n" + host + header + b"\r\n\r\n")
    assert not wrong_with_error(*answer, secrets), answer


@pytest.mark.parametrize(
    "request_",
    [
        b"FOO-BAR / HTTP/1.1\r\nHost: localhost",
        b"GET / HTTP/9\r\nHost: localhost",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Odd: \x00",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon",
        b"GET /\xff HTTP/1.1\r\nHost: localhost",
        b"\x16\x03\x01",
    ],
)
def test_what_is_not_http_gets_a_400(service: Service, secrets: list[str], request_: bytes) -> None:
    answer = send(service, request_ + b"\r\n\r\n")
    assert answer[0] == 400
    assert not wrong_with_error(*answer, secrets), answer


def send(service: Service, request: bytes) -> tuple[int, str]:
    """Send what may not be HTTP, and give the status and the body of the answer."""
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE_S) as connection:
        connection.sendall(request)
        with HTTPResponse(connection) as response:
            response.begin()
            return response.status, response.read().decode()


@pytest.fixture
def websocket(service: Service) -> Iterator[ClientConnection]:
    """Give a WebSocket connection of a user."""
    with opened(service) as connection:
        authenticate(connection)
        yield connection


@pytest.mark.parametrize(
    "message",
    ["", "x", "[]", "1", "{}", b"\xff", '{"action": 1}', '{"action": "x"}', "[" * 10_000,
     '{"action": "authenticate"}', '{"action": "authenticate", "token": 1}',
     '{"action": "authenticate", "token": "x.y.z"}',
     '{"action": "start-workflow"}', '{"action": "start-workflow", "workflow_id": []}',
     '{"action": "start-workflow", "workflow_id": "none", "message": "x"}',
     '{"action": "start-workflow", "workflow_id": "stack-check", "message": "\\ud800"}',
     '{"action": "reconnect"}', '{"action": "reconnect", "run_id": "x", "workflow_id": {}}',
     '{"action": "continue-workflow"}',
     '{"action": "continue-workflow", "workflow_id": "stack-check", "run_id": 1}'],
)  # fmt: skip
def test_an_odd_websocket_message_is_refused_and_the_next_is_served(
    websocket: ClientConnection, secrets: list[str], message: str | bytes
) -> None:
    websocket.send(message)
    answer = str(websocket.recv(PATIENCE_S))
    assert "error" in json.loads(answer)["event"]
    assert not [secret for secret in secrets if secret in answer]
    websocket.send('{"action": "ping"}')
    assert json.loads(websocket.recv(PATIENCE_S))["event"] == "pong"
