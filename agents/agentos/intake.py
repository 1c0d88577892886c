"""What a request must be before Agno sees it.

Agno passes on whatever it is given. What PostgreSQL cannot store, or JSON cannot hold, fails late:
in the middle of a run, or while the answer is written. And a form's fields become arguments of the
run, of which some turn on its log of prompts, or read files. All of this is refused here.
"""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException, Request
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from starlette.datastructures import FormData, UploadFile
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentos.errors import Failure, FailureError

# In bytes: room for the files that are sent to an agent.
BODY_LIMIT = 10 * 1024 * 1024
# Agno counts pages from 1, but lets 0 through; and it would read a whole table into memory. A page
# times a limit is an SQL bigint.
RANGES = {"page": (1, 2**31 - 1), "limit": (1, 100)}
# It would delete files from where there are none; Agno answers 503, as if that could change.
REFUSED = frozenset({"delete_media"})
# How deep lists and objects may be within each other: what walks through them later recurses.
DEPTH = 100
# For each of a run's lists of media.
MEDIA_COUNT = 32
# Fields of runs that are JSON objects.
OBJECTS = frozenset({"session_state", "dependencies", "metadata"})
_MEDIA = frozenset({"images", "audio", "videos", "input_files"})
# What runs take beside the fields that their routes declare, by operations. `output_schema` is not
# among them: the library that it needs is not here.
RUN_FIELDS = {
    **dict.fromkeys(
        ("create_agent_run", "create_team_run", "create_workflow_run"), OBJECTS | _MEDIA
    ),
    **dict.fromkeys(
        ("continue_agent_run", "continue_team_run"), frozenset({"dependencies", "metadata"})
    ),
}
# Fields that routes declare as text, but which hold JSON.
_JSON_TEXTS = {
    "factory_input": dict,
    "files_metadata": list,
    "requirements": list,
    "step_requirements": list,
    "tools": list,
}
# Where Agno would read media from: a file of this process, or a server that it reaches.
_SOURCES = frozenset({"filepath", "media_reference", "url"})
# In a step's requirements, what a person has filled in; the names in there are the step's own.
_FILLED_IN = frozenset({"tool_args", "user_input"})
_BOUNDARY = re.compile(r"\s*(?:end|last_user|-?[0-9]{1,9})\s*", re.ASCII)
# The messages over a WebSocket that become runs, and the types of what Agno takes from them.
_RUN_MESSAGES = frozenset({"start-workflow", "continue-workflow"})
_MESSAGE_TYPES: dict[str, tuple[type, ...]] = {
    "factory_input": (dict,),
    "message": (str,),
    "run_id": (str,),
    "session_id": (str,),
    "user_id": (str,),
    "version": (int,),
    "workflow_id": (str,),
}
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})

_ShortText = Annotated[str, Field(max_length=255)]


def _iso_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class Summary(BaseModel):
    """The summary of a session, as Agno can store it and read it again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    summary: str
    topics: list[str] | None = None
    updated_at: Annotated[str, AfterValidator(_iso_time)] | None = None


class Media(BaseModel):
    """An image, a recording or a file that comes with a run, all of it within the request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mime_type: _ShortText | None = None
    content: Annotated[str, Field(min_length=1)]
    id: _ShortText | None = None
    format: _ShortText | None = None
    detail: _ShortText | None = None
    filename: _ShortText | None = None
    name: _ShortText | None = None

    @field_validator("content")
    @classmethod
    def _is_base64(cls, content: str, info: ValidationInfo) -> str:
        # Agno takes the content of a text as it is.
        if not (info.data.get("mime_type") or "").startswith("text/"):
            base64.b64decode(content, validate=True)
        return content


_MEDIA_LIST = TypeAdapter(Annotated[list[Media], Field(max_length=MEDIA_COUNT)])


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
        body = await _parsed_body(connection, route)
        _check_operation(route.operation_id, body)


