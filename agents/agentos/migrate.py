"""Prepare the database for AgentOS: `python -m agentos.migrate`.

It runs before the service does, as a superuser of the database. It makes the role that the service
logs in as, brings the schema to this code's revision, and puts back what has drifted: the role's
attributes, its password, its rights. It prints a line for each change, so nothing on a second run.

Environment: MIGRATION_DATABASE_URL, the superuser's URL, and AGENTOS_DATABASE_PASSWORD, the
password the role shall have; or either as NAME_FILE, the path of a file that holds it.

Exit status: 0 if all is as it should be, 78 if a variable is missing or bad, 1 for anything else,
with one line that says what.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from agentos.environment import SettingsError, normalise_database_url, read_file_variable
from agentos.schema import REVISION, ROLE, SCHEMA, TENANT_SETTING

# A server that is away is told soon; the caller decides whether to try again.
CONNECT_TIMEOUT_S = 10
# For another migration, and for any table that something else keeps locked.
LOCK_TIMEOUT_S = 60
# The advisory lock that makes migrations of one database take turns.
LOCK_KEY = int.from_bytes(SCHEMA.encode(), "big")

# How the role must be: what to look at, what it must say, and what puts it right.
ATTRIBUTES: tuple[tuple[str, bool | int, str], ...] = (
    ("rolcanlogin", True, "LOGIN"),
    ("rolsuper", False, "NOSUPERUSER"),
    ("rolcreatedb", False, "NOCREATEDB"),
    ("rolcreaterole", False, "NOCREATEROLE"),
    ("rolinherit", False, "NOINHERIT"),
    ("rolreplication", False, "NOREPLICATION"),
    ("rolbypassrls", False, "NOBYPASSRLS"),
    # Room for the service's pool and its checks, and no more: the server's are the platform's too.
    ("rolconnlimit", 30, "CONNECTION LIMIT 30"),
    ("coalesce(rolvaliduntil, 'infinity') = 'infinity'", True, "VALID UNTIL 'infinity'"),
)
# So that no statement and no forgotten transaction of the service holds locks for long.
ROLE_SETTINGS = {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}

# Which rows of a table are the transaction's tenant's; and the one policy that says so, as
# PostgreSQL writes it down: for all commands (*), permissive, for all roles (0).
OWN = f"tenant_id = NULLIF(current_setting('{TENANT_SETTING}'::text, true), ''::text)"
POLICY = f'(tenant,*,t,{{0}},"({OWN})","({OWN})")'

# A table with row level security holds tenants' rows; the others say which versions are there.
RIGHTS_GUARDED = ["SELECT", "INSERT", "UPDATE", "DELETE"]
RIGHTS_OTHER = ["SELECT"]
ALL_RIGHTS = [*RIGHTS_GUARDED, "TRUNCATE", "REFERENCES", "TRIGGER"]


class MigrationError(Exception):
    """The database cannot be prepared; the message is one line without secrets."""


def main() -> int:
    """Do it, and tell about it.

    Returns:
        The exit status: 0, EX_CONFIG (78) for bad settings, or 1.
    """
    # Process 1 of a container has no default action for a signal. The server notices that the
    # connection is gone and rolls the transaction back.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    try:
        url, password = load_settings()
    except SettingsError as error:
        for problem in error.problems:
            print(f"agentos migrate: {problem}", file=sys.stderr)
        return os.EX_CONFIG
    try:
        for change in migrate(url, password):
            print(change, flush=True)
    except Exception as error:  # A traceback would show the URL, and tell its reader little.
        print(f"agentos migrate: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def load_settings() -> tuple[str, str]:
    """Read the environment.

    Returns:
        The superuser's URL, such as libpq takes it, and the password of the service's role.

    Raises:
        SettingsError: with every problem found, not the first alone.
    """
    problems: list[str] = []
    values: dict[str, str] = {}
    for name, expected in (
        ("MIGRATION_DATABASE_URL", "postgresql://superuser:password@host:port/database"),
        ("AGENTOS_DATABASE_PASSWORD", f"the password of the database role {ROLE}"),
    ):
        try:
            value = read_file_variable(name) or os.environ.get(name)
        except ValueError as error:
            problems.append(str(error))
            continue
        source = f"{name}_FILE" if os.environ.get(f"{name}_FILE") else name
        if not value:
            problems.append(
                f"{name} is not set; expected {expected}, or {name}_FILE, a file that holds it"
            )
        elif "\0" in value:
            problems.append(f"{source} has a zero byte; expected {expected}")
        elif name == "MIGRATION_DATABASE_URL":
            try:
                values[name] = normalise_database_url(value)
            except ValueError as error:
                problems.append(f"{source} {error}; expected {expected}")
        else:
            values[name] = value
    if problems:
        raise SettingsError(problems)
    return values["MIGRATION_DATABASE_URL"], values["AGENTOS_DATABASE_PASSWORD"]


def migrate(url: str, password: str) -> Iterator[str]:
    """Prepare the database; two at once are safe, one waits for the other.

    Args:
        url: of the database, as a superuser.
        password: what the role must be able to log in with.

    Yields:
        A sentence for each thing changed, once the change is committed.

    Raises:
        MigrationError: the database is not one that can be prepared.
        psycopg.Error: the server is away, or refused the login or a statement.
        DBAPIError: the same, by way of SQLAlchemy.
    """
    timeout = (
        {} if "connect_timeout" in conninfo_to_dict(url) else {"connect_timeout": CONNECT_TIMEOUT_S}
    )
    conninfo = make_conninfo(url, **timeout)
    # psycopg connects by itself: SQLAlchemy's own URLs cannot say all that libpq's can.
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo),
        poolclass=NullPool,
        hide_parameters=True,
    )
    with engine.connect() as connection:
        _check_user(connection)
        _take_lock(connection)
        # One transaction: killed in the middle, it leaves all as it was.
        with connection.begin():
            changes = _ensure_role(connection, password)
            found = _revision(connection)
            if found is not None and int(found) > int(REVISION):
                changes.append(
                    f"The schema {SCHEMA} is at {found}, newer than {REVISION}: left as it is."
                )
            else:
                changes += _upgrade(connection, found)
                changes += _restore_guards(connection)
                changes += _restore_rights(connection)
        yield from changes
        # After the commit, without which a new role cannot log in.
        yield from _ensure_password(connection, conninfo, password)


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


def _one_line(error: Exception) -> str:
    """Say what happened; PostgreSQL's messages name objects and users, never a password."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    if isinstance(cause, psycopg.errors.LockNotAvailable):
        return f"something else has kept a table locked for {LOCK_TIMEOUT_S} s; nothing was changed"
    if isinstance(cause, psycopg.Error) and cause.diag.message_primary:
        return " ".join(cause.diag.message_primary.split())
    if isinstance(cause, psycopg.Error | MigrationError):
        return " ".join(str(cause).split())
    # Not foreseen, so it may quote anything.
    return f"failed with {type(cause).__name__}"


