"""Answers that are true: nothing is confirmed that was not stored.

It stands around Agno's application. Before a request it asks whether the servers that the request
needs serve; if not, the answer is 503. During the request `storage` notes in the context what went
wrong; then the answer becomes that error, however Agno would have put it.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from redis import RedisError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentos import context
from agentos.errors import RETRY_AFTER_S, Failure
from agentos.probes import Readiness

# What is answered from the process's memory alone.
STATELESS = frozenset({"/agents", "/config", "/info", "/teams", "/workflows"})
# What also needs Redis: runs, whose events and cancellation go through it.
_RUN = re.compile(r"/(?:agents|teams|workflows)/[^/]+/runs(?:/.*)?")
# The last events of a stream: they say that a run has ended well, and are held back until it has.
_FINAL = re.compile(rb"^event: (?:Run|TeamRun|Workflow)Completed\r?$", re.MULTILINE)
REDIS_AWAY = Failure(503, "storage_unavailable", "Redis does not serve now. Try again.")


class Honesty:
    """Turns answers into errors while, or if, the servers behind them fail."""

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        """Stand before `app`; ask `readiness` about the servers."""
        self._app = app
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; WebSockets have their own guard (see `websocket`)."""
        if scope["type"] == "http":
            await self._serve_http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        needs = _needs(scope["method"], scope["path"])
        failure = await unavailable(self._readiness, needs) if needs else None
        if failure is not None:
            await failure.response()(scope, receive, send)
            return
        answer = _Answer(scope, receive, send)
        try:
            await self._app(scope, receive, answer.send)
        except RedisError:
            await answer.finish(REDIS_AWAY)
        finally:
            await answer.finish()


def _needs(method: str, path: str) -> tuple[str, ...]:
    if method == "OPTIONS" or (method in ("GET", "HEAD") and path in STATELESS):
        return ()
    if method == "POST" and _RUN.fullmatch(path):
        return ("postgresql", "redis")
    return ("postgresql",)


async def unavailable(readiness: Readiness, needs: Sequence[str]) -> Failure | None:
    """Say what is wrong with the servers that are needed, if something is."""
    checks = await readiness.recent(needs)
    reasons = [f"{name}: {checks[name].reason}" for name in needs if not checks[name].ok]
    if not reasons:
        return None
    message = f"{'; '.join(reasons)}. Nothing was stored. Try again."
    return Failure(503, "storage_unavailable", message)


class _Answer:
    """An HTTP answer, held back as long as it may turn out to be untrue.

    A plain answer is held back whole; one that tells of an error is held back until the
    application has returned, since it may turn out which error it was. A stream begins with its
    first event; of its events only those that confirm are held back, to its end or the next event.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._held: list[Message] = []
        self._status = 0
        self._streams = False
        self._started = False
        self._ended = False

    async def send(self, message: Message) -> None:
        """Take a message of the application's."""
        if self._ended:
            return
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._streams = kind.startswith("text/event-stream")
            self._status = message["status"]
            self._held.append(message)
            return
        failure = _noted()
        if failure is not None:
            await self._end_with(failure)
            return
        self._held.append(message)
        last = not message.get("more_body", False)
        if last and self._status >= 500:
            return
        body = message.get("body", b"")
        if last or (self._streams and not _FINAL.search(body) and not self._is_silence(body)):
            await self._release()

    def _is_silence(self, body: bytes) -> bool:
        """Say whether a comment, which keeps a stream alive, follows a confirmation held back."""
        return body.startswith(b":") and self._started and bool(self._held[:-1])

    async def finish(self, failure: Failure | None = None) -> None:
        """Send what is held back, or a failure, once the application has returned."""
        failure = _noted() or failure
        if self._ended:
            return
        if failure is not None:
            await self._end_with(failure)
        elif self._held and not self._held[-1].get("more_body", True):
            await self._release()

    async def _release(self) -> None:
        for held in self._held:
            self._started = True
            await self._send(held)
            self._ended = held["type"] == "http.response.body" and not held.get("more_body")
        self._held.clear()

    async def _end_with(self, failure: Failure) -> None:
        self._ended = True
        self._held.clear()
        if not self._started:
            await failure.response()(self._scope, self._receive, self._send)
            return
        event = f"event: error\ndata: {json.dumps(event_of(failure))}\n\n".encode()
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


def _noted() -> Failure | None:
    current = context.current()
    return current.failure if current is not None else None


def event_of(failure: Failure) -> dict[str, Any]:
    """Make an event of a failure, for a stream or a WebSocket."""
    event: dict[str, Any] = {
        "event": "error",
        "error": {"code": failure.code, "message": failure.message},
    }
    if failure.status == 503:
        event["retry_after"] = RETRY_AFTER_S
    return event
