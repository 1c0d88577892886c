"""What stands before the application: the check of the Host header, then of origins."""

import re

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentos.errors import error_response
from agentos.settings import Settings

# The names by which a developer's machine and the stack's own network reach this service.
OWN_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "agentos"})

_HOST_HEADER = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:]+)(?::[0-9]{0,5})?")


def guard(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Put the guards before an application.

    They are wrapped around it rather than added to it, so that answers to errors carry CORS
    headers as well, and so that they stay in front of whatever the application mounts.

    Args:
        app: the application.
        settings: says which hosts and origins are allowed.

    Returns:
        The guarded application.
    """
    with_cors = Cors(
        app,
        allow_origins=settings.agentos_cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=True,
        expose_headers=["X-Request-ID", "Retry-After"],
        allow_private_network=True,
    )
    with_origins = OriginCheck(with_cors, frozenset(settings.agentos_cors_origins))
    return HostCheck(with_origins, OWN_HOSTS | set(settings.agentos_allowed_hosts))


class HostCheck:
    """Refuse requests whose Host header names another machine, with 400.

    A page of a hostile site can point its own name at 127.0.0.1 (DNS rebinding) and so read this
    service as if it were its own; the Host header still holds the site's name.
    Starlette's TrustedHostMiddleware does the same, but its answers are plain text.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        """Stand before `app`; let `allowed` hosts through, in lower case and without ports."""
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400."""
        if scope["type"] in ("http", "websocket"):
            match = _HOST_HEADER.fullmatch(Headers(scope=scope).get("host", "").lower())
            if match is None or match["host"] not in self._allowed:
                refusal = error_response(
                    400,
                    "host_not_allowed",
                    "The Host header is not one this service answers to;"
                    " AGENTOS_ALLOWED_HOSTS can add it.",
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class OriginCheck:
    """Refuse WebSockets of other sites' pages, with 403.

    Browsers let any page open one anywhere, and CORS is for HTTP alone. What is no browser sends no
    Origin header.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        """Stand before `app`; let pages of `allowed` origins and the service's own through."""
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on, or answer 403."""
        if scope["type"] == "websocket":
            headers = Headers(scope=scope)
            host = headers.get("host", "").lower()
            allowed = self._allowed | {f"http://{host}", f"https://{host}"}
            if any(origin.lower() not in allowed for origin in headers.getlist("origin")):
                refusal = error_response(
                    403,
                    "origin_not_allowed",
                    "The Origin header is not one this service answers to;"
                    " AGENTOS_CORS_ORIGINS can add it.",
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Cors(CORSMiddleware):
    """Starlette's CORS, with refusals in the one error form."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight: 200 if the request that follows is allowed, else 400."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        headers = {
            name: value
            for name, value in response.headers.items()
            if name.startswith("access-control-") or name == "vary"
        }
        message = bytes(response.body).decode() + "; AGENTOS_CORS_ORIGINS can add an origin."
        return error_response(400, "cors_not_allowed", message, headers)
