"""Give pgAdmin the password file and the registered server, and become its own entrypoint.

The image replaces the servers at every start or never. Replaced, a server gets a new id, and
query history and open query tools are lost with the old one: so it happens only when the servers
are not what servers.json says.
"""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

DATA = Path("/var/lib/pgadmin")
SERVERS = Path("/pgadmin4/servers.json")
COLUMNS = {
    "Name": "name",
    "Host": "host",
    "Port": "port",
    "MaintenanceDB": "maintenance_db",
    "Username": "username",
}


def has_server(server: dict[str, object]) -> bool:
    """Tell whether it is registered just so, and with no password saved that might be outdated."""
    where = " AND ".join(f"{column} = ?" for column in COLUMNS.values())
    query = f"SELECT connection_params FROM server WHERE {where} AND password IS NULL"
    values = [server[key] for key in COLUMNS]
    database = sqlite3.connect(f"file:{DATA}/pgadmin4.db?mode=ro", uri=True)
    with contextlib.closing(database):
        found = database.execute(query, values).fetchall()
    return server["ConnectionParameters"] in [json.loads(row[0]) for row in found]


def has_servers() -> bool:
    """Tell whether the servers need not be replaced; if that cannot be told, they are."""
    try:
        return all(map(has_server, json.loads(SERVERS.read_text())["Servers"].values()))
    except (sqlite3.Error, ValueError, TypeError):
        return False


os.umask(0o077)
# The image copies the password file once and never again; here it is fresh at every start.
# libpq accepts it only with mode 0600 and in the hands of the user that reads it.
(DATA / ".pgpass").write_bytes(Path("/run/secrets/pgpass").read_bytes())
if not has_servers():
    os.environ["PGADMIN_REPLACE_SERVERS_ON_STARTUP"] = "True"
os.execv("/entrypoint.sh", ["/entrypoint.sh"])
