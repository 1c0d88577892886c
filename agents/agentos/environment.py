"""What the service and the migration step both read from the environment, and how.

Apart from the settings, so that the migration starts without pydantic and redis-py, which take
longer to import than all that it needs.
"""

import os
import re
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

# Parameters that Prisma reads from its URL and libpq refuses as unknown.
# https://www.prisma.io/docs/orm/overview/databases/postgresql#arguments
# Prisma's sslaccept and sslidentity are not among them: to drop them would weaken a connection.
PRISMA_PARAMETERS = frozenset(
    {
        "connection_limit",
        "max_connection_lifetime",
        "max_idle_connection_lifetime",
        "pgbouncer",
        "pool_timeout",
        "schema",
        "socket_timeout",
        "statement_cache_size",
    }
)

_POSTGRESQL_SCHEME = re.compile(r"(?:postgres|postgresql)(?:\+psycopg)?://", re.IGNORECASE)


class SettingsError(Exception):
    """The environment cannot be used."""

    def __init__(self, problems: list[str]) -> None:
        """Keep `problems`: one line each, with the variable's name and never a secret's value."""
        super().__init__("; ".join(problems))
        self.problems = problems


def read_file_variable(name: str) -> str | None:
    """Read the value of a variable that is given as NAME_FILE.

    Args:
        name: of the variable, without _FILE.

    Returns:
        What the file holds, without line ends at its end; None if NAME_FILE is not set.

    Raises:
        ValueError: NAME is set as well, or the file cannot be read; the message is for people.
    """
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    if os.environ.get(name):
        raise ValueError(f"{name} and {name}_FILE are both set; expected one of them")
    try:
        value = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{name}_FILE: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name}_FILE: cannot read {path}: it is not UTF-8 text") from None
    if not value:
        raise ValueError(f"{name}_FILE: {path} is empty; expected the value of {name}")
    return value


def normalise_database_url(url: str) -> str:
    """Turn a PostgreSQL URL, as Prisma or SQLAlchemy write it, into one that libpq takes.

    The scheme becomes `postgresql://` and Prisma's own parameters are dropped; all else is kept
    as it was written.

    Args:
        url: for example `postgres://user:password@host:5432/database?schema=public`.

    Returns:
        For example `postgresql://user:password@host:5432/database`.

    Raises:
        ValueError: the URL is of no use; the message holds no part of it, as libpq's own might.
    """
    scheme = _POSTGRESQL_SCHEME.match(url)
    if scheme is None:
        raise ValueError("is not a PostgreSQL URL")
    base, _, query = url[scheme.end() :].partition("?")
    parameters = [
        parameter
        for parameter in query.split("&")
        if parameter and parameter.partition("=")[0] not in PRISMA_PARAMETERS
    ]
    normalised = f"postgresql://{base}" + ("?" + "&".join(parameters) if parameters else "")
    try:
        parts = conninfo_to_dict(normalised)
    except psycopg.Error:
        raise ValueError(
            "has a part that libpq cannot read (a special character not percent-encoded,"
            " or an unknown parameter)"
        ) from None
    if not parts.get("host") or "@" in str(parts["host"]):
        raise ValueError("has no host, or a password with a special character not percent-encoded")
    if not parts.get("dbname"):
        raise ValueError("names no database")
    if not all(_is_port(port) for port in str(parts.get("port", 5432)).split(",")):
        raise ValueError("has a port that is not a number from 1 to 65535")
    return normalised


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= 65535
