"""The tables of Agno 3.1.10, each row with the tenant it belongs to.

The definitions are written out, not taken from Agno, so that this revision makes the same tables
whatever Agno is installed later. Against Agno's own they differ in this, on purpose:

- every table but the one of schema versions has `tenant_id`, filled in by the database from
  the transaction's setting, so that Agno's statements need not know of it;
- every key, unique constraint and foreign key starts with it: each tenant has ids of its own, and
  a conflict neither tells that another tenant uses an id nor overwrites the other's row;
- every index starts with it too: each query has the policy's `tenant_id = …`, and an index
  without it would walk through the other tenants' rows;
- row level security shows a transaction its own tenant's rows, and none without a tenant.

What the service's role may do is not said here: `migrate` grants it on every run.
"""

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKeyConstraint,
    PrimaryKeyConstraint,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem

revision = "0001"
down_revision = None

# As of this revision, whatever agentos.schema says later.
SCHEMA = "agentos"
# NULL without a tenant. A setting that was ever set in a session is '' in its later transactions.
TENANT = "nullif(current_setting('app.tenant_id', true), '')"
# What Agno's MigrationManager.latest_schema_version was.
AGNO_SCHEMA_VERSION = "3.0.0"


def _create(table: str, key: str, *items: SchemaItem) -> None:
    """Create a table of tenants' rows, note its version for Agno, and guard it."""
    op.create_table(
        table,
        Column("tenant_id", Text, nullable=False, server_default=text(TENANT)),
        *items,
        PrimaryKeyConstraint("tenant_id", key, name=f"{table}_pkey"),
        CheckConstraint("tenant_id <> ''", name=f"{table}_tenant_id_check"),
        schema=SCHEMA,
    )
    op.execute(f"ALTER TABLE {SCHEMA}.{table} ENABLE ROW LEVEL SECURITY")
    # FORCE, so that it binds the tables' owner too, should that ever not be a superuser.
    op.execute(f"ALTER TABLE {SCHEMA}.{table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON {SCHEMA}.{table}"
        f" USING (tenant_id = {TENANT}) WITH CHECK (tenant_id = {TENANT})"
    )
    op.execute(
        f"INSERT INTO {SCHEMA}.agno_schema_versions (table_name, version, created_at, updated_at)"
        f" VALUES ('{table}', '{AGNO_SCHEMA_VERSION}', now()::text, now()::text)"
    )


def _unique(name: str, *columns: str) -> UniqueConstraint:
    return UniqueConstraint("tenant_id", *columns, name=name)


def _references(
    table: str, column: str, other: str, key: str, ondelete: str | None = None
) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["tenant_id", column],
        [f"{SCHEMA}.{other}.tenant_id", f"{SCHEMA}.{other}.{key}"],
        name=f"{table}_{column}_fkey",
        ondelete=ondelete,
    )


def _index(table: str, *columns: str) -> None:
    """Create an index of one or more columns, under the name that Agno gives it."""
    name = f"idx_{table}_{'_'.join(columns)}"
    op.create_index(name, table, ["tenant_id", *columns], schema=SCHEMA)


def _indexes(table: str, *columns: str) -> None:
    """Create an index for each of these columns."""
    for column in columns:
        _index(table, column)


def _unique_where(table: str, name: str, columns: list[str], condition: str) -> None:
    """Create a unique index of the rows that meet a condition."""
    op.create_index(
        f"{table}_{name}",
        table,
        ["tenant_id", *columns],
        schema=SCHEMA,
        unique=True,
        postgresql_where=text(condition),
    )


