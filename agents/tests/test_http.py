"""What AgentOS answers while all is well, and whom it refuses."""

import socket
import time
from collections.abc import Iterator

import agentos
import httpx
import pytest
from agentos.settings import Settings

from tests.servers import PATIENCE_S, Service, serving
from tests.tokens import token
from tests.trial_app import PROGRAM

ORIGIN = "http://localhost:3000"


@pytest.fixture(scope="module")
def trial(environment: dict[str, str]) -> Iterator[Service]:
    """Give AgentOS with the routes of trial_app.py."""
    with serving(environment, program=PROGRAM) as service:
        yield service


def test_root_says_what_it_is(service: Service) -> None:
    response = service.get("/")
    assert response.status_code == 200
    body = response.json()
    assert (body["name"], body["version"]) == ("agentos", agentos.__version__)
    for link in body["links"].values():
        assert service.get(link).status_code == 200, link


def test_health(service: Service) -> None:
    body = service.get("/health").json()
    assert body["status"] == "ok"
    assert body["version"] == agentos.__version__
    # It is rounded.
    assert 0 <= body["uptime_s"] <= time.monotonic() - service.started + 0.1
    given = {"DATABASE_URL", "REDIS_URL", "BETTER_AUTH_SECRET", "AGENTOS_PORT"}
    assert body["environment"] == {
        name.upper(): name.upper() in given for name in Settings.model_fields
    }


def test_ready(service: Service) -> None:
    response = service.get("/ready")
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "ready"
    assert set(body["checks"]) == {"postgresql", "redis"}
    for check in body["checks"].values():
        assert check["ok"] is True
        assert check["reason"] is None
        assert 0 < check["ms"] < 1500


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 401, "unauthorized"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/number/many", 422, "invalid_request"),
        ("GET", "/broken", 500, "internal_error"),
    ],
)
def test_errors_have_one_form(
    trial: Service, method: str, path: str, status: int, code: str
) -> None:
    response = httpx.request(
        method, trial.url + path, headers={"Origin": ORIGIN}, timeout=PATIENCE_S
    )
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["access-control-allow-origin"] == ORIGIN
    body = response.json()
    assert list(body) == ["error"]
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert "a detail for the log alone" not in response.text
    assert "Traceback" not in response.text


def test_unknown_paths(service: Service) -> None:
    with service.client(token()) as client:
        response = client.get("/nowhere")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def preflight(service: Service, origin: str, path: str = "/", **headers: str) -> httpx.Response:
    """Ask, as a browser does, whether a page of `origin` may send a POST."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", **headers}
    return httpx.options(service.url + path, headers=asked, timeout=PATIENCE_S)


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3001", "https://os.agno.com"])
@pytest.mark.parametrize("path", ["/", "/workflows/stack-check/runs"])
def test_cors_allows_the_platform_and_the_control_plane(
    service: Service, origin: str, path: str
) -> None:
    headers = {
        "Access-Control-Request-Headers": "authorization,content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    response = preflight(service, origin, path, **headers)
    assert response.status_code == 200
    assert response.headers.get_list("access-control-allow-origin") == [origin]
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"]
    assert response.headers["access-control-allow-private-network"] == "true"
    answer = service.get(path, Origin=origin)
    assert answer.headers.get_list("access-control-allow-origin") == [origin]
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize(
    "origin", ["http://localhost:3002", "https://evil.test", "https://agno.com", "null"]
)
@pytest.mark.parametrize("path", ["/", "/sessions"])
def test_cors_refuses_others(service: Service, origin: str, path: str) -> None:
    response = preflight(service, origin, path)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "cors_not_allowed"
    assert "access-control-allow-origin" not in response.headers
    assert "access-control-allow-origin" not in service.get(path, Origin=origin).headers


def test_cors_origins_and_hosts_can_be_set(environment: dict[str, str]) -> None:
    settings = {"AGENTOS_CORS_ORIGINS": "http://a.test:1", "AGENTOS_ALLOWED_HOSTS": "Dev.test"}
    with serving(environment | settings) as service:
        assert preflight(service, "http://a.test:1").status_code == 200
        assert preflight(service, ORIGIN).status_code == 400
        assert service.get("/", Host="dev.test:80").status_code == 200
        assert service.get("/", Host="localhost").status_code == 200
        assert service.get("/", Host="sub.dev.test").status_code == 400


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:7777", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]",
     "[::1]:7777", "agentos", "agentos:7777"],
)  # fmt: skip
def test_own_hosts_are_served(service: Service, host: str) -> None:
    assert service.get("/health", Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.test", "evil.test:7777", "localhost.evil.test", "evil-localhost", "localhost:7777:1",
     "localhost@evil.test", "127.0.0.2", "0.0.0.0", "[::2]", "::1", "[::1", "localhost:x", ""],
)  # fmt: skip
def test_other_hosts_are_refused(service: Service, host: str) -> None:
    for path in ("/", "/health", "/nowhere", "/docs"):
        response = service.get(path, Host=host)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "host_not_allowed"


def test_a_request_without_host_is_refused(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"400"


def test_ipv6(environment: dict[str, str]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(environment | {"AGENTOS_HOST": "::1"}) as service:
        assert service.get("/ready").status_code == 200
