"""What is seen of AgentOS from outside: its log and its metrics."""

import json
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import (
    AUTH_SECRET,
    PATIENCE_S,
    Postgresql,
    RedisServer,
    Service,
    serving,
    wait_until,
)
from tests.tokens import token


def entries(log: str) -> list[dict[str, Any]]:
    """Read a log, each line of which must be a JSON object with the common fields."""
    read = [json.loads(line) for line in log.splitlines()]
    for entry in read:
        assert {"time", "level", "logger", "message"} <= entry.keys()
    return read


def test_log(environment: dict[str, str], postgresql: Postgresql, redis: RedisServer) -> None:
    """It is quiet for probes, tells of each other request, and holds no secret."""
    secret_path = "/sessions?type=workflow&name=a-private-thing"
    bearer = token("acme", "alice")
    with serving(environment | {"AGENTOS_LOG_LEVEL": "debug"}) as service:
        for path in ("/health", "/ready", "/metrics", "/", "/nowhere"):
            service.get(path)
        with service.client(bearer) as client:
            assert client.get(secret_path, headers={"X-Request-ID": "my-1"}).status_code == 200
            run = {"message": "hello", "stream": "false"}
            assert client.post("/workflows/stack-check/runs", data=run).status_code == 200
        service.stop()
        log = service.log()
    requests = [entry for entry in entries(log) if entry["logger"] == "agentos.access"]
    assert [(entry["path"], entry["status"]) for entry in requests] == [
        ("/", 200),
        ("/nowhere", 401),
        ("/sessions", 200),
        ("/workflows/stack-check/runs", 200),
    ]
    assert all(entry["duration_ms"] > 0 for entry in requests)
    assert [entry.get("tenant") for entry in requests] == [None, None, "acme", "acme"]
    assert requests[2]["request_id"] == "my-1"
    assert requests[2]["subject"] == "alice"
    assert requests[3]["route"] == "/workflows/{workflow_id}/runs"
    assert not [entry for entry in entries(log) if entry["level"] in ("ERROR", "CRITICAL")]
    secrets = (AUTH_SECRET, postgresql.password, postgresql.role_password, redis.password, bearer)
    for secret in (*secrets, *environment.values(), "a-private-thing"):
        assert secret not in log


def test_text_log(environment: dict[str, str]) -> None:
    with serving(environment | {"AGENTOS_LOG_FORMAT": "text"}) as service:
        service.get("/")
        wait_until(lambda: "INFO GET / 200" in service.log())  # written after the answer


@pytest.mark.parametrize("given", ["abc-1.2_3", "a b", "x" * 65, "", "a;b"])
def test_request_id(service: Service, given: str) -> None:
    response = httpx.get(service.url, headers=[("X-Request-ID", given)], timeout=PATIENCE_S)
    answered = response.headers["x-request-id"]
    assert (answered == given) == (given == "abc-1.2_3")
    assert 1 <= len(answered) <= 64


def test_errors_have_a_request_id(service: Service) -> None:
    for headers in ({}, {"Host": "evil.test"}):
        response = service.get("/sessions", **headers)
        assert response.status_code >= 400
        assert response.headers["x-request-id"]


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Read metrics: for each name and the values of its labels, in order of their names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(environment: dict[str, str]) -> None:
    with serving(environment) as service:
        bearer = {"Authorization": f"Bearer {token()}"}
        for number in range(3):
            service.get(f"/sessions/unknown-{number}", **bearer)
        for number in range(3):
            service.get(f"/nowhere/{number}", **bearer)
            httpx.request("PROPFIND", service.url, timeout=PATIENCE_S)
        response = service.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    found = samples(response.text)
    # One for the route, however many paths there were.
    assert found["agentos_http_requests_total", ("GET", "/sessions/{session_id}", "404")] == 3
    assert found["agentos_http_requests_total", ("GET", "unknown", "404")] == 3
    assert found["agentos_http_requests_total", ("other", "/", "405")] == 3
    duration = "agentos_http_request_duration_seconds_count"
    assert found[duration, ("GET", "/sessions/{session_id}")] == 3
    assert found["agentos_requests_in_progress", ("http",)] == 1
    assert found["process_resident_memory_bytes", ()] > 0


def test_metrics_from_another_machine_need_a_token(environment: dict[str, str]) -> None:
    """Another address of this machine stands for another machine."""
    with serving(environment) as service:
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=service.url, transport=transport, timeout=PATIENCE_S) as client:
            for bearer, status in (
                (None, 401),
                ("rubbish", 401),
                (token(scopes=["sessions:read"]), 403),
                (token(scopes=["metrics:read"]), 200),
                (token(scopes=["agent_os:admin"]), 200),
            ):
                headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
                response = client.get("/metrics", headers=headers)
                assert response.status_code == status, bearer
                if status != 200:
                    code = {401: "unauthorized", 403: "forbidden"}[status]
                    assert response.json()["error"]["code"] == code
                assert ("www-authenticate" in response.headers) == (status == 401)
