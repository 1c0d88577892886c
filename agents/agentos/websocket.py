"""WebSocket connections: who may say what on one, and what is told of the runs begun there.

It stands around Agno's application, which does what a message asks for. From top to bottom:
connections are counted; each message is read, and goes on with a context of its own if it may; and
each event that comes back is looked at, so that it is true, discreet and for a token that is valid.
"""

import asyncio
import json
import logging
import re
import sys
import time
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from agno.exceptions import InputCheckError, OutputCheckError
from jwt import InvalidTokenError
from redis import RedisError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentos import context
from agentos.access import is_jwt
from agentos.context import Context
from agentos.errors import FAILED, Failure, FailureError
from agentos.honesty import REDIS_AWAY, event_of, unavailable
from agentos.intake import check_run_message
from agentos.probes import Readiness
from agentos.tokens import LEEWAY_S, Tokens

# Of the process.
CONNECTIONS = 200
# What a connection has until a token of it is verified: so long, so many messages that are
# refused, and so many characters for each.
LOGIN_S = 10
LOGIN_ATTEMPTS = 5
LOGIN_CHARACTERS = 16 * 1024
# Of a connection, at once.
RUNS = 16
# How soon it is told that the storage failed of a run that Agno says no more of.
TELL_S = 0.25

# The messages that begin or go on with a run, and the events that end one.
_RUN = frozenset({"start-workflow", "continue-workflow"})
_ENDS = frozenset(
    {"WorkflowCompleted", "WorkflowError", "WorkflowCancelled", "WorkflowPaused", "error"}
)
# The run that an event is about, the first in it; the events of agents within have others too.
_RUN_ID = re.compile(r'"run_id": ?("[^"\\]*")')
# Exceptions whose text is for the client.
_DISCREET = (FailureError, InputCheckError, InvalidTokenError, OutputCheckError)
# How long it is waited at most before the time is looked at again.
_DAY_S = 24 * 3600
# Close codes (RFC 6455).
_GOING_AWAY, _POLICY, _INTERNAL = 1001, 1008, 1011
# Of other codes, the usual ones among them, Agno logs a traceback.
_GONE = {"type": "websocket.disconnect", "code": _GOING_AWAY}

_FULL = Failure(503, "too_many_connections", "There are too many WebSocket connections. Try again.")
_UNREADABLE = Failure(400, "invalid_request", 'A message is a JSON object with an "action".')
_BUSY = Failure(
    429, "too_many_requests", f"A connection may have {RUNS} runs at once. Wait for one to end."
)
_BROKEN = Failure(500, "internal_error", FAILED)

_Event = dict[str, Any]

logger = logging.getLogger(__name__)


class WebSockets:
    """Serves WebSocket connections, and passes everything else on."""

    def __init__(self, app: ASGIApp, tokens: Tokens, readiness: Readiness) -> None:
        """Stand before `app`; ask `readiness` about the servers."""
        self._app = app
        self._tokens = tokens
        self._readiness = readiness
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection from its beginning to its end."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        if self._open >= CONNECTIONS:
            await _FULL.response()(scope, receive, send)
            return
        connection = _Connection(self._tokens, self._readiness, receive, send)
        self._open += 1
        try:
            await self._app(scope, connection.receive, connection.send)
            await connection.finish()
        finally:
            self._open -= 1
            connection.end()


