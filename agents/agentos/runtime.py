"""Agno's AgentOS, with this service's storage, tokens and errors.

It is an application of its own, which the service's (see `app`) asks for every path that it has
not itself: so Agno's middlewares stand before Agno's routes alone, and `/`, `/health`, `/ready` and
`/metrics` are never Agno's.
"""

import os
from typing import Any

# Before Agno is imported: this is the switch of the events that runs send. The one for the event
# at start is the argument below; either alone still sends.
os.environ["AGNO_TELEMETRY"] = "false"

from agno.exceptions import AgnoError
from agno.job_queue import QueueConfig, RedisCoordination
from agno.os import AgentOS
from agno.os.settings import AgnoAPISettings
from agno.os.utils import flatten_routes
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, APIWebSocketRoute
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from agentos import __version__, agents, workflows
from agentos.access import require_tokens
from agentos.errors import answer_raised, install_error_handlers
from agentos.intake import BodyLimit, check_values
from agentos.settings import Settings
from agentos.storage import Storage
from agentos.tokens import Tokens

# The parts of Agno's API that work here, by the tags of their routes. The others need what this
# service has not: a scheduler, a queue, knowledge, a synchronous database, a storage for media,
# OpenTelemetry (without which Agno's list of traces is empty), a model of Agno's choice to judge
# evals, service accounts (which know no tenant); or they change the schema, which is the
# migrations' task.
SERVED = frozenset(
    {"Core", "Agents", "Teams", "Workflows", "Sessions", "Memory", "Learnings", "Approvals"}
)
# What does not work in those parts: it asks a model of Agno's choice, not the one of the settings;
# and it cannot tell an approval that is not there from one that could not be deleted.
_NOT_SERVED = frozenset({("POST", "/optimize-memories"), ("DELETE", "/approvals/{approval_id}")})


def create_runtime(settings: Settings, tokens: Tokens) -> FastAPI:
    """Make Agno's application.

    Args:
        settings: the service's.
        tokens: verifies tokens.

    Returns:
        The application. It connects to nothing until it is asked for something stored.
    """
    app = FastAPI(title="AgentOS", version=__version__, openapi_url=None)
    install_error_handlers(app)
    app.add_exception_handler(AgnoError, _agno_error)
    AgentOS(
        id="agentos",
        name="AgentOS",
        version=__version__,
        db=Storage(settings.database_url.get_secret_value()),
        agents=list(agents.create(settings)),
        workflows=list(workflows.create(settings)),
        base_app=app,
        auto_provision_dbs=False,
        telemetry=False,
        queue=QueueConfig(redis=_redis(settings.redis_url.get_secret_value())),
        settings=AgnoAPISettings(authorization_enabled=True),
    ).get_app()
    served = APIRouter(routes=list(filter(_is_served, flatten_routes(app.router.routes))))
    app.router.routes.clear()
    app.include_router(served, dependencies=[Depends(check_values)])
    # The service's own CORS stands before all (see `guards`); Agno's allows more origins.
    cors: object = CORSMiddleware
    app.user_middleware[:] = [
        *(middleware for middleware in app.user_middleware if middleware.cls is not cors),
        Middleware(BodyLimit),
    ]
    require_tokens(app, tokens)
    return app


def _is_served(route: BaseRoute) -> bool:
    if isinstance(route, APIWebSocketRoute):
        return True
    if not isinstance(route, APIRoute) or SERVED.isdisjoint(route.tags):
        return False
    return all((method, route.path) not in _NOT_SERVED for method in route.methods or ())


def _agno_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AgnoError)
    return answer_raised(error, error.status_code, str(error))


def _redis(url: str) -> RedisCoordination:
    limits: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
    return RedisCoordination(
        sync_client=Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits),
        async_client=AsyncRedis.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **limits),
        key_prefix="agentos",
    )