def _check_user(connection: Connection) -> None:
    user, superuser = connection.execute(
        text("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user")
    ).one()
    connection.commit()
    if user == ROLE:
        raise MigrationError(
            f"MIGRATION_DATABASE_URL logs in as {ROLE}, the service's own role;"
            " expected a superuser"
        )
    if not superuser:
        raise MigrationError(f"the role {user} of MIGRATION_DATABASE_URL is not a superuser")


def _take_lock(connection: Connection) -> None:
    """Wait until no other migration of this database runs; the lock goes with the connection."""
    for setting, value in {
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        # Else a server that waits for a lock would not notice that this process was killed, and
        # would keep the next migration out.
        "client_connection_check_interval": "1s",
    }.items():
        connection.execute(text(f"SET {setting} = '{value}'"))
    connection.commit()
    try:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise MigrationError(
                f"another migration has been running for {LOCK_TIMEOUT_S} s; try again when it ends"
            ) from None
        raise
    connection.commit()


def _ensure_role(connection: Connection, password: str) -> list[str]:
    """Make the role, or put back its attributes and settings; and free it of other roles."""
    changes: list[str] = []
    keywords = [keyword for _, _, keyword in ATTRIBUTES]
    if _role_state(connection) is None:
        try:
            with connection.begin_nested():
                connection.execute(text(f"CREATE ROLE {ROLE} {' '.join(keywords)}"))
                _set_password(connection, password)
            changes.append(f"The role {ROLE} was created.")
        except DBAPIError as error:
            # Roles belong to the whole server: the migration of another of its databases, which
            # the lock does not keep out, was faster.
            if not isinstance(
                error.orig, psycopg.errors.DuplicateObject | psycopg.errors.UniqueViolation
            ):
                raise
    state = _role_state(connection)
    assert state is not None
    wrong = [
        keyword
        for (_, expected, keyword), found in zip(ATTRIBUTES, state, strict=True)
        if found != expected
    ]
    if wrong:
        connection.execute(text(f"ALTER ROLE {ROLE} {' '.join(wrong)}"))
        changes.append(f"The role {ROLE} was changed to {' '.join(wrong)}.")
    settings = connection.execute(
        text(
            "SELECT unnest(setconfig) FROM pg_db_role_setting"
            " WHERE setrole = CAST(:role AS regrole) AND setdatabase = 0"
        ),
        {"role": ROLE},
    ).scalars()
    found_settings = set(settings)
    for name, value in ROLE_SETTINGS.items():
        if f"{name}={value}" not in found_settings:
            connection.execute(text(f"ALTER ROLE {ROLE} SET {name} = '{value}'"))
            changes.append(f"The role {ROLE} was given {name} = {value}.")
    # Whatever else it belongs to, it could act as.
    memberships = connection.execute(
        text(
            "SELECT quote_ident(pg_get_userbyid(roleid)), quote_ident(pg_get_userbyid(grantor))"
            " FROM pg_auth_members WHERE member = CAST(:role AS regrole)"
        ),
        {"role": ROLE},
    ).all()
    for group, grantor in memberships:
        connection.execute(text(f"REVOKE {group} FROM {ROLE} GRANTED BY {grantor}"))
        changes.append(f"The role {ROLE} was taken out of {group}.")
    return changes


