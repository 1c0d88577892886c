"""The API's description: the service's own routes and Agno's in one document, as they are here."""

import json
import re
from typing import Any

from fastapi import FastAPI

from agentos.errors import ErrorBody
from agentos.intake import MEDIA_COUNT, OBJECTS, RANGES, REFUSED, RUN_FIELDS, Media, Summary

_METHODS = frozenset({"get", "post", "put", "patch", "delete", "head", "options"})
_ERRORS = {
    "400": "The request cannot be understood",
    "401": "No token, or one that is refused",
    "403": "The token lacks a scope",
    "404": "There is none, or it is not yours",
    "409": "It is not in a state for this",
    "413": "The body is too large",
    "422": "A value cannot be used",
    "503": "PostgreSQL or Redis does not serve",
}
# Of routes that Agno does not describe.
_DESCRIPTIONS = {
    "/approvals": "List what waits for an approval, or has waited, the newest first.",
    "/approvals/count": "Count the approvals that are pending.",
    "/approvals/{approval_id}": "Give an approval.",
    "/approvals/{approval_id}/status": "Say whether an approval is pending, and who resolved it.",
    "/approvals/{approval_id}/resolve": "Approve or reject, as an administrator.",
}
# Agno does not say that runs can be answered before they have ended.
_ACCEPTED = {
    "description": "With `background`: the run has begun, or waits for its turn",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["run_id", "session_id", "status"],
                "properties": {
                    name: {"type": "string"} for name in ("run_id", "session_id", "status")
                },
            }
        }
    },
}
# What runs take that Agno does not declare.
_RUN_FIELDS = {
    "session_state": "What the session's state is to hold",
    "dependencies": "What instructions and tools may use",
    "metadata": "What to store with the run",
    "images": "Images to go with the message",
    "audio": "Recordings to go with the message",
    "videos": "Videos to go with the message",
    "input_files": "Files to go with the message",
}
_RUNS = re.compile(r"(create|continue)_(agent|team|workflow)_run")
_TOKEN = "token"
# OpenAPI has no place for a WebSocket but the text.
_WEBSOCKET = """

Most routes need a token: `Authorization: Bearer TOKEN`. `./dev token` makes one.

Every error has one form: `{"error": {"code": "not_found", "message": "…"}}`.

## WebSocket

`/workflows/ws` runs workflows and sends their events. Each message is a JSON object with an
`action`; each answer is one with an `event`, but for the events of a run, which have the form of
server-sent events.

| Action | What it does |
| --- | --- |
| `authenticate` | takes a `token`; needed before all others |
| `ping` | is answered with `pong` |
| `start-workflow` | runs `workflow_id` with `message`, in `session_id` if one is given |
| `continue-workflow` | goes on with the paused run `run_id` of `workflow_id` and `session_id` |
| `reconnect` | sends the events of `run_id` again, from after `last_event_index` |

An error is `{"event": "error", "error": …}`; about a token, its event is `auth_required` or
`auth_error`.
"""
_REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')


def describe(api: FastAPI, runtime: FastAPI) -> None:
    """Make /openapi.json of an application describe the mounted one too.

    Args:
        api: the service's own.
        runtime: Agno's, whose routes need tokens and give errors in the service's one form.
    """
    describe_own = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None or _TOKEN not in _part(api.openapi_schema, "securitySchemes"):
            document, mounted = describe_own(), runtime.openapi()
            document["info"]["description"] += _WEBSOCKET
            # Only from another machine.
            document["paths"]["/metrics"]["get"]["security"] = [{}, {_TOKEN: []}]
            for path, item in mounted["paths"].items():
                document["paths"].setdefault(path, {}).update(_as_here(path, item))
            _part(document, "schemas").update(
                {**_part(mounted, "schemas"), **_part(document, "schemas")}
            )
            _part(document, "securitySchemes")[_TOKEN] = {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
            }
            _part(document, "schemas")[Summary.__name__] = Summary.model_json_schema()
            _part(document, "schemas")[Media.__name__] = Media.model_json_schema()
            _describe_forms(document)
            update = _part(document, "schemas")["UpdateSessionRequest"]["properties"]
            update["summary"]["anyOf"][0] = {"$ref": f"#/components/schemas/{Summary.__name__}"}
            _drop_unused_schemas(document)
            api.openapi_schema = document
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    part: dict[str, Any] = document.setdefault("components", {}).setdefault(name, {})
    return part


def _describe_forms(document: dict[str, Any]) -> None:
    """Say which fields forms take: those of RUN_FIELDS too, and no others."""
    for item in document["paths"].values():
        for operation in item.values():
            name = operation["operationId"]
            body = _part(document, "schemas").get(f"Body_{name}")
            if body is None:
                continue
            body["additionalProperties"] = False
            for field in sorted(RUN_FIELDS.get(name, ())):
                body["properties"][field] = _json_field(field)


def _json_field(name: str) -> dict[str, Any]:
    media = {"$ref": f"#/components/schemas/{Media.__name__}"}
    return {
        "type": "string",
        "description": f"{_RUN_FIELDS[name]}, as JSON",
        "contentMediaType": "application/json",
        "contentSchema": {"type": "object"}
        if name in OBJECTS
        else {"type": "array", "items": media, "maxItems": MEDIA_COUNT},
    }


def _drop_unused_schemas(document: dict[str, Any]) -> None:
    """Drop what nothing refers to any more, such as Agno's own forms of errors."""
    schemas = _part(document, "schemas")
    used: set[str] = set()
    found = set(_REFERENCE.findall(json.dumps(document["paths"])))
    while found:
        used |= found
        found = set(_REFERENCE.findall(json.dumps([schemas[name] for name in found]))) - used
    document["components"]["schemas"] = {name: schemas[name] for name in sorted(used)}


def _as_here(path: str, item: dict[str, Any]) -> dict[str, Any]:
    """Put the token, the ranges and the one form of errors into the description of a path."""
    content = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}
    }
    for method in _METHODS & item.keys():
        operation = item[method]
        operation["security"] = [{_TOKEN: []}]
        operation.setdefault("description", _DESCRIPTIONS.get(path, ""))
        parameters = operation.setdefault("parameters", [])
        parameters[:] = [each for each in parameters if each["name"] not in REFUSED]
        for parameter in parameters:
            if parameter["name"] in RANGES:
                _narrow(parameter["schema"], *RANGES[parameter["name"]])
        responses = operation["responses"]
        for status in [status for status in responses if status >= "400"]:
            del responses[status]
        if _RUNS.fullmatch(operation["operationId"]):
            responses["202"] = _ACCEPTED
        for status, description in _ERRORS.items():
            if status != "413" or "requestBody" in operation:
                responses[status] = {"description": description, "content": content}
    return item


def _narrow(schema: dict[str, Any], low: int, high: int) -> None:
    """Put a range into the description of a number, which may be one of several types."""
    for part in (schema, *schema.get("anyOf", ())):
        if part.get("type") == "integer":
            part.update(minimum=low, maximum=high)
