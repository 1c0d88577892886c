"""The migration step: what it makes, puts back and refuses, and what its role may do."""

import asyncio
import io
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from agentos import migrate, schema
from agentos.environment import normalise_database_url
from agno.db.base import SessionType
from agno.db.migrations.manager import MigrationManager
from agno.db.postgres import AsyncPostgresDb
from agno.db.schemas.memory import UserMemory
from agno.run.base import RunStatus
from agno.run.workflow import WorkflowRunOutput
from agno.session.workflow import WorkflowSession
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import Column, Connection, Table, create_engine, event, inspect, literal_column
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers import AGENTS, PATIENCE_S, Postgresql, closed_port, wait_until

# With what shells, URLs, libpq and SQL each treat in a way of their own.
PASSWORD = "p@ss 'wörd\"?#%\\" + secrets.token_hex(8)
UNGUARDED = {"agno_schema_versions", "alembic_version"}
SESSION = (
    "INSERT INTO agentos.agno_sessions (session_id, session_type, user_id, created_at)"
    " VALUES (%s, 'workflow', %s, 1)"
)


class Database:
    """A database of its own on a server that other tests use as well."""

    def __init__(self, server: Postgresql, template: str = "template1") -> None:
        """Create it as a copy of another one, by default an empty one."""
        self.name = f"test {secrets.token_hex(4)}"
        self._server = server
        self._admin("CREATE DATABASE {} TEMPLATE {}", template)
        self._environment = {
            "MIGRATION_DATABASE_URL": self.url,
            "AGENTOS_DATABASE_PASSWORD": PASSWORD,
        }

    @property
    def url(self) -> str:
        """Its URL as the superuser."""
        return self._server.url(database=self.name.replace(" ", "%20"))

    @property
    def conninfo(self) -> str:
        """The same, as psycopg takes it."""
        return normalise_database_url(self.url)

    @property
    def role_conninfo(self) -> str:
        """How the service's role logs in."""
        return make_conninfo(self.conninfo, user=schema.ROLE, password=PASSWORD)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start the migration step as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "agentos.migrate"],
            env={"PATH": os.environ["PATH"], **self._environment, **environment},
            cwd=AGENTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> tuple[int, list[str], list[str]]:
        """Run the migration step here; give the status, and the lines of output and of errors."""
        output, errors = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(output),
            redirect_stderr(errors),
        ):
            patch.setattr("signal.signal", lambda *_: None)
            for name, value in {**self._environment, **environment}.items():
                patch.setenv(name, value)
            status = migrate.main()
        told = output.getvalue() + errors.getvalue()
        assert PASSWORD not in told and self._server.password not in told
        return status, output.getvalue().splitlines(), errors.getvalue().splitlines()

    def changes(self) -> list[str]:
        """Run the migration step, which must succeed, and give what it says it changed."""
        status, output, errors = self.run()
        assert (status, errors) == (0, [])
        return output

    def refusal(self, **environment: str) -> tuple[int, str]:
        """Run the migration step, which must fail with one line, and give status and line."""
        status, output, errors = self.run(**environment)
        assert (output, len(errors)) == ([], 1), errors
        return status, errors[0]

    def query(self, statement: str | sql.Composed) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.conninfo) as connection:
            # No statement here is made of anything but this file's own text.
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def tenant(self, name: str | None) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        """Give a transaction of the service's role, for a tenant."""
        with psycopg.connect(self.role_conninfo) as connection, connection.cursor() as cursor:
            if name is not None:
                cursor.execute("SELECT set_config(%s, %s, true)", [schema.TENANT_SETTING, name])
            yield cursor

    def drop(self) -> None:
        """Drop it."""
        self._admin("DROP DATABASE {} WITH (FORCE)")

    def _admin(self, statement: LiteralString, *names: str) -> None:
        url = normalise_database_url(self._server.url())
        identifiers = [sql.Identifier(name) for name in (self.name, *names)]
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*identifiers))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Postgresql]:
    """Give a server of this module's own: the role, which it changes, is the whole server's."""
    server = Postgresql()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database(postgresql: Postgresql) -> Iterator[Database]:
    """Give an empty database."""
    database = Database(postgresql)
    yield database
    database.drop()


@pytest.fixture(scope="module")
def shared(postgresql: Postgresql) -> Iterator[Database]:
    """Give a migrated database for tests that leave no rows behind."""
    database = Database(postgresql)
    list(migrate.migrate(database.conninfo, PASSWORD))
    yield database
    database.drop()