def _role_state(connection: Connection) -> tuple[bool | int, ...] | None:
    columns = ", ".join(column for column, _, _ in ATTRIBUTES)
    row = connection.execute(
        text(f"SELECT {columns} FROM pg_roles WHERE rolname = :role"), {"role": ROLE}
    ).one_or_none()
    return None if row is None else tuple(row)


def _revision(connection: Connection) -> str | None:
    """Give the revision of the schema, or None if there is nothing yet."""
    recorded, tables = connection.execute(
        text(
            "SELECT count(*) FILTER (WHERE relname = 'alembic_version'), count(*)"
            " FROM pg_class WHERE relnamespace = to_regnamespace(:schema)"
        ),
        {"schema": SCHEMA},
    ).one()
    if tables and not recorded:
        raise MigrationError(
            f"the schema {SCHEMA} exists and was made by something else; rename or drop it"
        )
    if not recorded:
        return None
    found = list(
        connection.execute(text(f"SELECT version_num FROM {SCHEMA}.alembic_version")).scalars()
    )
    if len(found) > 1 or not all(revision.isascii() and revision.isdigit() for revision in found):
        raise MigrationError(
            f"{SCHEMA}.alembic_version holds {', '.join(map(repr, found))}; expected one number"
        )
    return found[0] if found else None


def _upgrade(connection: Connection, found: str | None) -> list[str]:
    """Bring the schema to this code's revision."""
    if found == REVISION:
        return []
    # Half of what this program imports, and only now is it needed.
    from alembic import command
    from alembic.config import Config

    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    config = Config()
    location = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", location.replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, REVISION)
    return [f"The schema {SCHEMA} was brought from {found or 'nothing'} to {REVISION}."]


def _restore_guards(connection: Connection) -> list[str]:
    """Put back row level security and ownership, without which the rights below mean nothing.

    Raises:
        MigrationError: a table is missing.
    """
    missing = list(
        connection.execute(
            text(
                f"SELECT table_name FROM {SCHEMA}.agno_schema_versions"
                " WHERE to_regclass(quote_ident(:schema) || '.' || quote_ident(table_name)) IS NULL"
                " ORDER BY table_name"
            ),
            {"schema": SCHEMA},
        ).scalars()
    )
    if missing:
        raise MigrationError(
            f"the schema {SCHEMA} has lost {', '.join(missing)}; restore a backup, or drop the"
            " schema to start afresh"
        )
    changes: list[str] = []
    owner = connection.execute(
        text("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = :schema"),
        {"schema": SCHEMA},
    ).scalar_one()
    if owner == ROLE:
        connection.execute(text(f"ALTER SCHEMA {SCHEMA} OWNER TO CURRENT_USER"))
        changes.append(f"The schema {SCHEMA} was taken from the role {ROLE}.")
    tables = connection.execute(
        text(
            "SELECT CAST(pg_class.oid AS regclass)::text, pg_get_userbyid(relowner),"
            " attname IS NULL OR (relrowsecurity AND relforcerowsecurity),"
            " attname IS NULL, ARRAY(SELECT ROW(polname, polcmd, polpermissive, polroles,"
            "  pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))::text"
            "  FROM pg_policy WHERE polrelid = pg_class.oid),"
            " ARRAY(SELECT quote_ident(polname) FROM pg_policy WHERE polrelid = pg_class.oid)"
            " FROM pg_class LEFT JOIN pg_attribute ON attrelid = pg_class.oid"
            " AND attname = 'tenant_id' AND NOT attisdropped"
            " WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p')"
            " ORDER BY relname"
        ),
        {"schema": SCHEMA},
    ).all()
    for table, owner, guarded, shared, policies, names in tables:
        if owner == ROLE:
            connection.execute(text(f"ALTER TABLE {table} OWNER TO CURRENT_USER"))
            changes.append(f"The table {table} was taken from the role {ROLE}.")
        if not guarded:
            for verb in ("ENABLE", "FORCE"):
                connection.execute(text(f"ALTER TABLE {table} {verb} ROW LEVEL SECURITY"))
            changes.append(f"Row level security was put back on {table}.")
        # One policy more would let more rows through.
        if not shared and policies != [POLICY]:
            for name in names:
                connection.execute(text(f"DROP POLICY {name} ON {table}"))
            connection.execute(
                text(f"CREATE POLICY tenant ON {table} USING ({OWN}) WITH CHECK ({OWN})")
            )
            changes.append(f"The policy of {table} was put back.")
    return changes


