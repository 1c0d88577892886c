"""WebSocket connections that the tests open."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.servers import PATIENCE_S, Service
from tests.tokens import token


@contextmanager
def opened(service: Service, **options: Any) -> Iterator[ClientConnection]:
    """Open a connection, whose first event is still to be received."""
    url = f"ws://127.0.0.1:{service.port}/workflows/ws"
    with connect(url, proxy=None, open_timeout=PATIENCE_S, **options) as socket:
        yield socket


def send(socket: ClientConnection, message: object) -> None:
    """Send a message, as JSON."""
    socket.send(json.dumps(message))


def said(socket: ClientConnection) -> dict[str, Any]:
    """Receive an event."""
    return dict(json.loads(socket.recv(PATIENCE_S)))


def wait_for(socket: ClientConnection, event: str) -> dict[str, Any]:
    """Receive events until there is one of a kind."""
    while True:
        found = said(socket)
        if found["event"] == event:
            return found


def authenticate(socket: ClientConnection) -> None:
    """Send a user's token, and receive all up to the answer that it is good."""
    send(socket, {"action": "authenticate", "token": token()})
    for _ in range(2):  # Agno says it twice
        wait_for(socket, "authenticated")


def until_closed(socket: ClientConnection, *messages: object) -> list[dict[str, Any]]:
    """Send messages, and give all events up to the end of the connection, which the service ends.

    It may do so before the last message is sent, which then is nobody's any more.
    """
    with suppress(ConnectionClosed):
        for message in messages:
            send(socket, message)
    events = []
    with suppress(ConnectionClosed):
        while True:
            events.append(said(socket))
    return events