@pytest.fixture
def migrated(postgresql: Postgresql, shared: Database) -> Iterator[Database]:
    """Give a migrated database of the test's own."""
    database = Database(postgresql, template=shared.name)
    # The copy has not the rights on the database; and the role may not be as it should be.
    list(migrate.migrate(database.conninfo, PASSWORD))
    yield database
    database.drop()


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgresql]:
    """Give a server that no other module uses, which logs every statement."""
    server = Postgresql()
    try:
        server.start()
        with psycopg.connect(normalise_database_url(server.url()), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET logging_collector = on")
            connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        server.stop()
        server.start()
        yield server
    finally:
        server.remove()


def snapshot(database: Database) -> list[Any]:
    """Give what is there of the schema and the role, each row with the transaction it is from."""
    catalogs = {
        "pg_authid": "rolname = 'agentos'",
        "pg_db_role_setting": "setrole = 'agentos'::regrole",
        "pg_namespace": "nspname = 'agentos'",
        "pg_class": "relnamespace = 'agentos'::regnamespace",
        "pg_policy": "true",
        "agentos.agno_schema_versions": "true",
        "agentos.alembic_version": "true",
    }
    return [
        database.query(
            f"SELECT xmin::text, t::text FROM {table} AS t WHERE {condition} ORDER BY 1, 2"
        )
        for table, condition in catalogs.items()
    ]


def snapshot_of_tables(database: Database) -> list[tuple[Any, ...]]:
    """Give what the catalog holds about the tables."""
    return database.query(
        "SELECT xmin::text, t::text FROM pg_class AS t"
        " WHERE relnamespace = 'agentos'::regnamespace ORDER BY 1, 2"
    )


def test_revision_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(AGENTS / "agentos" / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION
    assert schema.REVISION.isdigit()


def test_fresh_database_is_migrated_and_then_left_alone(database: Database) -> None:
    processes = []
    for _ in range(2):
        process = database.start()
        processes.append((*process.communicate(timeout=PATIENCE_S), process.returncode))
        if len(processes) == 1:
            before = snapshot(database)
    (output, errors, status), second = processes
    assert (status, errors) == (0, "")
    assert "The schema agentos was brought from nothing to 0001.\n" in output
    assert second == ("", "", 0)
    assert snapshot(database) == before


def test_values_from_files(database: Database, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(database.url + "\n", encoding="utf-8")
    (tmp_path / "password").write_text(PASSWORD + "\n", encoding="utf-8")
    status, _, errors = database.run(
        MIGRATION_DATABASE_URL="",
        MIGRATION_DATABASE_URL_FILE=str(tmp_path / "url"),
        AGENTOS_DATABASE_PASSWORD="",
        AGENTOS_DATABASE_PASSWORD_FILE=str(tmp_path / "password"),
    )
    assert (status, errors) == (0, [])
    assert database.changes() == []


def test_dropped_schema_is_made_again(migrated: Database) -> None:
    migrated.query("DROP SCHEMA agentos CASCADE")
    # Nothing else: the migration alone guards every table.
    assert migrated.changes() == [
        "The schema agentos was brought from nothing to 0001.",
        "The rights of the role agentos on the schema agentos were set.",
        "The rights of the role agentos on the tables of agentos were set.",
    ]


def test_empty_schema_is_used(database: Database) -> None:
    list(migrate.migrate(database.conninfo, PASSWORD))
    database.query("DROP SCHEMA agentos CASCADE")
    database.query("CREATE SCHEMA agentos AUTHORIZATION agentos")
    changes = database.changes()
    assert "The schema agentos was brought from nothing to 0001." in changes
    assert "The schema agentos was taken from the role agentos." in changes
    assert database.changes() == []


# --- The tables are Agno's ---


def agno_tables(connection: Connection, schema_name: str) -> dict[str, dict[str, Any]]:
    """Describe the tables of a schema, without what is on purpose not as Agno has it."""
    inspector = inspect(connection)

    def rest(columns: Sequence[str | None]) -> list[str | None]:
        return [column for column in columns if column != "tenant_id"]

    return {
        table: {
            "columns": {
                column["name"]: (
                    str(column["type"]),
                    "NULL" if column["nullable"] else "NOT NULL",
                    column["default"],
                )
                for column in inspector.get_columns(table, schema_name)
                if column["name"] != "tenant_id"
            },
            "primary key": rest(
                inspector.get_pk_constraint(table, schema_name)["constrained_columns"]
            ),
            "unique": {
                unique["name"]: rest(unique["column_names"])
                for unique in inspector.get_unique_constraints(table, schema_name)
            },
            "foreign keys": {
                key["name"]: (
                    rest(key["constrained_columns"]),
                    key["referred_table"],
                    rest(key["referred_columns"]),
                    key["options"],
                )
                for key in inspector.get_foreign_keys(table, schema_name)
            },
            "indexes": {
                index["name"]: (
                    rest(index["column_names"]),
                    index["unique"],
                    index.get("dialect_options", {}).get("postgresql_where"),
                )
                for index in inspector.get_indexes(table, schema_name)
            },
        }
        for table in inspector.get_table_names(schema_name)
        if table != "alembic_version"
    }


async def make_agno_tables(conninfo: str) -> None:
    """Let Agno make its tables, all that the migration has, in a schema of its own."""
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=lambda: psycopg.AsyncConnection.connect(conninfo),
    )
    agno = AsyncPostgresDb(id="agno", db_engine=engine, db_schema="agno")
    await agno._create_all_tables()  # type: ignore[no-untyped-call]
    await agno._get_table("spans", create_table_if_not_found=True)
    await engine.dispose()


def test_tables_are_those_of_the_installed_agno(migrated: Database) -> None:
    asyncio.run(make_agno_tables(migrated.conninfo))
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(migrated.conninfo)
    )
    with engine.connect() as connection:
        ours, agnos = (agno_tables(connection, name) for name in ("agentos", "agno"))
    engine.dispose()
    advice = "Agno's tables have changed: write a migration"
    assert ours.keys() == agnos.keys(), advice
    for table in agnos:
        for part in agnos[table]:
            assert ours[table][part] == agnos[table][part], f"{advice} for {part} of {table}"
    versions = "SELECT table_name, version FROM {}.agno_schema_versions ORDER BY table_name"
    assert migrated.query(versions.format("agentos")) == migrated.query(versions.format("agno")), (
        advice
    )


def test_agno_expects_the_recorded_version(shared: Database) -> None:
    latest = MigrationManager.available_versions[-1][1].public
    assert shared.query("SELECT DISTINCT version FROM agentos.agno_schema_versions") == [(latest,)]


def test_every_key_and_index_starts_with_the_tenant(shared: Database) -> None:
    keys = shared.query(
        "SELECT indexrelid::regclass::text, attname FROM pg_index"
        " JOIN pg_class ON pg_class.oid = indrelid"
        " JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]"
        " WHERE relnamespace = 'agentos'::regnamespace"
        " AND relname NOT IN ('agno_schema_versions', 'alembic_version')"
    )
    assert len(keys) > 80
    assert {column for _, column in keys} == {"tenant_id"}, keys


def test_every_table_with_tenants_is_guarded(shared: Database) -> None:
    tables = shared.query(
        "SELECT relname, relrowsecurity AND relforcerowsecurity,"
        " (SELECT count(*) FROM pg_policy WHERE polrelid = pg_class.oid),"
        " (SELECT min(pg_get_expr(polqual, polrelid)) FROM pg_policy"
        "  WHERE polrelid = pg_class.oid"
        "  AND pg_get_expr(polqual, polrelid) = pg_get_expr(polwithcheck, polrelid)"
        "  AND polcmd = '*' AND polroles = '{0}')"
        " FROM pg_class WHERE relnamespace = 'agentos'::regnamespace AND relkind = 'r'"
    )
    assert {table for table, guarded, *_ in tables if not guarded} == UNGUARDED
    policies = {
        (count, condition) for table, _, count, condition in tables if table not in UNGUARDED
    }
    ((count, condition),) = policies
    assert count == 1
    assert "tenant_id = NULLIF(current_setting('app.tenant_id'" in condition


def test_sorted_list_of_a_tenant_comes_from_an_index(migrated: Database) -> None:
    migrated.query(
        "INSERT INTO agentos.agno_sessions (tenant_id, session_id, session_type, created_at)"
        " SELECT 'tenant' || n % 50, n, 'workflow', n FROM generate_series(1, 5000) AS n"
    )
    migrated.query("ANALYZE agentos.agno_sessions")
    with migrated.tenant("tenant7") as cursor:
        cursor.execute(
            "EXPLAIN SELECT * FROM agentos.agno_sessions ORDER BY created_at DESC LIMIT 20"
        )
        plan = "\n".join(line for (line,) in cursor)
    assert "idx_agno_sessions_created_at" in plan and "Sort" not in plan


# --- Tenants ---


def test_without_a_tenant_there_is_no_row_and_no_insert(migrated: Database) -> None:
    with migrated.tenant("a") as cursor:
        cursor.execute(SESSION, ["s1", None])
    for tenant in (None, ""):
        with migrated.tenant(tenant) as cursor:
            cursor.execute("SELECT * FROM agentos.agno_sessions")
            assert cursor.fetchall() == []
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
            migrated.tenant(tenant) as cursor,
        ):
            cursor.execute(SESSION, ["s2", None])


