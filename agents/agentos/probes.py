"""Whether PostgreSQL and Redis serve: a real query and a real command, each over a new connection.

A new connection costs a few milliseconds and proves what a kept one cannot: that the server still
accepts this password. And there is nothing to repair when a server comes back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic, perf_counter

import psycopg
from psycopg import sql
from pydantic import BaseModel
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agentos.limits import limited
from agentos.schema import REVISION, SCHEMA

# Below the two seconds in which /ready promises to answer.
TIMEOUT_S = 1.5
# How long requests rely on a server that was found to serve.
RECENT_S = 1.0

# Parts of the messages of libpq, PostgreSQL, psycopg, Redis and redis-py, and the reason given in
# their place. The messages themselves stay here: they hold addresses and names, and libpq's can
# quote a part of the URL.
_REASONS = (
    ("password authentication failed", "the password is refused"),
    ("no password supplied", "a password is needed and the URL has none"),
    ("invalid username-password", "the password is refused"),
    ("already authenticated", "a password is needed and the URL has none"),  # Redis's NOAUTH
    ("does not exist", "the database or the role does not exist"),
    ("Connection refused", "nothing listens at its address"),
    ("Connect call failed", "nothing listens at its address"),
    ("resolve host", "its host name does not resolve"),
    ("Name or service not known", "its host name does not resolve"),
    ("nodename nor servname", "its host name does not resolve"),  # the same on macOS
    ("name resolution", "its host name does not resolve"),
    ("starting up", "it is starting"),
    ("loading the dataset", "it is starting"),
    ("shutting down", "it is stopping"),
    ("too many clients", "it has no connection left"),
    ("remaining connection slots", "it has no connection left"),
    ("max number of clients", "it has no connection left"),
    ("DB index is out of range", "the database number is out of range"),
)

_VERSION = sql.SQL("SELECT version_num FROM {}.alembic_version").format(sql.Identifier(SCHEMA))

logger = logging.getLogger(__name__)


class Check(BaseModel):
    """How one server answered: whether it serves, in how many milliseconds, and if not, why."""

    ok: bool
    ms: float
    reason: str | None = None


class NotMigratedError(Exception):
    """The database has no tables for AgentOS, or those of an older version."""


async def query_postgresql(url: str) -> None:
    """Log in to PostgreSQL and look at the version of the schema.

    Args:
        url: as `normalise_database_url` gives it.

    Raises:
        psycopg.Error: PostgreSQL does not serve.
        NotMigratedError: it does, but `python -m agentos.migrate` must be run.
    """
    async with await psycopg.AsyncConnection.connect(url) as connection:
        try:
            cursor = await connection.execute(_VERSION)
            row = await cursor.fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
            row = None
    # A schema that a newer version has migrated is as good: versions only add.
    if row is None or int(row[0]) < int(REVISION):
        raise NotMigratedError


async def ping_redis(url: str) -> None:
    """Log in to Redis and send PING.

    Redis refuses PING while it loads its data, and while it refuses writes because it cannot save.

    Args:
        url: as `check_redis_url` takes it.

    Raises:
        redis.RedisError: Redis does not serve.
    """
    async with Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as redis:
        await redis.ping()


class Readiness:
    """Runs probes together, each within TIMEOUT_S, and logs when a server goes and comes back."""

    def __init__(self, probes: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        """Take the probes, by the names of their servers; a probe that returns has found it good.

        Args:
            probes: for each server, a function that raises if the server does not serve.
        """
        self._probes = probes
        self._was_ok = dict.fromkeys(probes, True)
        self._round: asyncio.Task[dict[str, Check]] | None = None
        self._last: dict[str, Check] = {}
        self._last_at = float("-inf")

    async def recent(self) -> dict[str, Check]:
        """Give the last results if they are good and fresh, else run every probe.

        Returns:
            As of `check`.
        """
        good = all(check.ok for check in self._last.values())
        if good and monotonic() - self._last_at < RECENT_S:
            return self._last
        return await self.check()

    async def check(self) -> dict[str, Check]:
        """Run every probe.

        Callers that arrive while a round runs share it, so that many callers take no more
        connections from PostgreSQL than one.

        Returns:
            The result for each server. It never raises because of a server.
        """
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._run_round())
        return await asyncio.shield(self._round)

    async def _run_round(self) -> dict[str, Check]:
        results = await asyncio.gather(*(self._run(probe) for probe in self._probes.values()))
        checks = dict(zip(self._probes, results, strict=True))
        for name, check in checks.items():
            if check.ok and not self._was_ok[name]:
                logger.info("%s serves again", name)
            elif self._was_ok[name] and not check.ok:
                logger.warning("%s does not serve: %s", name, check.reason)
            self._was_ok[name] = check.ok
        self._last, self._last_at = checks, monotonic()
        return checks

    async def _run(self, probe: Callable[[], Awaitable[None]]) -> Check:
        started = perf_counter()
        reason = None
        try:
            await limited(probe(), TIMEOUT_S)
        except TimeoutError:
            reason = f"no answer within {TIMEOUT_S} s"
        except Exception as error:
            reason = _reason(error)
        return Check(
            ok=reason is None, ms=round((perf_counter() - started) * 1000, 1), reason=reason
        )


def _reason(error: BaseException) -> str:
    """Say why a server does not serve, without a word from its URL."""
    if isinstance(error, NotMigratedError):
        return "the database is not migrated; ./dev up does it"
    message = str(error)
    for part, reason in _REASONS:
        if part in message:
            return reason
    return f"{type(error).__name__}{_sqlstate(error)}"


def _sqlstate(error: BaseException) -> str:
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return f", SQLSTATE {error.sqlstate}"
    return ""
