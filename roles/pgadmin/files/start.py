"""Give pgAdmin the registered server where it has another one, and become its own entrypoint.

The image replaces the servers at every start or never. Replaced, a server gets a new id, and
query history and open query tools are lost with the old one: so it happens only when the servers
are not what servers.json says.
"""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

DATABASE = "file:/var/lib/pgadmin/pgadmin4.db?mode=ro"
SERVERS = Path("/run/secrets/servers.json")
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
    database = sqlite3.connect(DATABASE, uri=True)
    with contextlib.closing(database):
        found = database.execute(query, values).fetchall()
    return server["ConnectionParameters"] in [json.loads(row[0]) for row in found]


def has_servers() -> bool:
    """Tell whether the servers need not be replaced; if that cannot be told, they are."""
    try:
        return all(map(has_server, json.loads(SERVERS.read_text())["Servers"].values()))
    except (sqlite3.Error, ValueError, TypeError):
        return False


if not has_servers():
    os.environ["PGADMIN_REPLACE_SERVERS_ON_STARTUP"] = "True"
os.execv("/entrypoint.sh", ["/entrypoint.sh"])