def test_tenant_ends_with_its_transaction(shared: Database) -> None:
    with psycopg.connect(shared.role_conninfo) as connection:
        connection.execute("SELECT set_config('app.tenant_id', 'a', true)")
        connection.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            connection.execute(SESSION, ["s", None])


def test_same_ids_in_two_tenants_do_not_meet(migrated: Database) -> None:
    for tenant in ("a", "b"):
        with migrated.tenant(tenant) as cursor:
            cursor.execute(SESSION, ["same", f"user of {tenant}"])
    for tenant in ("a", "b"):
        with migrated.tenant(tenant) as cursor:
            cursor.execute("SELECT tenant_id, session_id, user_id FROM agentos.agno_sessions")
            assert cursor.fetchall() == [(tenant, "same", f"user of {tenant}")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE agentos.agno_sessions SET user_id = 'b' WHERE session_id = 'of a'",
        "DELETE FROM agentos.agno_sessions WHERE session_id = 'of a'",
    ],
)
def test_other_tenants_rows_cannot_be_changed(migrated: Database, statement: str) -> None:
    with migrated.tenant("a") as cursor:
        cursor.execute(SESSION, ["of a", None])
    with migrated.tenant("b") as cursor:
        cursor.execute(statement)
        assert cursor.rowcount == 0
    with migrated.tenant("a") as cursor:
        cursor.execute("SELECT user_id FROM agentos.agno_sessions")
        assert cursor.fetchall() == [(None,)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO agentos.agno_sessions (tenant_id, session_id, session_type, created_at)"
        " VALUES ('a', 's', 'workflow', 1)",
        "UPDATE agentos.agno_sessions SET tenant_id = 'a'",
    ],
)
def test_nothing_can_be_stored_as_another_tenant(migrated: Database, statement: str) -> None:
    with migrated.tenant("b") as cursor:
        cursor.execute(SESSION, ["of b", None])
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
        migrated.tenant("b") as cursor,
    ):
        cursor.execute(statement)