def upgrade() -> None:
    """Make the tables, their indexes and their policies."""
    op.create_table(
        "agno_schema_versions",
        Column("table_name", String, primary_key=True),
        Column("version", String, nullable=False),
        Column("created_at", String, nullable=False),
        Column("updated_at", String),
        schema=SCHEMA,
    )
    op.create_index(
        "idx_agno_schema_versions_created_at", "agno_schema_versions", ["created_at"], schema=SCHEMA
    )

    _create(
        "agno_sessions",
        "session_id",
        Column("session_id", String, nullable=False),
        Column("session_type", String, nullable=False),
        Column("agent_id", String),
        Column("team_id", String),
        Column("workflow_id", String),
        Column("user_id", String),
        Column("session_data", JSONB),
        Column("agent_data", JSONB),
        Column("team_data", JSONB),
        Column("workflow_data", JSONB),
        Column("metadata", JSONB),
        Column("summary", JSONB),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger),
    )
    _indexes("agno_sessions", "session_type", "created_at")

    _create(
        "agno_runs",
        "run_id",
        Column("run_id", String, nullable=False),
        Column("session_id", String, nullable=False),
        Column("run_type", String, nullable=False),
        Column("agent_id", String),
        Column("team_id", String),
        Column("workflow_id", String),
        Column("user_id", String),
        Column("parent_run_id", String),
        Column("status", String),
        Column("run_index", BigInteger),
        Column("run_data", JSONB, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger),
        _references("agno_runs", "session_id", "agno_sessions", "session_id", ondelete="CASCADE"),
    )
    _indexes(
        "agno_runs",
        "session_id",
        "run_type",
        "agent_id",
        "team_id",
        "workflow_id",
        "user_id",
        "status",
        "created_at",
    )
    _index("agno_runs", "session_id", "run_index")

    _create(
        "agno_memories",
        "memory_id",
        Column("memory_id", String, nullable=False),
        Column("memory", JSONB, nullable=False),
        Column("feedback", Text),
        Column("input", Text),
        Column("agent_id", String),
        Column("team_id", String),
        Column("user_id", String),
        Column("topics", JSONB),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger),
    )
    _indexes("agno_memories", "user_id", "created_at", "updated_at")

    _create(
        "agno_metrics",
        "id",
        Column("id", String, nullable=False),
        Column("agent_runs_count", BigInteger, nullable=False),
        Column("team_runs_count", BigInteger, nullable=False),
        Column("workflow_runs_count", BigInteger, nullable=False),
        Column("agent_sessions_count", BigInteger, nullable=False),
        Column("team_sessions_count", BigInteger, nullable=False),
        Column("workflow_sessions_count", BigInteger, nullable=False),
        Column("users_count", BigInteger, nullable=False),
        Column("token_metrics", JSONB, nullable=False),
        Column("model_metrics", JSONB, nullable=False),
        Column("date", Date, nullable=False),
        Column("aggregation_period", String, nullable=False),
        Column("user_id", String, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger),
        Column("completed", Boolean, nullable=False),
        _unique(
            "agno_metrics_uq_metrics_user_date_period", "user_id", "date", "aggregation_period"
        ),
    )
    _indexes("agno_metrics", "date", "user_id")

    _create(
        "agno_eval_runs",
        "run_id",
        Column("run_id", String, nullable=False),
        Column("eval_type", String, nullable=False),
        Column("eval_data", JSONB, nullable=False),
        Column("eval_input", JSONB, nullable=False),
        Column("name", String),
        Column("agent_id", String),
        Column("team_id", String),
        Column("workflow_id", String),
        Column("model_id", String),
        Column("model_provider", String),
        Column("evaluated_component_name", String),
        Column("user_id", String),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger),
    )
    _indexes("agno_eval_runs", "user_id", "created_at")

    _create(
        "agno_knowledge",
        "id",
        Column("id", String, nullable=False),
        Column("name", String, nullable=False),
        Column("description", Text, nullable=False),
        Column("metadata", JSONB),
        Column("type", String),
        Column("size", BigInteger),
        Column("linked_to", String),
        Column("access_count", BigInteger),
        Column("status", String),
        Column("status_message", Text),
        Column("created_at", BigInteger),
        Column("updated_at", BigInteger),
        Column("external_id", String),
        Column("user_id", String),
    )
    _indexes("agno_knowledge", "user_id")
    _index("agno_knowledge", "user_id", "linked_to")

    _create(
        "agno_learnings",
        "learning_id",
        Column("learning_id", String, nullable=False),
        Column("learning_type", String, nullable=False),
        Column("namespace", String),
        Column("user_id", String),
        Column("agent_id", String),
        Column("team_id", String),
        Column("workflow_id", String),
        Column("session_id", String),
        Column("entity_id", String),
        Column("entity_type", String),
        Column("content", JSONB, nullable=False),
        Column("metadata", JSONB),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger),
    )
    _indexes(
        "agno_learnings",
        "learning_type",
        "namespace",
        "user_id",
        "agent_id",
        "team_id",
        "workflow_id",
        "session_id",
        "entity_id",
        "entity_type",
        "created_at",
    )

    _create(
        "agno_schedules",
        "id",
        Column("id", String, nullable=False),
        Column("name", String, nullable=False),
        Column("description", Text),
        Column("method", String, nullable=False),
        Column("endpoint", String, nullable=False),
        Column("payload", JSONB),
        Column("cron_expr", String, nullable=False),
        Column("timezone", String, nullable=False),
        Column("timeout_seconds", BigInteger, nullable=False),
        Column("max_retries", BigInteger, nullable=False),
        Column("retry_delay_seconds", BigInteger, nullable=False),
        Column("enabled", Boolean, nullable=False),
        Column("next_run_at", BigInteger),
        Column("locked_by", String),
        Column("locked_at", BigInteger),
        Column("user_id", String),
        Column("managed_by", String),
        Column("target_type", String),
        Column("target_id", String),
        Column("created_by_run_id", String),
        Column("created_by_session_id", String),
        Column("updated_by_run_id", String),
        Column("updated_by_session_id", String),
        Column("disabled_reason", String),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger),
    )
    _indexes(
        "agno_schedules", "name", "next_run_at", "user_id", "managed_by", "target_id", "created_at"
    )
    _index("agno_schedules", "enabled", "next_run_at")
    _index("agno_schedules", "user_id", "enabled", "next_run_at")
    _unique_where("agno_schedules", "uq_user_name", ["user_id", "name"], "user_id IS NOT NULL")
    _unique_where("agno_schedules", "uq_unowned_name", ["name"], "user_id IS NULL")

    _create(
        "agno_schedule_runs",
        "id",
        Column("id", String, nullable=False),
        Column("schedule_id", String, nullable=False),
        Column("attempt", BigInteger, nullable=False),
        Column("triggered_at", BigInteger),
        Column("completed_at", BigInteger),
        Column("status", String, nullable=False),
        Column("status_code", BigInteger),
        Column("run_id", String),
        Column("session_id", String),
        Column("error", Text),
        Column("input", JSONB),
        Column("output", JSONB),
        Column("requirements", JSONB),
        Column("user_id", String),
        Column("created_at", BigInteger, nullable=False),
        _references(
            "agno_schedule_runs", "schedule_id", "agno_schedules", "id", ondelete="CASCADE"
        ),
    )
    _indexes("agno_schedule_runs", "schedule_id", "status", "user_id", "created_at")

    _create(
        "agno_approvals",
        "id",
        Column("id", String, nullable=False),
        Column("run_id", String, nullable=False),
        Column("session_id", String, nullable=False),
        Column("status", String, nullable=False),
        Column("source_type", String, nullable=False),
        Column("approval_type", String),
        Column("pause_type", String, nullable=False),
        Column("tool_name", String),
        Column("tool_args", JSONB),
        Column("expires_at", BigInteger),
        Column("agent_id", String),
        Column("team_id", String),
        Column("workflow_id", String),
        Column("user_id", String),
        Column("schedule_id", String),
        Column("schedule_run_id", String),
        Column("source_name", String),
        Column("requirements", JSONB),
        Column("context", JSONB),
        Column("resolution_data", JSONB),
        Column("resolved_by", String),
        Column("resolved_at", BigInteger),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger),
        Column("run_status", String),
    )
    _indexes(
        "agno_approvals",
        "run_id",
        "session_id",
        "status",
        "source_type",
        "approval_type",
        "pause_type",
        "agent_id",
        "team_id",
        "workflow_id",
        "user_id",
        "schedule_id",
        "schedule_run_id",
        "created_at",
        "run_status",
    )

    _create(
        "agno_service_accounts",
        "id",
        Column("id", String, nullable=False),
        Column("name", String, nullable=False),
        Column("user_id", String),
        Column("token_hash", String, nullable=False),
        Column("token_prefix", String, nullable=False),
        Column("scopes", JSONB, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
        Column("last_used_at", BigInteger),
        Column("revoked_at", BigInteger),
        Column("created_by", String),
        _unique("agno_service_accounts_token_hash_key", "token_hash"),
    )
    _indexes("agno_service_accounts", "token_hash", "created_at")
    _unique_where("agno_service_accounts", "uq_active_name", ["name"], "revoked_at IS NULL")

    _create(
        "agno_tool_results",
        "result_id",
        Column("result_id", String, nullable=False),
        Column("namespace", String, nullable=False),
        Column("path", String, nullable=False),
        Column("session_id", String, nullable=False),
        Column("run_id", String, nullable=False),
        Column("tool_call_id", String, nullable=False),
        Column("tool_name", String, nullable=False),
        Column("args_hash", String, nullable=False),
        Column("content_type", String, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("line_count", BigInteger, nullable=False),
        Column("preview", Text, nullable=False),
        Column("user_id", String),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
        _unique("agno_tool_results_uq_tool_results_namespace_path", "namespace", "path"),
    )
    _indexes("agno_tool_results", "expires_at")
    _index("agno_tool_results", "session_id", "created_at")

    _create(
        "agno_traces",
        "trace_id",
        Column("trace_id", String, nullable=False),
        Column("name", String, nullable=False),
        Column("status", String, nullable=False),
        Column("start_time", String, nullable=False),
        Column("end_time", String, nullable=False),
        Column("duration_ms", BigInteger, nullable=False),
        Column("run_id", String),
        Column("session_id", String),
        Column("user_id", String),
        Column("agent_id", String),
        Column("team_id", String),
        Column("workflow_id", String),
        Column("created_at", String, nullable=False),
    )
    _indexes(
        "agno_traces",
        "status",
        "start_time",
        "run_id",
        "session_id",
        "user_id",
        "agent_id",
        "team_id",
        "workflow_id",
        "created_at",
    )

    _create(
        "agno_spans",
        "span_id",
        Column("span_id", String, nullable=False),
        Column("trace_id", String, nullable=False),
        Column("parent_span_id", String),
        Column("name", String, nullable=False),
        Column("span_kind", String, nullable=False),
        Column("status_code", String, nullable=False),
        Column("status_message", Text),
        Column("start_time", String, nullable=False),
        Column("end_time", String, nullable=False),
        Column("duration_ms", BigInteger, nullable=False),
        Column("attributes", JSONB),
        Column("created_at", String, nullable=False),
        _references("agno_spans", "trace_id", "agno_traces", "trace_id"),
    )
    _indexes("agno_spans", "trace_id", "parent_span_id", "start_time", "created_at")


def downgrade() -> None:
    """Refuse: there is nothing before this revision but an empty database.

    Raises:
        NotImplementedError: always; going back would drop what users have stored.
    """
    raise NotImplementedError(f"to go back, drop the schema {SCHEMA} or restore a backup")
