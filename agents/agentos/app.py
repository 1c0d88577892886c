"""The application: what AgentOS answers over HTTP.

From outside to inside: `observe` (request id, log, metrics), `guards` (host, CORS), the service's
own routes here; and for every other path `honesty`, then Agno's application (see `runtime`).
"""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from jwt import InvalidTokenError
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import ASGIApp

from agentos import __version__
from agentos.errors import RETRY_AFTER_S, Error, ErrorBody, error_response, install_error_handlers
from agentos.guards import guard
from agentos.honesty import Honesty
from agentos.limits import limited
from agentos.observe import Metrics, Observe
from agentos.openapi import describe
from agentos.probes import Check, Readiness, ping_redis, query_postgresql
from agentos.runtime import create_runtime
from agentos.settings import Settings, load_settings
from agentos.shutdown import end_runs
from agentos.tokens import TokenRefusedError, Tokens
from agentos.websocket import WebSockets

DESCRIPTION = "The HYVVE platform's agent service."
METRICS_SCOPES = frozenset({"metrics:read", "agent_os:admin"})
# At the end, after the three seconds that uvicorn gives to requests: how long runs may still go on,
# how long they then have to store that they were cancelled, and how long Agno has to close. In all
# less than the ten seconds after which Docker kills.
RUN_S, STORE_S, CLOSE_S = 2, 2, 1
_LOOPBACK = frozenset({"127.0.0.1", "::1"})


class About(BaseModel):
    """What this service is, and where the rest of it is found."""

    name: str = "agentos"
    version: str = __version__
    description: str = DESCRIPTION
    links: dict[str, str] = {"docs": "/docs", "health": "/health", "ready": "/ready"}


class Health(BaseModel):
    """The state of the process alone; `environment` says which variables are set."""

    status: str = "ok"
    version: str = __version__
    uptime_s: float
    environment: dict[str, bool]


class Ready(BaseModel):
    """Every server that AgentOS needs serves."""

    status: str = "ready"
    checks: dict[str, Check]


class NotReady(ErrorBody):
    """A server that AgentOS needs does not serve."""

    status: str = "unavailable"
    checks: dict[str, Check]


def create_api(settings: Settings, metrics: Metrics) -> FastAPI:
    """Make the API, without what stands before it.

    Args:
        settings: the settings, checked.
        metrics: what /metrics gives.

    Returns:
        The API. It connects to nothing until it is asked something that needs it.
    """
    started = monotonic()
    environment = {
        name.upper(): name in settings.model_fields_set for name in Settings.model_fields
    }
    readiness = Readiness(
        {
            "postgresql": partial(query_postgresql, settings.database_url.get_secret_value()),
            "redis": partial(ping_redis, settings.redis_url.get_secret_value()),
        }
    )
    tokens = Tokens(settings)
    runtime = create_runtime(settings, tokens)

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        inner = runtime.router.lifespan_context(runtime)
        await inner.__aenter__()
        # What was imported stays until the end: the garbage collector need not look at it again,
        # which takes it a tenth of a second and more.
        gc.collect()
        gc.freeze()
        yield
        await end_runs(RUN_S, STORE_S)
        with suppress(TimeoutError):
            await limited(inner.__aexit__(None, None, None), CLOSE_S)

    api = FastAPI(title="AgentOS", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    install_error_handlers(api)

    @api.get("/", tags=["Service"])
    async def about() -> About:
        """Say what this service is."""
        return About()

    @api.get("/health", tags=["Service"])
    async def health() -> Health:
        """Say that the process serves. It asks nothing of PostgreSQL or Redis."""
        return Health(uptime_s=round(monotonic() - started, 1), environment=environment)

    @api.get("/ready", tags=["Service"], response_model=Ready, responses={503: {"model": NotReady}})
    async def ready() -> Ready | JSONResponse:
        """Say whether PostgreSQL and Redis serve, within two seconds."""
        checks = await readiness.check()
        failures = [f"{name}: {check.reason}" for name, check in checks.items() if not check.ok]
        if not failures:
            return Ready(checks=checks)
        body = NotReady(error=Error(code="not_ready", message="; ".join(failures)), checks=checks)
        retry = {"Retry-After": str(RETRY_AFTER_S)}
        return JSONResponse(body.model_dump(), status_code=503, headers=retry)

    @api.get(
        "/metrics",
        tags=["Service"],
        response_class=PlainTextResponse,
        responses={401: {"model": ErrorBody}, 403: {"model": ErrorBody}},
    )
    async def get_metrics(request: Request) -> Response:
        """Give metrics in Prometheus's format, to loopback or to a token with metrics:read."""
        refusal = await _refuse_metrics(request, tokens)
        if refusal is not None:
            return refusal
        return metrics.response()

    # Not a mount: that would take every path, and POST /health would be Agno's to refuse.
    api.router.default = WebSockets(Honesty(runtime, readiness), tokens, readiness)
    describe(api, runtime)
    return api


async def _refuse_metrics(request: Request, tokens: Tokens) -> Response | None:
    """Give the answer to a request for metrics that is refused, or None."""
    if request.client is not None and request.client.host in _LOOPBACK:
        return None
    message = "From another machine this needs a token with the scope metrics:read."
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme.lower() != "bearer":
            raise TokenRefusedError(message)
        await tokens.prepare(token)
        claims = tokens.verify(token)
    except InvalidTokenError:
        return error_response(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
    if METRICS_SCOPES.isdisjoint(claims["scopes"]):
        return error_response(403, "forbidden", message)
    return None


def create_app() -> ASGIApp:
    """Make the whole application from the environment; uvicorn calls this.

    Returns:
        The API behind its guards.

    Raises:
        SettingsError: the environment cannot be used.
    """
    settings = load_settings()
    metrics = Metrics()
    return Observe(guard(create_api(settings, metrics), settings), metrics)
