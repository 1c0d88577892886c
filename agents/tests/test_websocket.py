"""WebSocket connections: who may open one, and how much one may ask."""

from typing import Any

import pytest
from agentos.websocket import LOGIN_ATTEMPTS, LOGIN_CHARACTERS
from websockets.exceptions import InvalidStatus

from tests.servers import Service
from tests.websocket import authenticate, opened, said, send, until_closed, wait_for


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://localhost:3000", 101),
        ("https://os.agno.com", 101),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:3002", 403),
    ],
)
def test_origins(service: Service, origin: Any, status: int) -> None:
    """A page of any site can open a WebSocket; only those that CORS allows may."""
    try:
        with opened(service, origin=origin) as socket:
            assert said(socket)["event"] == "connected"
            found = 101
    except InvalidStatus as refusal:
        found = refusal.response.status_code
    assert found == status


def test_nothing_is_done_before_a_token(service: Service) -> None:
    with opened(service) as socket:
        said(socket)
        messages = [{"action": "start-workflow", "workflow_id": "stack-check"}] * 20
        events = until_closed(socket, *messages)
        assert socket.close_code == 1008
    assert [event["event"] for event in events] == [
        *["auth_required"] * LOGIN_ATTEMPTS,
        "auth_error",
    ]


def test_a_long_message_needs_a_token(service: Service) -> None:
    long = {"action": "ping", "x": "y" * LOGIN_CHARACTERS}
    with opened(service) as socket:
        said(socket)
        send(socket, long)
        assert said(socket)["event"] == "auth_error"
        authenticate(socket)
        send(socket, long)
        wait_for(socket, "pong")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_message_has_a_limit(service: Service, compressed: bool) -> None:
    """A message that unpacks to a thousand times its size would take the memory of all."""
    with opened(service, compression="deflate" if compressed else None) as socket:
        said(socket)
        assert socket.protocol.extensions == []
        until_closed(socket, {"action": "ping", "x": [{}] * 200_000})
        assert socket.close_code == 1009
    assert service.get("/health").status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        {"message": {}},
        {"message": "x", "session_id": 1},
        {"message": "x", "step_requirements": '[{"step_input": {"files": [{"url": "x"}]}}]'},
    ],
)
def test_a_run_takes_sound_values(service: Service, message: dict[str, Any]) -> None:
    with opened(service) as socket:
        authenticate(socket)
        send(socket, {"action": "start-workflow", "workflow_id": "stack-check"} | message)
        assert wait_for(socket, "error")["error"]["code"] == "invalid_request"
        send(socket, {"action": "ping"})
        wait_for(socket, "pong")
