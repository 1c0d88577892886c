"""Agno's storage in PostgreSQL, made honest.

Agno's own class logs what PostgreSQL refuses and goes on: a run whose session could not be stored
is answered as completed, a list that could not be read as empty. Here whatever goes wrong is noted
in the request's context, and makes its answer an error (see `honesty`).
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import getmembers, iscoroutinefunction
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import psycopg
import sqlalchemy.exc
from agno.db.postgres import AsyncPostgresDb
from agno.db.postgres.schemas import get_table_schema_definition
from agno.run.base import RunStatus
from agno.run.status_persist import RunPersistOutcome
from sqlalchemy import Connection, PoolProxiedConnection, Table, event, inspect
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from agentos import context
from agentos.errors import FAILED, Failure, FailureError
from agentos.limits import limited
from agentos.probes import TIMEOUT_S
from agentos.schema import SCHEMA
from agentos.tenancy import isolate

CONNECTIONS = 10
# A connection is waited for this long when all are in use, and made anew after this time.
CONNECTION_WAIT_S = 1.0
CONNECTION_AGE_S = 300
# After PostgreSQL did not serve, a request asks nothing more of it for this long: each of its calls
# could wait again. A run that goes on in the background asks again later.
PATIENCE_S = 2.0

# A run that is in the database as going on, and whose end could not be stored, is brought to its
# end after so many seconds, again and again.
SETTLE_S = (1, 2, 4, 8, 16, 32, 60, 60, 60, 60)

# The tables without which nothing is true: "not found" would be a lie if the table is not there.
TABLES = frozenset(
    f"agno_{name}"
    for name in (
        "approvals",
        "eval_runs",
        "learnings",
        "memories",
        "runs",
        "sessions",
        "spans",
        "tool_results",
        "traces",
    )
)

# Not "nothing was stored": what was given up may have been on its way, and the end of a run that was
# begun is stored later.
UNAVAILABLE = Failure(
    503,
    "storage_unavailable",
    "PostgreSQL did not answer, or not in time. Look whether it was stored before you try again.",
)
INVALID = Failure(422, "invalid_request", "A value is not one that PostgreSQL can store.")
CONFLICT = Failure(409, "conflict", "There is one with this key already.")
MISSING = Failure(501, "not_implemented", "This service does not store what this needs.")
BROKEN = Failure(500, "internal_error", FAILED)

# Errors that Agno expects, and handles: a reference to a row that is gone, a row that another
# transaction has locked.
_HANDLED = frozenset({"23503", "55P03"})
_READ_ONLY = "25006"
# What classes of SQLSTATE and single ones mean, where psycopg's classes of exceptions say too
# little: https://www.postgresql.org/docs/16/errcodes-appendix.html
_BY_STATE = {
    "23505": CONFLICT,
    "25": UNAVAILABLE,  # a standby, or a server made read-only
    "3F": UNAVAILABLE,  # the schema is missing: the database is not migrated
    "42501": UNAVAILABLE,  # the role has lost its rights
    "42P01": UNAVAILABLE,  # a table is missing
    "54": INVALID,  # an id too long for its index
}

# What makes a run last. Agno goes on when one of these raises.
_STORE_RUNS = frozenset({"upsert_run", "update_run_in_session"})

_ENDS = frozenset(
    status.value for status in (RunStatus.completed, RunStatus.error, RunStatus.cancelled)
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

logger = logging.getLogger(__name__)


class _Pool(AsyncAdaptedQueuePool):
    """A pool that notes that all of its connections are in use, which is no error of PostgreSQL."""

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except sqlalchemy.exc.TimeoutError:
            logger.warning("All %s connections to PostgreSQL are in use", CONNECTIONS)
            _fail(UNAVAILABLE)
            raise


@dataclass(frozen=True)
class _Away(Failure):
    """PostgreSQL does not serve, as was found at this time."""

    at: float = field(default_factory=monotonic)


def _note(failed: ExceptionContext) -> None:
    """Note an error of PostgreSQL in the context, whatever becomes of the exception."""
    error = failed.original_exception
    if failed.is_pre_ping or not isinstance(error, Exception):
        return  # a kept connection that is made anew, or a request that is cancelled
    _note_error(error)
    if getattr(error, "sqlstate", None) == _READ_ONLY:
        failed.is_disconnect = True  # others may be writable already


def _note_error(error: Exception) -> None:
    state = getattr(error, "sqlstate", None) or ""
    if state in _HANDLED:
        return
    failure = _BY_STATE.get(state) or _BY_STATE.get(state[:2])
    if failure is None and isinstance(error, psycopg.DataError | UnicodeError):
        failure = INVALID
    if failure is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        failure = UNAVAILABLE
    if failure is None:
        logger.error("PostgreSQL refused a statement: %s (SQLSTATE %s)", error, state or "none")
        failure = BROKEN
    _fail(failure)


def _fail(failure: Failure) -> None:
    current = context.current()
    if current is None:
        return
    if failure.status == UNAVAILABLE.status:
        failure = _Away(failure.status, failure.code, failure.message)
    if current.failure is None or {type(current.failure), type(failure)} == {_Away}:
        current.failure = failure


def _bounded(method: Callable[_P, Awaitable[_R]]) -> Callable[_P, Awaitable[_R]]:
    """Give a method of Storage a limit: a frozen PostgreSQL answers nothing, for ever."""

    @functools.wraps(method)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        current = context.current()
        failure = current.failure if current is not None else None
        if isinstance(failure, _Away) and monotonic() - failure.at < PATIENCE_S:
            raise FailureError(failure)
        try:
            result = await limited(method(*args, **kwargs), TIMEOUT_S)
        except TimeoutError:
            logger.warning("PostgreSQL does not answer: %s was given up", method.__name__)
            _fail(UNAVAILABLE)
            raise FailureError(UNAVAILABLE) from None
        except Exception:
            if method.__name__ in _STORE_RUNS:
                _fail(BROKEN)
            raise
        if result is None and method.__name__ == "upsert_session":
            _fail(BROKEN)  # it is another user's by now, or Agno could not write it down
        return result

    return call


class Storage(AsyncPostgresDb):
    """Agno's storage, in the migrated schema, for one tenant at a time, each call bounded."""

    _upsert_run = _bounded(AsyncPostgresDb.upsert_run)
    _update_run = _bounded(AsyncPostgresDb.update_run_in_session)

    def __init__(self, url: str) -> None:
        """Prepare connections; the first is made when it is needed.

        Args:
            url: of PostgreSQL, as `normalise_database_url` gives it.
        """
        # libpq reads the URL, as it does for /ready: SQLAlchemy's own reading differs in details.
        engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=lambda: psycopg.AsyncConnection.connect(url),
            poolclass=_Pool,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=CONNECTION_WAIT_S,
            pool_recycle=CONNECTION_AGE_S,
            pool_pre_ping=True,
            hide_parameters=True,  # what users have said is not for the log
        )
        isolate(engine.sync_engine)
        event.listen(engine.sync_engine, "handle_error", _note)
        # An id of its own: Agno's default is a hash of the URL and the password in it.
        super().__init__(id="agentos", db_engine=engine, db_schema=SCHEMA, create_schema=False)
        self._settling: dict[str, asyncio.Task[None]] = {}

    async def upsert_run(
        self, run: Any, session_id: str, user_id: str | None = None, run_index: int | None = None
    ) -> None:
        """Store a run."""
        try:
            await self._upsert_run(run, session_id, user_id, run_index)
        except Exception:
            fields = run if isinstance(run, dict) else run.to_dict()
            self._settle_later(session_id, fields["run_id"], fields, user_id)
            raise

    async def update_run_in_session(
        self, session_id: str, run_id: str, fields: dict[str, Any], *args: Any, **kwargs: Any
    ) -> RunPersistOutcome:
        """Store how a run goes on."""
        try:
            return await self._update_run(session_id, run_id, fields, *args, **kwargs)
        except Exception:
            self._settle_later(session_id, run_id, fields, kwargs.get("user_id"))
            raise

    def _settle_later(
        self, session_id: str, run_id: str, fields: dict[str, Any], user_id: str | None
    ) -> None:
        """Store the end of a run later, if the run is in the database."""
        before = context.current()
        if before is None or before.failure is None or before.failure.status != 503:
            return
        if fields.get("status") not in _ENDS:
            return
        earlier = self._settling.pop(run_id, None)
        if earlier is not None:
            earlier.cancel()
        task = asyncio.create_task(self._settle(before, session_id, run_id, fields, user_id))
        self._settling[run_id] = task

    async def _settle(
        self,
        before: context.Context,
        session_id: str,
        run_id: str,
        fields: dict[str, Any],
        user_id: str | None,
    ) -> None:
        for delay in SETTLE_S:
            await asyncio.sleep(delay)
            current = context.begin(before.request_id)
            current.tenant, current.subject = before.tenant, before.subject
            with suppress(Exception):
                await self._update_run(session_id, run_id, fields, user_id=user_id)
            if current.failure is None:
                break
        else:
            logger.error("The end of run %s could not be stored", run_id)
        self._settling.pop(run_id, None)

    async def _get_or_create_table(
        self, table_name: str, table_type: str, create_table_if_not_found: bool | None = False
    ) -> Any:
        """Find a table. Agno takes one that is not there for an empty one, or makes it."""
        table = await super()._get_or_create_table(table_name, table_type, False)
        if table is None and (create_table_if_not_found or table_name in TABLES):
            failure = UNAVAILABLE if table_name in TABLES else MISSING
            _fail(failure)
            raise FailureError(failure)
        return table

    async def _resolve_table(
        self, table_name: str, table_type: str, create_table_if_not_found: bool | None = False
    ) -> Table | None:
        """Look at a table, without the tenant: it is the database's alone, and new to Agno."""
        async with self.db_engine.connect() as connection:
            return await connection.run_sync(self._reflect, table_name, table_type)

    def _reflect(self, connection: Connection, table_name: str, table_type: str) -> Table | None:
        found = {
            column["name"] for column in inspect(connection).get_columns(table_name, self.db_schema)
        }
        expected = get_table_schema_definition(table_type)
        missing = {name for name in expected if not name.startswith("_")} - found
        if missing:
            raise RuntimeError(f"The table {table_name} has no {', '.join(sorted(missing))}")
        table = Table(
            table_name,
            self.metadata,
            schema=self.db_schema,
            autoload_with=connection,
            include_columns=found - {"tenant_id"},
            resolve_fks=False,
        )
        self._store_resolved_table(table_type, table_name, table)
        return table


def _bound_methods() -> None:
    for name, method in getmembers(AsyncPostgresDb, iscoroutinefunction):
        if not name.startswith("_") and name != "close" and name not in vars(Storage):
            setattr(Storage, name, _bounded(method))


_bound_methods()
# SQLAlchemy names a pool's logger after its class, and tells of each connection.
logging.getLogger(f"{_Pool.__module__}.{_Pool.__name__}").setLevel(logging.WARNING)
