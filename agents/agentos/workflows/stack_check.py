"""The workflow `stack-check`: asks PostgreSQL and Redis what only a working stack can answer.

It needs no model and no key, so it shows on the first day that runs and sessions work; and it is
the example of a workflow to copy.
"""

import asyncio
from uuid import uuid4

import psycopg
from agno.workflow import StepInput
from psycopg import sql
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agentos.limits import limited
from agentos.probes import TIMEOUT_S
from agentos.schema import SCHEMA
from agentos.settings import Settings
from agentos.workflows.base import Workflow
from agentos.workflows.steps import StepFailedError, step

# How many runs may have a connection of their own at a time.
CHECKS = 4
_KEY_LIFE_S = 60
_QUESTION = sql.SQL(
    "SELECT current_setting('server_version'), current_user, version_num,"
    " current_setting('transaction_read_only') FROM {}.alembic_version"
).format(sql.Identifier(SCHEMA))


def create(settings: Settings) -> Workflow:
    """Make the workflow.

    Args:
        settings: say where PostgreSQL and Redis are.

    Returns:
        The workflow.
    """
    database_url = settings.database_url.get_secret_value()
    redis_url = settings.redis_url.get_secret_value()

    turn = asyncio.Semaphore(CHECKS)

    async def check_postgresql(_input: StepInput) -> str:
        """Read the server's version, who is logged in, and the version of the schema."""
        async with turn:
            version, role, revision, read_only = await limited(_ask(database_url), TIMEOUT_S)
        if read_only == "on":
            raise StepFailedError("PostgreSQL takes no writes now.")
        return f"PostgreSQL {version}: logged in as {role}, schema {revision}."

    async def check_redis(_input: StepInput) -> str:
        """Read the server's version, and write and read back a key."""
        version = await limited(_use(redis_url), TIMEOUT_S)
        return f"Redis {version}: a key was written, read back and removed."

    async def report(step_input: StepInput) -> str:
        """Put the answers together."""
        outputs = step_input.previous_step_outputs or {}
        return "\n".join(str(output.content) for output in outputs.values())

    return Workflow(
        id="stack-check",
        name="Stack check",
        description="Asks PostgreSQL and Redis what only a working stack can answer.",
        steps=[
            step("PostgreSQL", check_postgresql),
            step("Redis", check_redis),
            step("Report", report),
        ],
        telemetry=False,
    )


async def _ask(url: str) -> tuple[str, str, str, str]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute(_QUESTION)
        row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


async def _use(url: str) -> str:
    key, text = f"agentos:stack-check:{uuid4().hex}", uuid4().hex
    async with Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0)) as redis:
        await redis.set(key, text, ex=_KEY_LIFE_S)
        found = await redis.getdel(key)
        version = (await redis.info("server"))["redis_version"]
    if found != text:
        raise StepFailedError("Redis did not give back the key that was written.")
    return str(version)