def test_other_tenants_session_cannot_be_referred_to(migrated: Database) -> None:
    run = (
        "INSERT INTO agentos.agno_runs (run_id, session_id, run_type, run_data, created_at)"
        " VALUES ('r', 'of a', 'workflow', '{}', 1)"
    )
    with migrated.tenant("a") as cursor:
        cursor.execute(SESSION, ["of a", None])
        cursor.execute(run)
    with pytest.raises(psycopg.errors.ForeignKeyViolation), migrated.tenant("b") as cursor:
        cursor.execute(run)
    with migrated.tenant("a") as cursor:
        cursor.execute("DELETE FROM agentos.agno_sessions")
        cursor.execute("SELECT * FROM agentos.agno_runs")
        assert cursor.fetchall() == []


# --- What the role may do ---


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE SCHEMA mine",
        "CREATE TABLE agentos.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "ALTER TABLE agentos.agno_sessions ADD COLUMN mine int",
        "ALTER TABLE agentos.agno_sessions DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE agentos.agno_sessions NO FORCE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON agentos.agno_sessions USING (true)",
        "DROP POLICY tenant ON agentos.agno_sessions",
        "DROP TABLE agentos.agno_sessions",
        "DROP SCHEMA agentos CASCADE",
        "TRUNCATE agentos.agno_sessions",
        "CREATE INDEX mine ON agentos.agno_sessions (session_id)",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER ROLE agentos BYPASSRLS",
        "CREATE ROLE mine",
        "SELECT * FROM pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY agentos.agno_sessions TO PROGRAM 'true'",
        "INSERT INTO agentos.agno_schema_versions VALUES ('a', 'b', 'c')",
        "UPDATE agentos.agno_schema_versions SET version = '1'",
        "DELETE FROM agentos.alembic_version",
        "UPDATE agentos.alembic_version SET version_num = '0'",
        "SET row_security = off; SELECT * FROM agentos.agno_sessions",
    ],
)
def test_role_may_not(shared: Database, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), shared.tenant("a") as cursor:
        cursor.execute(statement)


def test_role_may_read_the_versions(shared: Database) -> None:
    with shared.tenant(None) as cursor:
        cursor.execute("SELECT version_num FROM agentos.alembic_version")
        assert cursor.fetchall() == [("0001",)]
        cursor.execute("SELECT count(*) FROM agentos.agno_schema_versions")
        assert cursor.fetchall() == [(14,)]


def test_role_has_limits(shared: Database) -> None:
    with shared.tenant(None) as cursor:
        cursor.execute(
            "SELECT current_setting('statement_timeout'),"
            " current_setting('idle_in_transaction_session_timeout')"
        )
        assert cursor.fetchall() == [("30s", "1min")]


