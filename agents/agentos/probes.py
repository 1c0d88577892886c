"""Whether PostgreSQL and Redis serve: a real query and a real command, each over a new connection.

A new connection costs a few milliseconds and proves what a kept one cannot: that the server still
accepts this password. And there is nothing to repair when a server comes back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
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
    ("too many connections", "it has no connection left for this role"),
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
    """Runs probes, each within TIMEOUT_S, and logs when a server goes and comes back."""

    def __init__(self, probes: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        """Take the probes, by the names of their servers; a probe that returns has found it good.

        Args:
            probes: for each server, a function that raises if the server does not serve.
        """
        self._probes = probes
        self._running: dict[str, asyncio.Task[Check]] = {}
        # The last result of each, and when it was found.
        self._last: dict[str, tuple[Check, float]] = {}

    async def check(self, names: Iterable[str] | None = None) -> dict[str, Check]:
        """Run probes, side by side.

        Callers that arrive while a probe runs share it, so that many callers take no more
        connections from PostgreSQL than one.

        Args:
            names: of the servers; None asks all.

        Returns:
            The result for each server. It never raises because of a server.
        """
        names = list(self._probes if names is None else names)
        checks = await asyncio.gather(*(asyncio.shield(self._probe(name)) for name in names))
        return dict(zip(names, checks, strict=True))

    async def recent(self, names: Collection[str]) -> dict[str, Check]:
        """Give the last results that are good and fresh, and run the probes of the others.

        Args:
            names: of the servers. No other server is waited for.

        Returns:
            As of `check`.
        """
        fresh = {name: self._last[name][0] for name in names if self._is_fresh(name)}
        return fresh | await self.check(name for name in names if name not in fresh)

    def _is_fresh(self, name: str) -> bool:
        if name not in self._last:
            return False
        check, found = self._last[name]
        return check.ok and monotonic() - found < RECENT_S

    def _probe(self, name: str) -> asyncio.Task[Check]:
        running = self._running.get(name)
        if running is None or running.done():
            running = self._running[name] = asyncio.create_task(self._run(name))
        return running

    async def _run(self, name: str) -> Check:
        started = perf_counter()
        reason = None
        try:
            await limited(self._probes[name](), TIMEOUT_S)
        except TimeoutError:
            reason = f"no answer within {TIMEOUT_S} s"
        except Exception as error:
            reason = _reason(error)
        ms = round((perf_counter() - started) * 1000, 1)
        check = Check(ok=reason is None, ms=ms, reason=reason)
        was_ok = name not in self._last or self._last[name][0].ok
        if check.ok and not was_ok:
            logger.info("%s serves again", name)
        elif was_ok and not check.ok:
            logger.warning("%s does not serve: %s", name, check.reason)
        self._last[name] = check, monotonic()
        return check


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
