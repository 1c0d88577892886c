"""The application: what AgentOS answers over HTTP."""

from functools import partial
from time import monotonic

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.types import ASGIApp

from agentos import __version__
from agentos.errors import Error, ErrorBody, install_error_handlers
from agentos.guards import guard
from agentos.probes import Check, Readiness, ping_redis, query_postgresql
from agentos.settings import Settings, load_settings

DESCRIPTION = "The HYVVE platform's agent service."


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


def create_api(settings: Settings) -> FastAPI:
    """Make the API, without the guards: the application on which others can be mounted.

    Args:
        settings: the settings, checked.

    Returns:
        The API. It connects to nothing until it is asked whether it is ready.
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
    api = FastAPI(title="AgentOS", version=__version__, description=DESCRIPTION)
    install_error_handlers(api)

    @api.get("/")
    async def about() -> About:
        """Say what this service is."""
        return About()

    @api.get("/health")
    async def health() -> Health:
        """Say that the process serves. It asks nothing of PostgreSQL or Redis."""
        return Health(uptime_s=round(monotonic() - started, 1), environment=environment)

    @api.get("/ready", response_model=Ready, responses={503: {"model": NotReady}})
    async def ready() -> Ready | JSONResponse:
        """Say whether PostgreSQL and Redis serve, within two seconds."""
        checks = await readiness.check()
        failures = [f"{name}: {check.reason}" for name, check in checks.items() if not check.ok]
        if not failures:
            return Ready(checks=checks)
        body = NotReady(error=Error(code="not_ready", message="; ".join(failures)), checks=checks)
        return JSONResponse(body.model_dump(), status_code=503, headers={"Retry-After": "2"})

    return api


def create_app() -> ASGIApp:
    """Make the whole application from the environment; uvicorn calls this.

    Returns:
        The API behind its guards.

    Raises:
        SettingsError: the environment cannot be used.
    """
    settings = load_settings()
    return guard(create_api(settings), settings)