# --- What is put back ---


@pytest.mark.parametrize(
    ("drift", "change"),
    [
        ("ALTER ROLE agentos PASSWORD 'another'", "The password of the role agentos was set."),
        ("ALTER ROLE agentos PASSWORD NULL", "The password of the role agentos was set."),
        ("ALTER ROLE agentos SUPERUSER BYPASSRLS",
         "The role agentos was changed to NOSUPERUSER NOBYPASSRLS."),
        ("ALTER ROLE agentos NOLOGIN CREATEDB CREATEROLE REPLICATION INHERIT",
         "The role agentos was changed to LOGIN NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION."),
        ("ALTER ROLE agentos CONNECTION LIMIT 0 VALID UNTIL '2020-01-01'",
         "The role agentos was changed to CONNECTION LIMIT 30 VALID UNTIL 'infinity'."),
        ("ALTER ROLE agentos SET statement_timeout = 0",
         "The role agentos was given statement_timeout = 30s."),
        ("GRANT postgres TO agentos", "The role agentos was taken out of postgres."),
        ("GRANT TRUNCATE ON agentos.agno_runs TO agentos",
         "The rights of the role agentos on agentos.agno_runs were set."),
        ("GRANT ALL ON agentos.agno_schema_versions TO PUBLIC",
         "The rights of the role agentos on agentos.agno_schema_versions were set."),
        ("REVOKE INSERT ON agentos.agno_runs FROM agentos",
         "The rights of the role agentos on agentos.agno_runs were set."),
        ("GRANT CREATE ON SCHEMA agentos TO PUBLIC",
         "The rights of the role agentos on the schema agentos were set."),
        ("ALTER TABLE agentos.agno_runs OWNER TO agentos",
         "The table agentos.agno_runs was taken from the role agentos."),
        ("ALTER TABLE agentos.agno_runs DISABLE ROW LEVEL SECURITY",
         "Row level security was put back on agentos.agno_runs."),
        ("ALTER TABLE agentos.agno_runs NO FORCE ROW LEVEL SECURITY",
         "Row level security was put back on agentos.agno_runs."),
        ("CREATE POLICY all_of_it ON agentos.agno_runs USING (true)",
         "The policy of agentos.agno_runs was put back."),
        ("ALTER POLICY tenant ON agentos.agno_runs USING (true)",
         "The policy of agentos.agno_runs was put back."),
        ("DROP POLICY tenant ON agentos.agno_runs",
         "The policy of agentos.agno_runs was put back."),
    ],
)  # fmt: skip
def test_drift_is_put_back(migrated: Database, drift: str, change: str) -> None:
    migrated.query(drift)
    changes = list(migrate.migrate(migrated.conninfo, PASSWORD))
    assert change in changes
    assert list(migrate.migrate(migrated.conninfo, PASSWORD)) == []
    with migrated.tenant("a") as cursor:
        cursor.execute(SESSION, ["s", None])