class _Connection:
    """A connection, each message of which is a request of its own."""

    def __init__(self, tokens: Tokens, readiness: Readiness, receive: Receive, send: Send) -> None:
        self._tokens, self._readiness = tokens, readiness
        self._receive, self._send = receive, send
        # That of the last message; whose connection this is, it knows from the messages before.
        self._context = context.current() or context.begin()
        self._login_ends = asyncio.get_running_loop().time() + LOGIN_S
        self._refused = 0
        self._accepted = False
        self._ended = False
        # The runs that go on, by the contexts of their messages, with their ids once they are
        # known. The references are weak: of a run that ends without a word, nothing stays.
        self._runs: WeakKeyDictionary[Context, str | None] = WeakKeyDictionary()
        # Those of whose failure the client knows, and what is about to tell of others.
        self._told: WeakSet[Context] = WeakSet()
        self._telling: set[asyncio.Task[None]] = set()

    # From the client to Agno.

    async def receive(self) -> Message:
        """Give the next message that may be served, and answer those that may not."""
        while (last_word := self._last_word()) is None:
            try:
                async with asyncio.timeout(self._time_left()):
                    message = await self._receive()
            except TimeoutError:
                continue
            if message["type"] == "websocket.disconnect":
                self.end()
                return _GONE
            if message["type"] != "websocket.receive":
                return message
            if self._last_word() is not None:
                continue
            answer = await self._look(message.get("text") or "")
            if answer is None:
                return message
            self._refused += 1
            await self._tell(answer)
        await self._close(last_word)
        return _GONE

    def _is_known(self) -> bool:
        return self._context.expires is not None

    def _has_expired(self) -> bool:
        expires = self._context.expires
        return expires is not None and time.time() > expires + LEEWAY_S

    def _last_word(self) -> _Event | None:
        """Give what there is to say to a connection that has to end now."""
        if self._has_expired():
            return _auth_error("Token has expired", "expired")
        if self._is_known():
            return None
        if self._refused >= LOGIN_ATTEMPTS:
            return _auth_error("Too many messages without a valid token", "too_many_attempts")
        if asyncio.get_running_loop().time() >= self._login_ends:
            return _auth_error("No valid token came in time", "timeout")
        return None

    def _time_left(self) -> float:
        """Give the seconds until the connection may have to end."""
        expires = self._context.expires
        if expires is None:
            return self._login_ends - asyncio.get_running_loop().time()
        now = time.time()
        return min(expires + LEEWAY_S, now + _DAY_S) - now

    async def _look(self, text: str) -> _Event | None:
        """Let a message pass, with a context of its own, or give the answer that refuses it."""
        if not self._is_known() and len(text) > LOGIN_CHARACTERS:
            limit = f"Without a token, a message may have up to {LOGIN_CHARACTERS} characters"
            return _auth_error(limit, "invalid_token")
        request = _read(text)
        if request is None:
            return event_of(_UNREADABLE)
        action = request["action"]
        if action == "authenticate":
            token = request.get("token")
            if not isinstance(token, str) or not is_jwt(token):
                return _auth_error("A token is needed", "invalid_token")
            # Agno's route cannot wait for a key. Until it has verified the token, this counts as
            # refused.
            await self._tokens.prepare(token)
            self._refused += 1
        elif action != "ping":
            refusal = await self._refuse(action)
            if refusal is not None:
                return refusal
            try:
                check_run_message(request)
            except FailureError as error:
                return event_of(error.failure)
        self._begin(runs=action in _RUN)
        return None

    async def _refuse(self, action: str) -> _Event | None:
        """Give the answer to an action that must not be done now."""
        if not self._is_known():
            message = "Authentication required. Send authenticate action with valid JWT."
            return {"event": "auth_required", "error": message}
        if action in _RUN and len(self._runs) >= RUNS:
            return event_of(_BUSY)
        failure = await unavailable(self._readiness, ("postgresql", "redis"))
        return event_of(failure) if failure is not None else None

    def _begin(self, *, runs: bool) -> None:
        """Give a message a context of its own: what fails in its run is not the next one's."""
        before = self._context
        self._context = current = context.begin(before.request_id)
        current.tenant, current.subject = before.tenant, before.subject
        current.expires = before.expires
        if runs:
            self._runs[current] = None
            current.on_failure = self._tell_soon

    # From Agno to the client.

    async def send(self, message: Message) -> None:
        """Send an event, or what is to be said in its place."""
        if self._ended:
            return
        if message["type"] != "websocket.send":
            self._accepted = message["type"] == "websocket.accept"
            if message["type"] == "websocket.close":
                self.end()
            await self._send(message)
            return
        if self._has_expired():
            await self._close(_auth_error("Token has expired", "expired"))
            return
        text = message.get("text") or ""
        current = context.current() or self._context
        if current in self._runs:
            self._runs[current] = self._runs[current] or _run_id(text)
        if current.failure is not None:
            await self._tell_failure(current, _run_id(text))
            return
        if current in self._runs and _kind(text) in _ENDS:
            del self._runs[current]
        error = sys.exception()
        if error is not None:
            text = _discreet(text, error)
        await self._send({"type": "websocket.send", "text": text})

    def _tell_soon(self, current: Context) -> None:
        """See to it that the client learns of a run's failure, even if Agno says no more of it."""
        current.on_failure = None
        if self._ended:
            return
        task = asyncio.create_task(self._tell_later(current))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_later(self, current: Context) -> None:
        await asyncio.sleep(TELL_S)  # Agno's next event, if there is one, names the run
        with suppress(OSError):  # the client is gone
            await self._tell_failure(current)

    async def _tell_failure(self, current: Context, run_id: str | None = None) -> None:
        """Tell that the storage failed, once for each message."""
        run_id = self._runs.pop(current, None) or run_id
        if current.failure is None or current in self._told:
            return
        self._told.add(current)
        event = event_of(current.failure)
        await self._tell(event if run_id is None else event | {"run_id": run_id})

    async def _tell(self, event: _Event) -> None:
        if not self._ended:
            await self._send({"type": "websocket.send", "text": json.dumps(event)})

    # The end.

    async def _close(self, last_word: _Event, code: int = _POLICY) -> None:
        await self._tell(last_word)
        if not self._ended:
            self.end()
            await self._send({"type": "websocket.close", "code": code})

    async def finish(self) -> None:
        """Close the connection if Agno has left it, which it does when it is at a loss."""
        if self._accepted and not self._ended:
            await self._close(event_of(self._context.failure or _BROKEN), _INTERNAL)

    def end(self) -> None:
        """Send nothing any more; runs go on without it."""
        self._ended = True
        for task in self._telling:
            task.cancel()


def _read(text: str) -> _Event | None:
    """Read a message, if it is one."""
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(request, dict) or not isinstance(request.get("action"), str):
        return None
    return request


def _auth_error(reason: str, kind: str) -> _Event:
    return {"event": "auth_error", "error": reason, "error_type": kind}


def _kind(text: str) -> str:
    """Give the kind of an event, which is JSON, or has the form of a server-sent one."""
    if text.startswith("event: "):
        return text.removeprefix("event: ").partition("\n")[0]
    return str(json.loads(text).get("event"))


def _run_id(text: str) -> str | None:
    found = _RUN_ID.search(text)
    return str(json.loads(found[1])) if found else None


def _discreet(text: str, error: BaseException) -> str:
    """Give what may be told of an exception.

    Agno answers most of what it refuses with sentences of its own. But an event that it sends while
    it handles an exception repeats the exception's text, which is for the log; except for those
    that are raised to be told.
    """
    refuses = isinstance(error, HTTPException) and error.status_code < 500
    if refuses or isinstance(error, _DISCREET):
        return text
    logger.error("A WebSocket message failed: %s", error, exc_info=error)
    event = json.loads(text)
    if event["event"] == "auth_error":
        return json.dumps(_auth_error(FAILED, "server_error"))
    told = event_of(REDIS_AWAY if isinstance(error, RedisError) else _BROKEN)
    return json.dumps(told | {key: event[key] for key in event.keys() & {"run_id"}})