def check_run_message(message: Mapping[str, Any]) -> None:
    """Refuse a message over Agno's WebSocket that starts or continues a run, for what it holds.

    Of such a message Agno reads the fields that it knows, and makes no others arguments of the run.

    Args:
        message: as read from JSON. One that has another action passes.

    Raises:
        FailureError: a value is refused.
    """
    if message.get("action") not in _RUN_MESSAGES:
        return
    _check("message", message)
    for name, types in _MESSAGE_TYPES.items():
        value = message.get(name)
        if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
            raise _invalid(f"{name}: must be {_named(types[0])}.")
    requirements = message.get("step_requirements")
    if isinstance(requirements, str):
        requirements = _read_json("step_requirements", requirements) if requirements else None
    if requirements is not None:
        if not isinstance(requirements, list):
            raise _invalid("step_requirements: must be a JSON array.")
        _check_sources("step_requirements", requirements)


async def _parsed_body(request: Request, route: APIRoute) -> object:
    """Give a body, its values checked. Starlette keeps what it has parsed."""
    assert route.body_field is not None
    if isinstance(route.body_field.field_info, Form):
        form = await request.form()
        _check("body", form.multi_items())
        _check_form(route, form)
        return form
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        return None  # the route says what is wrong with it
    _check("body", body)
    return body


def _check_form(route: APIRoute, form: FormData) -> None:
    """Refuse fields that are not for clients, and those that do not hold what they should."""
    taken = {field.alias for field in route.dependant.body_params}
    more = RUN_FIELDS.get(route.operation_id or "", frozenset())
    for name, value in form.multi_items():
        where = f"body.{name}"
        if name not in taken | more:
            raise _invalid(f"{where}: there is no such field.")
        if isinstance(value, UploadFile):
            _check(where, [value.filename, value.content_type])
        if name == "continue_from" and not (isinstance(value, str) and _BOUNDARY.fullmatch(value)):
            raise _invalid(f"{where}: must be end, last_user, or a number.")
        if name in more:
            _check_run_field(where, name, value)
        elif name in _JSON_TEXTS and value:
            read = _read_json(where, value)
            if not isinstance(read, _JSON_TEXTS[name]):
                raise _invalid(f"{where}: must be {_named(_JSON_TEXTS[name])}.")
            if name == "step_requirements":
                _check_sources(where, read)


def _check_run_field(where: str, name: str, value: object) -> None:
    read = _read_json(where, value)
    if name in OBJECTS:
        if not isinstance(read, dict):
            raise _invalid(f"{where}: must be {_named(dict)}.")
        return
    try:
        _MEDIA_LIST.validate_python(read)
    except ValidationError as error:
        first = error.errors()[0]
        what = first["msg"]
        if first["type"] == "extra_forbidden":
            what = "is not taken: media come in the request itself, as `content`"
        raise _invalid(f"{_path(where, first['loc'])}: {what}.") from None


def _check_sources(where: str, value: object) -> None:
    """Refuse media, at any depth, that Agno would fetch."""
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest.extend(value)
        elif isinstance(value, dict):
            for name in sorted(_SOURCES & value.keys()):
                raise _invalid(f"{where}: `{name}` is not taken.")
            rest.extend(each for name, each in value.items() if name not in _FILLED_IN)


def _read_json(where: str, text: object) -> object:
    if not isinstance(text, str):
        raise _invalid(f"{where}: must be JSON, not a file.")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid(f"{where}: is not JSON.") from None
    _check(where, value)
    return value


def _named(kind: type) -> str:
    return {dict: "a JSON object", int: "a number", list: "a JSON array", str: "a text"}[kind]


def _path(where: str, parts: Sequence[int | str]) -> str:
    return ".".join([where, *map(str, parts)])


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
            raise _invalid(f"{_path('body.summary', first['loc'])}: {first['msg']}") from None


def _check(where: str, value: object) -> None:
    """Check all keys and values within a value; without recursion, so that depth is no matter."""
    rest = [(value, 0)]
    while rest:
        value, depth = rest.pop()
        if depth > DEPTH:
            raise _invalid(f"{where}: lists and objects are too deep within each other.")
        if isinstance(value, Mapping):
            rest.extend((each, depth + 1) for pair in value.items() for each in pair)
        elif isinstance(value, list | tuple):
            rest.extend((each, depth + 1) for each in value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise _invalid(f"{where}: a number must be finite.")
        elif isinstance(value, str) and not _can_be_stored(value):
            raise _invalid(f"{where}: a text holds a NUL character, or half a character.")


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