def test_rights_on_the_database_are_put_back(migrated: Database) -> None:
    name = f'"{migrated.name}"'
    migrated.query(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    migrated.query(f"GRANT CREATE ON DATABASE {name} TO agentos")
    assert migrated.changes() == [
        f"The rights of the role agentos on the database {name} were set."
    ]
    assert migrated.changes() == []


# --- Two at once, and one killed ---


def test_two_at_once(database: Database) -> None:
    processes = [database.start() for _ in range(3)]
    outputs = [process.communicate(timeout=PATIENCE_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    migrated_by = [output for output, _ in outputs if "from nothing to 0001" in output]
    assert len(migrated_by) == 1
    assert sum(output == "" for output, _ in outputs) == 2
    assert database.changes() == []


def test_two_databases_of_one_server_at_once(own_server: Postgresql) -> None:
    """The role belongs to the server, so the lock of a database does not guard it."""
    databases = [Database(own_server) for _ in range(2)]
    try:
        assert databases[0].query("SELECT 1 FROM pg_roles WHERE rolname = 'agentos'") == []
        with psycopg.connect(databases[0].conninfo) as connection:
            # Neither gets further than its look at whether the role is there.
            connection.execute("LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE")
            processes = [database.start() for database in databases]
            wait_until(
                lambda: (
                    connection.execute(
                        "SELECT count(*) FROM pg_locks"
                        " WHERE NOT granted AND relation = 'pg_authid'::regclass"
                    ).fetchall()
                    == [(2,)]
                )
            )
        outputs = [process.communicate(timeout=PATIENCE_S) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        created = [output for output, _ in outputs if "The role agentos was created." in output]
        assert len(created) == 1
        assert [database.changes() for database in databases] == [[], []]
    finally:
        for database in databases:
            database.drop()


def test_killed_in_the_middle_leaves_the_old_state(migrated: Database) -> None:
    migrated.query("DROP SCHEMA agentos CASCADE")
    with psycopg.connect(migrated.conninfo) as connection:
        # What creating a table waits for, the schema and the version table being made already.
        connection.execute("LOCK TABLE pg_catalog.pg_policy IN ACCESS EXCLUSIVE MODE")
        process = migrated.start()
        wait_until(
            lambda: bool(
                connection.execute(
                    "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'pg_policy'::regclass"
                ).fetchall()
            )
        )
        process.kill()
        process.communicate()
        # The server notices, although the lock is not given.
        wait_until(
            lambda: (
                not connection.execute(
                    "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'pg_policy'::regclass"
                ).fetchall()
            )
        )
        assert connection.execute("SELECT to_regnamespace('agentos')").fetchall() == [(None,)]
    assert "The schema agentos was brought from nothing to 0001." in migrated.changes()
    assert migrated.changes() == []


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the migration step wait for a lock for a second only."""
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 1)


@pytest.mark.usefixtures("short_wait")
def test_waits_for_another_migration_only_so_long(migrated: Database) -> None:
    with psycopg.connect(migrated.conninfo) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [migrate.LOCK_KEY])
        refusal = migrated.refusal()
    assert refusal == (
        1,
        "agentos migrate: another migration has been running for 1 s; try again when it ends",
    )


@pytest.mark.usefixtures("short_wait")
def test_waits_for_a_locked_table_only_so_long(migrated: Database) -> None:
    with psycopg.connect(migrated.conninfo) as connection:
        connection.execute("LOCK TABLE agentos.alembic_version")
        refusal = migrated.refusal()
    assert refusal == (
        1,
        "agentos migrate: something else has kept a table locked for 1 s; nothing was changed",
    )


# --- What is refused ---


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("MIGRATION_DATABASE_URL", "", "MIGRATION_DATABASE_URL is not set"),
        # Named, since pytest-xdist wants a test to have the same name in each process.
        pytest.param("MIGRATION_DATABASE_URL", f"mysql://u:{PASSWORD}@h/d",
                     "MIGRATION_DATABASE_URL is not a PostgreSQL URL", id="another database"),
        ("MIGRATION_DATABASE_URL", "postgresql://u:p@h", "MIGRATION_DATABASE_URL names no database"),
        ("MIGRATION_DATABASE_URL_FILE", "/missing",
         "MIGRATION_DATABASE_URL and MIGRATION_DATABASE_URL_FILE are both set"),
        ("AGENTOS_DATABASE_PASSWORD", "", "AGENTOS_DATABASE_PASSWORD is not set"),
        ("AGENTOS_DATABASE_PASSWORD_FILE", "/missing",
         "AGENTOS_DATABASE_PASSWORD and AGENTOS_DATABASE_PASSWORD_FILE are both set"),
    ],
)  # fmt: skip
def test_bad_settings_are_told_in_one_line(
    shared: Database, name: str, value: str, wrong: str
) -> None:
    status, line = shared.refusal(**{name: value})
    assert status == 78
    assert line.startswith(f"agentos migrate: {wrong}")


def test_all_bad_settings_are_told(shared: Database, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"a\0b")
    status, output, errors = shared.run(
        MIGRATION_DATABASE_URL="",
        AGENTOS_DATABASE_PASSWORD="",
        AGENTOS_DATABASE_PASSWORD_FILE=str(tmp_path / "password"),
    )
    assert (status, output) == (78, [])
    first, second = errors
    assert first.startswith("agentos migrate: MIGRATION_DATABASE_URL is not set")
    assert second.startswith("agentos migrate: AGENTOS_DATABASE_PASSWORD_FILE has a zero byte")


def test_server_away(shared: Database) -> None:
    with closed_port() as port:
        url = f"postgresql://postgres:{PASSWORD[-16:]}@127.0.0.1:{port}/postgres"
        status, line = shared.refusal(MIGRATION_DATABASE_URL=url)
    assert status == 1
    assert line.startswith("agentos migrate: ") and "refused" in line
    assert PASSWORD[-16:] not in line


def test_wrong_password(shared: Database, postgresql: Postgresql) -> None:
    status, line = shared.refusal(MIGRATION_DATABASE_URL=postgresql.url(password="wrong-one"))
    assert status == 1
    assert 'password authentication failed for user "postgres"' in line
    assert "wrong-one" not in line


def test_missing_database(shared: Database, postgresql: Postgresql) -> None:
    status, line = shared.refusal(MIGRATION_DATABASE_URL=postgresql.url(database="missing"))
    assert (status, 'database "missing" does not exist' in line) == (1, True)


def test_role_that_is_not_a_superuser(shared: Database) -> None:
    role = f"plain_{secrets.token_hex(4)}"
    shared.query(f"CREATE ROLE {role} LOGIN PASSWORD 'plain'")
    try:
        url = shared.url.partition("@")[2]
        assert shared.refusal(MIGRATION_DATABASE_URL=f"postgresql://{role}:plain@{url}") == (
            1,
            f"agentos migrate: the role {role} of MIGRATION_DATABASE_URL is not a superuser",
        )
    finally:
        shared.query(f"DROP ROLE {role}")


def test_the_services_own_role(migrated: Database) -> None:
    migrated.query("ALTER ROLE agentos SUPERUSER PASSWORD 'own'")
    url = f"postgresql://agentos:own@{migrated.url.partition('@')[2]}"
    status, line = migrated.refusal(MIGRATION_DATABASE_URL=url)
    assert (status, "the service's own role" in line) == (1, True)
    assert migrated.changes()


def test_schema_of_something_else(database: Database) -> None:
    database.query("CREATE SCHEMA agentos; CREATE TABLE agentos.agno_sessions (id int)")
    assert database.refusal() == (
        1,
        "agentos migrate: the schema agentos exists and was made by something else;"
        " rename or drop it",
    )
    assert database.query(
        "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'agentos'::regnamespace"
    ) == [("agno_sessions", None)]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("DROP TABLE agentos.agno_runs", "the schema agentos has lost agno_runs; restore a backup,"),
        ("DROP TABLE agentos.agno_schema_versions",
         'relation "agentos.agno_schema_versions" does not exist'),
        ("DELETE FROM agentos.alembic_version", 'relation "agno_schema_versions" already exists'),
        ("UPDATE agentos.alembic_version SET version_num = 'mine'",
         "agentos.alembic_version holds 'mine'; expected one number"),
    ],
)  # fmt: skip
def test_half_present_schema(migrated: Database, damage: str, line: str) -> None:
    migrated.query(damage)
    before = snapshot_of_tables(migrated)
    status, told = migrated.refusal()
    assert status == 1
    assert told.startswith(f"agentos migrate: {line}")
    assert snapshot_of_tables(migrated) == before


def test_database_of_a_newer_release_is_left_as_it_is(migrated: Database) -> None:
    migrated.query("UPDATE agentos.alembic_version SET version_num = '9999'")
    migrated.query("GRANT TRUNCATE ON agentos.agno_runs TO agentos")
    before = snapshot_of_tables(migrated)
    assert migrated.changes() == ["The schema agentos is at 9999, newer than 0001: left as it is."]
    assert snapshot_of_tables(migrated) == before


def test_no_secret_reaches_the_servers_log(own_server: Postgresql) -> None:
    database = Database(own_server)
    database.changes()
    database.query("ALTER ROLE agentos PASSWORD 'another'")
    assert database.changes() == ["The password of the role agentos was set."]
    database.query("SELECT 'the end of the log'")

    def read() -> str:
        return str(database.query("SELECT pg_read_file(pg_current_logfile())")[0][0])

    # A process of its own writes the log, when it comes to it.
    wait_until(lambda: "SELECT 'the end of the log'" in read())
    log = read()
    database.drop()
    assert "CREATE SCHEMA IF NOT EXISTS agentos" in log
    assert 'ALTER ROLE "agentos" PASSWORD \'SCRAM-SHA-256$' in log
    assert PASSWORD not in log and PASSWORD[-16:] not in log
    assert own_server.password not in log


def test_server_that_trusts_the_address(own_server: Postgresql) -> None:
    """Any password logs in there, as it does within the container of the official image."""
    database = Database(own_server)
    database.changes()
    ((path,),) = database.query("SELECT current_setting('hba_file')")

    def use(method: str) -> None:
        rule = f"host all all 127.0.0.1/32 {method}"
        database.query(sql.SQL("COPY (SELECT {}) TO {}").format(rule, path))
        database.query("SELECT pg_reload_conf()")
        wait_until(lambda: logs_in_with_password(database) == (method != "trust"))

    use("trust")
    try:
        assert database.changes() == []
        database.query("ALTER ROLE agentos PASSWORD NULL")
        assert database.changes() == ["The password of the role agentos was set."]
        assert database.changes() == []
    finally:
        use("scram-sha-256")
    assert database.changes() == []
    database.drop()


def logs_in_with_password(database: Database) -> bool:
    """Say whether the server asks the superuser for a password."""
    with psycopg.connect(database.conninfo) as connection:
        return connection.pgconn.used_password


# --- Agno on these tables ---


class Agno(AsyncPostgresDb):
    """Agno's storage as the service uses it: it must not see that there are tenants."""

    async def _resolve_table(
        self, table_name: str, table_type: str, create_table_if_not_found: bool | None = False
    ) -> Table | None:
        def columns(connection: Connection) -> list[Column[Any]]:
            found = inspect(connection).get_columns(table_name, schema=self.db_schema)
            return [Column(c["name"], c["type"]) for c in found if c["name"] != "tenant_id"]

        async with self.db_engine.connect() as connection:
            table = Table(
                table_name,
                self.metadata,
                *await connection.run_sync(columns),
                schema=self.db_schema,
                extend_existing=True,
            )
        self._store_resolved_table(table_type, table_name, table)
        return table

    def _get_traces_base_query(self, table: Table, spans_table: Table | None = None) -> Any:
        query = super()._get_traces_base_query(table, spans_table)
        if spans_table is None:
            return query
        return query.group_by(literal_column(f"{table.fullname}.tenant_id"))


def agno_for(
    database: Database, storage: type[AsyncPostgresDb] = Agno
) -> tuple[AsyncPostgresDb, Callable[[str], None], list[str]]:
    """Give Agno's storage as the service's role, how to change tenant, and the statements run."""
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=lambda: psycopg.AsyncConnection.connect(database.role_conninfo),
    )
    tenant = ""
    statements: list[str] = []

    def become(name: str) -> None:
        nonlocal tenant
        tenant = name

    @event.listens_for(engine.sync_engine, "begin")
    def set_tenant(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT set_config('app.tenant_id', %s, true)", (tenant,))

    @event.listens_for(engine.sync_engine, "before_execute", retval=True)
    def add_tenant_to_conflict(
        _connection: Connection, statement: Any, multiparams: Any, params: Any, _options: Any
    ) -> tuple[Any, Any, Any]:
        if isinstance(statement, Insert) and statement._post_values_clause is not None:
            clause: Any = statement._post_values_clause
            target = clause.inferred_target_elements
            if target and "tenant_id" not in target:
                clause.inferred_target_elements = ["tenant_id", *target]
        return statement, multiparams, params

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    agno = storage(id="agentos", db_engine=engine, db_schema="agentos", create_schema=False)
    return agno, become, statements


def test_agno_stores_and_reads_as_the_role(migrated: Database) -> None:
    agno, become, statements = agno_for(migrated)

    async def use() -> None:
        for tenant in ("a", "b", "a"):  # the third time over what is there
            become(tenant)
            session = WorkflowSession(
                session_id="same", workflow_id="w", user_id="u", session_data={"of": tenant}
            )
            run = WorkflowRunOutput(
                run_id="same", session_id="same", content=tenant, status=RunStatus.completed
            )
            assert await agno.upsert_session(session) is not None
            await agno.upsert_run(run, "same", user_id="u")
            memory = UserMemory(memory_id="same", memory=tenant, user_id="u")
            assert await agno.upsert_user_memory(memory) is not None
            await agno.upsert_learning("same", "kind", {"of": tenant})
            await agno.calculate_metrics()
        for tenant in ("a", "b"):
            become(tenant)
            read = await agno.get_session("same", SessionType.WORKFLOW)
            assert isinstance(read, WorkflowSession) and read.session_data == {"of": tenant}
            assert [one.content for one in read.runs or []] == [tenant]
            memories = await agno.get_user_memories(user_id="u")
            assert [one.memory for one in memories] == [tenant]  # type: ignore[union-attr]
            learnings = await agno.get_learnings()
            assert [one["content"] for one in learnings] == [{"of": tenant}]
            assert "tenant_id" not in learnings[0]
        become("b")
        assert await agno.delete_session("same")
        become("a")
        assert await agno.get_run("same") is not None
        become("")
        assert await agno.get_session("same", SessionType.WORKFLOW) is None
        await agno.close()

    asyncio.run(use())
    assert not [one for one in statements if one.split()[0] in ("CREATE", "ALTER", "DROP")]


def test_agno_reflects_the_tables_as_the_role(migrated: Database) -> None:
    """Agno's own way of looking at tables needs no more rights, and creates nothing."""
    agno, become, statements = agno_for(migrated, AsyncPostgresDb)

    async def use() -> None:
        become("a")
        await agno._create_all_tables()  # type: ignore[no-untyped-call]
        assert await agno.get_latest_schema_version("agno_runs") == "3.0.0"
        await agno.close()

    asyncio.run(use())
    assert not [one for one in statements if one.split()[0] in ("CREATE", "ALTER", "INSERT")]
