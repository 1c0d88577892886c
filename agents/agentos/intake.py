"""What a request must be before Agno sees it.

Agno passes on whatever it is given, and what PostgreSQL cannot store, or JSON cannot hold, fails
late: in the middle of a run, or while the answer is written. It is refused here.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException, Request
from fastapi.params import Form
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentos.errors import Failure, FailureError

# In bytes: room for the files that are sent to an agent.
BODY_LIMIT = 10 * 1024 * 1024
# Agno counts pages from 1, but lets 0 through; and it would read a whole table into memory. A page
# times a limit is an SQL bigint.
RANGES = {"page": (1, 2**31 - 1), "limit": (1, 1000)}
# It would delete files from where there are none; Agno answers 503, as if that could change.
REFUSED = frozenset({"delete_media"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


def _iso_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class Summary(BaseModel):
    """The summary of a session, as Agno can store it and read it again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    summary: str
    topics: list[str] | None = None
    updated_at: Annotated[str, AfterValidator(_iso_time)] | None = None


class BodyLimit:
    """Refuses a request body above BODY_LIMIT with 413, without reading more of it."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before `app`, which must answer an HTTPException."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; count what is read of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0

        async def limited_receive() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > BODY_LIMIT:
                raise HTTPException(413, f"A body may have up to {BODY_LIMIT} bytes.")
            return message

        await self._app(scope, limited_receive, send)


async def check_values(connection: HTTPConnection) -> None:
    """Refuse values in the path, the query and the body that Agno cannot work with.

    Args:
        connection: the request, its route known and its body parsed.

    Raises:
        FailureError: a value is refused.
    """
    scope = connection.scope
    for raw in (scope.get("raw_path") or b"", scope["query_string"]):
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise FailureError(
                Failure(400, "invalid_request", "The URL is not in UTF-8.")
            ) from None
    query = connection.query_params.multi_items()
    _check("path", connection.path_params)
    _check("query", query)
    for name, value in query:
        _check_range(name, value)
        if name in REFUSED and value.lower() not in _FALSE:
            raise _invalid(f"query.{name}: there is no storage for media here.")
    if dict(query).get("session_id") == "":
        raise _invalid("query.session_id: must not be empty.")
    route = scope["route"]
    if isinstance(connection, Request) and route.body_field is not None:
        body = await _parsed_body(connection, isinstance(route.body_field.field_info, Form))
        _check_operation(route.operation_id, body)


async def _parsed_body(request: Request, is_form: bool) -> object:
    """Give a body, its values checked. Starlette keeps what it has parsed."""
    if is_form:
        form = await request.form()
        _check("body", form.multi_items())
        return form
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        return None  # the route says what is wrong with it
    _check("body", body)
    return body


def _check_operation(operation: str | None, body: object) -> None:
    """Refuse what single operations would end in an exception for."""
    if not isinstance(body, Mapping):
        return
    if operation == "continue_workflow_run" and not body.get("session_id"):
        raise _invalid("body.session_id: is required.")
    if operation == "update_session" and body.get("summary") is not None:
        try:
            Summary.model_validate(body["summary"])
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(str(part) for part in ("body", "summary", *first["loc"]))
            raise _invalid(f"{path}: {first['msg']}") from None


def _check(where: str, value: object) -> None:
    for leaf in _leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise _invalid(f"{where}: a number must be finite.")
        if isinstance(leaf, str) and not _can_be_stored(leaf):
            raise _invalid(f"{where}: a text holds a NUL character, or half a character.")


def _leaves(value: object) -> Iterator[object]:
    """Give all keys and values within a value; without recursion, so that depth is no matter."""
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest.extend(value)
            rest.extend(value.values())
        elif isinstance(value, list | tuple):
            rest.extend(value)
        else:
            yield value


def _can_be_stored(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _check_range(name: str, value: str) -> None:
    if name not in RANGES:
        return
    low, high = RANGES[name]
    try:
        fits = low <= float(value) <= high
    except ValueError:
        return  # the route says so
    if not fits:
        raise _invalid(f"query.{name}: must be {low} to {high}.")


def _invalid(message: str) -> FailureError:
    return FailureError(Failure(422, "invalid_request", message))
