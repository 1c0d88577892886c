"""Answers that are true: nothing is confirmed that was not stored.

It stands around Agno's application. Before a request it asks whether the servers that the request
needs serve; if not, the answer is 503. During the request `storage` notes in the context what went
wrong; then the answer becomes that error, however Agno would have put it.
"""

import asyncio
import json
import re
from collections import deque
from collections.abc import Iterable
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
# The run that a message over a WebSocket is about; the events of agents within have others too.
# The messages over a WebSocket that store nothing, and those that end a run.
_INSTANT = frozenset({"authenticate", "ping"})
_ENDED = re.compile(r'"event": ?"(?:Workflow(?:Completed|Error|Cancelled|Paused)|error)"')
_RUN_ID = re.compile(r'"run_id": ?("[^"\\]*")')

# How soon it is told that the storage failed of a run that Agno says no more of.
WATCH_S = 0.25

REDIS_AWAY = Failure(503, "storage_unavailable", "Redis does not serve now. Try again.")


class Honesty:
    """Turns answers into errors while, or if, the servers behind them fail."""

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        """Stand before `app`; ask `readiness` about the servers."""
        self._app = app
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket connection."""
        if scope["type"] == "http":
            await self._serve_http(scope, receive, send)
        elif scope["type"] == "websocket":
            socket = _Socket(self._readiness, receive, send)
            try:
                await self._app(scope, socket.receive, socket.send)
            finally:
                socket.close()
        else:
            await self._app(scope, receive, send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        needs = _needs(scope["method"], scope["path"])
        failure = await _unavailable(self._readiness, needs) if needs else None
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


async def _unavailable(readiness: Readiness, needs: Iterable[str]) -> Failure | None:
    checks = await readiness.recent()
    reasons = [f"{name}: {checks[name].reason}" for name in needs if not checks[name].ok]
    if not reasons:
        return None
    message = f"{'; '.join(reasons)}. Nothing was stored. Try again."
    return Failure(503, "storage_unavailable", message)


class _Answer:
    """An HTTP answer, held back as long as it may turn out to be untrue.

    A plain answer is held back whole; one that tells of an error is held back until the
    application has returned, since it may turn out which error it was. A stream begins with its
    first event; of its events only those that confirm are held back, to its end.
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
        if last or (self._streams and not _FINAL.search(message.get("body", b""))):
            await self._release()

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
        event = f"event: error\ndata: {json.dumps(_event(failure))}\n\n".encode()
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


def _noted() -> Failure | None:
    current = context.current()
    return current.failure if current is not None else None


class _Socket:
    """A WebSocket connection, each message of which is a request of its own."""

    def __init__(self, readiness: Readiness, receive: Receive, send: Send) -> None:
        self._readiness, self._receive, self._send = readiness, receive, send
        # For each message whose run goes on, by the id of its context, what watches over it.
        self._watches: dict[int, asyncio.Task[None]] = {}
        # The contexts whose failure was told, of the last messages.
        self._told: deque[context.Context] = deque(maxlen=32)

    async def receive(self) -> Message:
        """Give the next message that can be served, and answer those that cannot."""
        while True:
            message = await self._receive()
            if message["type"] != "websocket.receive":
                self.close()
                return message
            action, failure = await self._look(message)
            if failure is None:
                self._begin(runs=action not in _INSTANT)
                return message
            await self._tell(failure)

    def close(self) -> None:
        """Watch over nothing any longer."""
        for watch in self._watches.values():
            watch.cancel()
        self._watches.clear()

    async def _look(self, message: Message) -> tuple[str, Failure | None]:
        try:
            request = json.loads(message.get("text") or "")
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("action"), str):
            refusal = 'A message is a JSON object with an "action".'
            return "", Failure(400, "invalid_request", refusal)
        action = request["action"]
        if action in _INSTANT:
            return action, None
        return action, await _unavailable(self._readiness, ("postgresql", "redis"))

    def _begin(self, *, runs: bool) -> None:
        """Give a message a context of its own: what fails in its run is not the next one's."""
        before = context.current()
        if before is None:
            return
        current = context.begin(before.request_id)
        current.tenant, current.subject = before.tenant, before.subject
        if runs:
            self._watches[id(current)] = asyncio.create_task(self._watch(current))

    async def _watch(self, current: context.Context) -> None:
        """Tell that the storage failed, even if Agno has no more to say of the run."""
        while current.failure is None:
            await asyncio.sleep(WATCH_S)
        await self._tell_once(current, current.failure)

    def _unwatch(self, current: context.Context) -> None:
        watch = self._watches.pop(id(current), None)
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()

    async def send(self, message: Message) -> None:
        """Send a message, or in its place, once for each run, that the storage failed."""
        current = context.current()
        if message["type"] != "websocket.send" or current is None:
            await self._send(message)
            return
        text = message.get("text") or ""
        if current.failure is not None:
            run = _RUN_ID.search(text)
            await self._tell_once(current, current.failure, json.loads(run[1]) if run else None)
            return
        if _ENDED.search(text):
            self._unwatch(current)
        await self._send(message)

    async def _tell_once(
        self, current: context.Context, failure: Failure, run_id: str | None = None
    ) -> None:
        self._unwatch(current)
        if not any(told is current for told in self._told):
            self._told.append(current)
            await self._tell(failure, run_id)

    async def _tell(self, failure: Failure, run_id: str | None = None) -> None:
        event = _event(failure)
        if run_id is not None:
            event["run_id"] = run_id
        await self._send({"type": "websocket.send", "text": json.dumps(event)})


def _event(failure: Failure) -> dict[str, Any]:
    event: dict[str, Any] = {
        "event": "error",
        "error": {"code": failure.code, "message": failure.message},
    }
    if failure.status == 503:
        event["retry_after"] = RETRY_AFTER_S
    return event