def _restore_rights(connection: Connection) -> list[str]:
    """Grant the role what it needs, and take what it does not, where that is not so yet.

    What counts is what the role can do in the end, whoever granted it.
    """
    changes: list[str] = []
    database, connect, create_schema, usage, create = connection.execute(
        text(
            "SELECT quote_ident(current_database()),"
            " has_database_privilege(:role, current_database(), 'CONNECT'),"
            " has_database_privilege(:role, current_database(), 'CREATE'),"
            " has_schema_privilege(:role, :schema, 'USAGE'),"
            " has_schema_privilege(:role, :schema, 'CREATE')"
        ),
        {"role": ROLE, "schema": SCHEMA},
    ).one()
    if not connect:
        connection.execute(text(f"GRANT CONNECT ON DATABASE {database} TO {ROLE}"))
    if create_schema:
        connection.execute(text(f"REVOKE CREATE ON DATABASE {database} FROM PUBLIC, {ROLE}"))
    if not connect or create_schema:
        changes.append(f"The rights of the role {ROLE} on the database {database} were set.")
    if not usage or create:
        connection.execute(text(f"REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC, {ROLE}"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {ROLE}"))
        changes.append(f"The rights of the role {ROLE} on the schema {SCHEMA} were set.")
    tables = connection.execute(
        text(
            "SELECT CAST(oid AS regclass)::text, relrowsecurity,"
            " ARRAY(SELECT item FROM unnest(CAST(:all_rights AS text[])) AS item"
            "       WHERE has_table_privilege(:role, oid, item))"
            " FROM pg_class"
            " WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p')"
            " ORDER BY relname"
        ),
        {"role": ROLE, "schema": SCHEMA, "all_rights": ALL_RIGHTS},
    ).all()
    corrected = []
    for table, guarded, found in tables:
        rights = RIGHTS_GUARDED if guarded else RIGHTS_OTHER
        if found != rights:
            connection.execute(text(f"REVOKE ALL ON {table} FROM PUBLIC, {ROLE}"))
            connection.execute(text(f"GRANT {', '.join(rights)} ON {table} TO {ROLE}"))
            corrected.append(table)
    if corrected and len(corrected) == len(tables):
        changes.append(f"The rights of the role {ROLE} on the tables of {SCHEMA} were set.")
    else:
        changes += [f"The rights of the role {ROLE} on {table} were set." for table in corrected]
    return changes


def _ensure_password(connection: Connection, conninfo: str, password: str) -> list[str]:
    """Set the role's password, if it cannot log in with it.

    Raises:
        MigrationError: it cannot log in with a password just set either.
    """
    login = make_conninfo(conninfo, user=ROLE, password=password)
    if _login_problem(connection, login) is None:
        return []
    _set_password(connection, password)
    connection.commit()
    problem = _login_problem(connection, login)
    if problem is not None:
        raise MigrationError(f"the role {ROLE} cannot log in: {problem}")
    return [f"The password of the role {ROLE} was set."]


def _login_problem(connection: Connection, login: str) -> str | None:
    """Log in, and say why that failed, or None if it did not."""
    try:
        with psycopg.connect(login) as trial:
            asked = trial.pgconn.used_password
    except psycopg.Error as error:
        return _one_line(error)
    if asked:
        return None
    # pg_hba.conf trusts this address, as the official image's does for connections from within
    # the container. So whether the password is right cannot be told, only whether there is one.
    has_password = connection.execute(
        text("SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = :role"), {"role": ROLE}
    ).scalar_one()
    return None if has_password else "it has no password"


def _set_password(connection: Connection, password: str) -> None:
    """Send a verifier computed here: the password itself would appear in the server's log."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    verifier = driver.pgconn.encrypt_password(
        password.encode(), ROLE.encode(), b"scram-sha-256"
    ).decode()
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(
        sql.Identifier(ROLE), sql.Literal(verifier)
    )
    connection.exec_driver_sql(statement.as_string(driver))


if __name__ == "__main__":
    sys.exit(main())
