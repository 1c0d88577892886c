"""AgentOS with routes that do what its own never should: wait, block a thread, break."""

import asyncio
import time

from agentos.app import create_api
from agentos.guards import guard
from agentos.observe import Metrics, Observe
from agentos.settings import load_settings
from starlette.types import ASGIApp

# Runs this application as `python -m agentos` runs its own.
PROGRAM = (
    "-c",
    "from agentos.__main__ import run; raise SystemExit(run('tests.trial_app:create'))",
)


def create() -> ASGIApp:
    """Make the application."""
    settings = load_settings()
    metrics = Metrics()
    api = create_api(settings, metrics)

    @api.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    @api.get("/blocked")
    def blocked() -> None:
        time.sleep(60)

    @api.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a detail for the log alone")

    @api.get("/number/{number}")
    async def number(number: int) -> int:
        return number

    return Observe(guard(api, settings), metrics)
