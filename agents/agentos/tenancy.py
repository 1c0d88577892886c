"""Tenants in PostgreSQL and in Redis.

In PostgreSQL each transaction says which tenant it is for; row level security then shows and takes
that tenant's rows alone (see migrations/versions). A transaction outside of any request has no
tenant, and no row.

In Redis are the events of runs, and who has cancelled which. Agno finds them by a run's id alone,
without asking whose it is, so there each tenant has a key prefix of its own.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from agno.os.event_streams import get_event_stream, set_event_stream
from agno.os.event_streams.base import BaseEventStream
from agno.os.event_streams.redis import RedisEventStream
from agno.run.cancel import get_cancellation_manager, set_cancellation_manager
from agno.run.cancellation_management.base import BaseRunCancellationManager
from agno.run.cancellation_management.redis_cancellation_manager import RedisRunCancellationManager
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.dialects.postgresql.dml import OnConflictClause
from sqlalchemy.sql.dml import Insert

from agentos import context
from agentos.schema import TENANT_SETTING

_T = TypeVar("_T")

# How long a client that follows a run waits in Redis at a time: less than its socket's timeout,
# else each silence of a run would look like a failure.
_BLOCK_MS = 500

_SET_TENANT = text("SELECT set_config(:name, :tenant, true)")


def isolate(engine: Engine) -> None:
    """Make every transaction of an engine one of the current context's tenant.

    Args:
        engine: SQLAlchemy's; of an asynchronous one its `sync_engine`.
    """
    event.listen(engine, "begin", _set_tenant)
    event.listen(engine, "before_execute", _add_tenant_to_conflict, retval=True)


def isolate_runs() -> None:
    """Give each tenant its own part of Redis, in place of the one that Agno has set up for all."""
    shared = get_cancellation_manager()
    if isinstance(shared, _PerTenant):
        return  # an application was made before in this process
    assert isinstance(shared, RedisRunCancellationManager)
    assert isinstance(get_event_stream(), RedisEventStream)
    client, async_client = shared.redis_client, shared.async_redis_client
    assert async_client is not None
    managers = _PerTenant(
        lambda tenant: RedisRunCancellationManager(
            client, async_client, key_prefix=f"agentos:{tenant}:cancellation:"
        )
    )
    streams = _PerTenant(
        lambda tenant: RedisEventStream(
            async_client, key_prefix=f"agentos:{tenant}:events:", block_ms=_BLOCK_MS
        )
    )
    set_cancellation_manager(cast(BaseRunCancellationManager, managers))
    set_event_stream(cast(BaseEventStream, streams))


class _PerTenant(Generic[_T]):
    """An object for each tenant; it passes for that of the current context's tenant."""

    def __init__(self, make: Callable[[str], _T]) -> None:
        self._make = make
        self._made: dict[str, _T] = {}

    def __getattr__(self, name: str) -> Any:
        current = context.current()
        tenant = (current.tenant if current is not None else None) or ""
        if tenant not in self._made:
            self._made[tenant] = self._make(tenant)
        return getattr(self._made[tenant], name)


def _set_tenant(connection: Connection) -> None:
    current = context.current()
    tenant = current.tenant if current is not None else None
    # Always set: what a pooled connection had before ended with its transaction.
    connection.execute(_SET_TENANT, {"name": TENANT_SETTING, "tenant": tenant or ""})


def _add_tenant_to_conflict(
    _connection: Connection,
    statement: Any,
    multiparams: Any,
    params: Any,
    _execution_options: Any,
) -> tuple[Any, Any, Any]:
    """Let Agno's `ON CONFLICT (session_id)` name the key as it is here: (tenant_id, session_id)."""
    if isinstance(statement, Insert):
        clause = getattr(statement, "_post_values_clause", None)
        if isinstance(clause, OnConflictClause):
            target = clause.inferred_target_elements
            if target and "tenant_id" not in target:
                clause.inferred_target_elements = [*target, "tenant_id"]
    return statement, multiparams, params
