"""Who may call Agno's routes: a verified token, and the scopes that the route needs.

Agno's own middleware and its WebSocket route check the scopes; both ask a validator to verify the
token. The validator here knows tenants, and what Agno's does not check (see `tokens`).
"""

from collections.abc import Iterable
from typing import Any

from agno.os.middleware.jwt import JWTMiddleware, JWTValidator
from agno.os.service_accounts import TOKEN_PREFIX
from fastapi import FastAPI, Request
from jwt import InvalidTokenError
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from agentos import context
from agentos.errors import error_response, status_code_name
from agentos.tenancy import isolate_runs
from agentos.tokens import Tokens

# The routes that Agno's own table of scopes has not; it lets those pass with any token. What they
# do is what a run does: go on with it, or begin a session for one.
SCOPES = {
    f"POST /{component}/*/{action}": [f"{component}:run"]
    for component in ("agents", "teams", "workflows")
    for action in ("runs/*/resume", "sessions/*/fork", "sessions/*/compact")
}


def require_tokens(app: FastAPI, tokens: Tokens) -> None:
    """Let no request to Agno's routes pass without a token; each user sees what is theirs.

    Args:
        app: Agno's application.
        tokens: verifies.
    """
    isolate_runs()
    validator = _Validator(tokens)
    app.add_middleware(_Middleware, validator=validator, tokens=tokens)
    # Where Agno's WebSocket route looks.
    app.state.jwt_validator = validator
    app.state.jwt_verify_audience = False  # `tokens` does
    app.state.user_isolation_enabled = True
    # Agno's own tokens know no tenant.
    app.state.service_account_verifier = None


def is_jwt(token: str) -> bool:
    """Tell a JWT from Agno's tokens of other kinds, which know no tenant."""
    return token.count(".") == 2 and not token.startswith(TOKEN_PREFIX)


class _Validator(JWTValidator):
    """Verifies a token, and makes its tenant the one of the request."""

    def __init__(self, tokens: Tokens) -> None:
        # Not Agno's own __init__: it takes a key, of which there is none here.
        self._tokens = tokens
        self.validate = True

    def validate_token(
        self, token: str, expected_audience: str | Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Verify a token; `expected_audience` is left to `tokens`."""
        claims = self._tokens.verify(token)
        current = context.current()
        assert current is not None
        identity = claims["tenant"], claims["sub"]
        if current.tenant is not None and (current.tenant, current.subject) != identity:
            # A run that goes on would store the rest of it for the other tenant.
            raise InvalidTokenError("This connection belongs to another user")
        current.tenant, current.subject = identity
        current.expires = int(claims["exp"])
        return claims

    def extract_claims(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Give what Agno's WebSocket route wants to know."""
        return {
            "user_id": payload["principal"],
            "session_id": None,
            "scopes": payload["scopes"],
            "audience": payload["aud"],
        }


class _Middleware(JWTMiddleware):
    """Agno's check of tokens and scopes, with the validator from here and the one error form."""

    def __init__(self, app: ASGIApp, validator: _Validator, tokens: Tokens) -> None:
        super().__init__(
            app,
            validate=False,  # for a key: the validator below has them
            authorization=True,
            user_id_claim="principal",
            session_id_claim="",
            user_isolation=True,
            scope_mappings=SCOPES,
            excluded_route_paths=[],
        )
        self.validate = True
        self.validator = validator
        self._tokens = tokens

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        credentials = request.headers.getlist("authorization")
        scheme, _, token = credentials[0].partition(" ") if credentials else ("", "", "")
        # One, or a proxy in between might have looked at the other.
        if len(credentials) != 1 or scheme.lower() != "bearer" or not is_jwt(token):
            return self._create_error_response(
                401, "A token is needed: Authorization: Bearer TOKEN. ./dev token makes one."
            )
        # As Agno does it too, but only after it has looked up which scopes the path needs: none for
        # one that it does not know, such as that of POST /memories/.
        path = request.scope["path"]
        request.scope["path"] = path.rstrip("/") or "/"
        await self._tokens.prepare(token)
        return await super().dispatch(request, call_next)

    def _create_error_response(
        self,
        status_code: int,
        detail: str,
        origin: str | None = None,
        cors_allowed_origins: list[str] | None = None,
        required_scopes: list[str] | None = None,
    ) -> JSONResponse:
        if required_scopes:
            detail = f"The token lacks a scope: {', '.join(required_scopes)}"
        headers = {"WWW-Authenticate": "Bearer"} if status_code == 401 else None
        return error_response(status_code, status_code_name(status_code), detail, headers)
