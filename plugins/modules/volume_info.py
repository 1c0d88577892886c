#!/usr/bin/python
"""Ansible module: what is on the stack's data volumes, read before a container is started on them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: volume_info
short_description: Read what is on data volumes, and what images would make of it
description:
  - Makes a container that is never started, with the volumes mounted read-only, reads a few files
    through the engine, and removes it. Nothing is executed, and nothing is written to a volume.
  - C(volumes) tells by service what is there, C(images) what an image can open.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  stack:
    description: Name of the stack, for the container's label C(dev-stack.stack).
    type: str
    required: true
  volumes:
    description: Volume by service (postgres, redis, pgadmin). They have to exist.
    type: dict
    required: true
  images:
    description: Image by service, all present; one for each of the volumes at least.
    type: dict
    required: true
  run:
    description: What the label C(dev-stack.run) says of the run that made the container.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: It never changes anything.
author: HYVVE
"""

import json
import posixpath
import re
import sqlite3
import struct
import tarfile
import tempfile
import time
from contextlib import closing, suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import LABEL_STACK, Files, connect, explain

LABEL_JOB = "dev-stack.job"
LABEL_RUN = "dev-stack.run"
# On volumes that the postgres role made: their initialisation ends by writing the marker.
LABEL_MARKED = "dev-stack.marked"
# On volumes that were loaded from a backup, which was compared before they came into use.
LABEL_MADE_BY = "dev-stack.made-by"
MARKER = "dev-stack.json"
FOLDER = "/dev-stack-look"  # in no image, so the engine copies nothing into an empty volume
ABANDONED = 60  # seconds after which a container like ours was left behind by a run that was killed
LARGEST = 64 * 1024 * 1024  # pgAdmin's database is a few hundred kilobytes; more is not read
# The names of `enum DBState` in PostgreSQL's pg_control.h.
CONTROL_STATES = (
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
)


def text(found: tuple[bytes, tarfile.TarInfo] | None) -> str:
    """A small file's text, "" where there is none."""
    return found[0].decode(errors="replace").strip() if found else ""


def one_of(files: Files, root: str, *names: str) -> str | None:
    """The first of these names that is in a volume, or None."""
    return next((name for name in names if files.stat(f"{root}/{name}")), None)


# --- PostgreSQL ---------------------------------------------------------------------------------


def control_facts(content: bytes) -> dict[str, Any] | None:
    """{state, system_identifier} from the beginning of pg_control, or None when it is none.

    These fields have been at these places since long before PostgreSQL 16.
    """
    if len(content) < 24:
        return None
    order = "<" if struct.unpack_from("<I", content, 8)[0] < 0x10000 else ">"
    identifier, version, _, state = struct.unpack_from(f"{order}QIII", content)
    if not 900 <= version < 10000 or state >= len(CONTROL_STATES):
        return None
    return {"state": CONTROL_STATES[state], "system_identifier": str(identifier)}


def postgres_facts(files: Files, root: str, labels: dict[str, str], major: str) -> dict[str, Any]:
    """What of a cluster is on the volume that is mounted at `root`.

    Takes the volume's labels and the major version of the image that would be started on it: from
    18 on, a cluster is in a folder of its version's.
    """
    promised = labels.get(LABEL_MARKED) == "true" and LABEL_MADE_BY not in labels
    folders = [root, f"{root}/{major}/docker"]
    data = next((one for one in folders if files.stat(f"{one}/PG_VERSION")), None)
    first = None
    if data is None and (first := files.first_in(root)):
        # A cluster of another major version; or initdb makes this folder before that file.
        other = f"{root}/{first}/docker"
        data = other if first.isdigit() and files.stat(f"{other}/PG_VERSION") else None
    found = files.read(f"{data}/PG_VERSION", 16) if data else None
    if found is None:
        begun = bool(first) and any(files.stat(f"{one}/base") for one in folders)
        lacking = ["PG_VERSION", MARKER] if promised else ["PG_VERSION"]
        return {
            "empty": first is None,
            "first": first,
            "major": None,
            "complete": False if begun else None,
            "lacking": lacking if first else [],
        }
    facts: dict[str, Any] = {"empty": False, "first": "PG_VERSION"}
    facts |= {"major": text(found), "uid": found[1].uid, "gid": found[1].gid}
    facts["made_with"] = labels.get("dev-stack.image-source")
    control = control_facts((files.read(f"{data}/global/pg_control", 64) or (b"",))[0])
    marker = files.read(f"{data}/{MARKER}", 1024 * 1024)
    lacking = [
        name
        for name, there in (
            ("global/pg_control", control),
            ("postgresql.conf", files.stat(f"{data}/postgresql.conf")),
            (MARKER, marker or not promised),
        )
        if not there
    ]
    noted: Any = None
    if marker:
        noted = {}  # whatever it says: it was written once all was there
        with suppress(ValueError):
            noted = json.loads(marker[0])
    return facts | {
        "control": control,
        "marker": noted,
        "lacking": lacking,
        "complete": False if lacking else True if marker else None,
    }


# --- Redis --------------------------------------------------------------------------------------


def rdb_version(content: bytes) -> int | None:
    """The format's version from an RDB file's first bytes, or None when it is no such file."""
    found = re.match(rb"REDIS(\d{4})", content)
    return int(found[1]) if found else None


def manifest_files(manifest: str) -> list[dict[str, str]] | None:
    """The files that an append-only file's manifest lists, as {file, type}; None if it is damaged.

    Its lines are pairs of a word and its value: `file appendonly.aof.1.base.rdb seq 1 type b`,
    where the type is b (base), i (increment) or h (history, no longer needed).
    """
    listed = []
    for line in manifest.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        # A name with odd characters is in quotes.
        words = [quoted or plain for quoted, plain in re.findall(r'"((?:\\.|[^"])*)"|(\S+)', line)]
        entry = dict(zip(words[::2], words[1::2], strict=False))
        if len(words) % 2 or not {"file", "seq", "type"} <= entry.keys():
            return None
        if entry["type"] not in {"b", "i", "h"} or not entry["seq"].isdigit():
            return None
        listed.append({"file": entry["file"], "type": entry["type"]})
    return listed if any(one["type"] != "h" for one in listed) else None


def aof_facts(files: Files, root: str) -> dict[str, Any] | None:
    """{readable, files, missing, base_rdb} of the append-only file, or None where there is none."""
    folder = f"{root}/appendonlydir"
    if not files.stat(folder):
        return None
    manifest = files.read(f"{folder}/appendonly.aof.manifest", 1024 * 1024)
    if manifest is None:
        # An empty folder is one that Redis has just made.
        first = files.first_in(folder)
        return None if first is None else {"readable": False, "files": [], "missing": [first]}
    listed = manifest_files(text(manifest))
    if listed is None:
        return {"readable": False, "files": [], "missing": []}
    needed = [one for one in listed if one["type"] != "h"]
    missing = [one["file"] for one in needed if not files.stat(f"{folder}/{one['file']}")]
    base = next((one["file"] for one in needed if one["type"] == "b"), None)
    head = files.read(f"{folder}/{base}", 9) if base else None
    return {
        "readable": True,
        "files": [one["file"] for one in needed],
        "missing": missing,
        "base_rdb": rdb_version(head[0]) if head else None,
    }


def redis_facts(files: Files, root: str) -> dict[str, Any]:
    """What of Redis is on the volume that is mounted at `root`."""
    aof = aof_facts(files, root)
    if aof and aof["missing"]:
        # A server that is running may have replaced its manifest and files in between.
        aof = aof_facts(files, root)
    dump = f"{root}/dump.rdb"
    head = files.read(dump, 9) if files.stat(dump) else None
    foreign = one_of(files, root, "PG_VERSION", "pgadmin4.db")
    return {
        "empty": not (aof or head or foreign) and files.first_in(root) is None,
        "foreign": foreign,
        "aof": aof,
        "rdb": rdb_version(head[0]) if head else None,
    }


# --- pgAdmin ------------------------------------------------------------------------------------


def schema_version(database: bytes) -> int | None:
    """The version of the settings' schema in pgAdmin's SQLite database, or None."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(database)
        file.flush()
        try:
            with closing(sqlite3.connect(f"file:{file.name}?immutable=1", uri=True)) as connection:
                query = "SELECT value FROM version WHERE name = 'ConfigDB'"
                row = connection.execute(query).fetchone()
        except sqlite3.Error:
            return None
    return int(row[0]) if row else None


def pgadmin_facts(files: Files, root: str) -> dict[str, Any]:
    """What of pgAdmin is on the volume that is mounted at `root`."""
    path = f"{root}/pgadmin4.db"
    stat = files.stat(path)
    database = files.read(path, LARGEST) if stat and stat["size"] <= LARGEST else None
    foreign = one_of(files, root, "PG_VERSION", "appendonlydir", "dump.rdb")
    return {
        "empty": not (stat or foreign) and files.first_in(root) is None,
        "foreign": foreign,
        "schema": schema_version(database[0]) if database else None,
    }


# --- images -------------------------------------------------------------------------------------


def image_facts(config: dict[str, Any]) -> dict[str, Any]:
    """What an image's configuration tells of what it can open; None for what it does not.

    `family` is whose C library and ICU sort in PostgreSQL: alpine, `debian <release>`, or packages
    (built here). Debian's packages have their release in the version: 16.10-1.pgdg13+1.
    """
    pairs = (one.partition("=") for one in config.get("Env") or [])
    env = {name: value for name, _, value in pairs}
    labels = config.get("Labels") or {}
    family = None
    if "PG_MAJOR" in env:
        release = re.search(r"pgdg(\d\d)", env.get("PG_VERSION", ""))
        if release:
            family = f"debian {release[1]}"
        else:
            family = "packages" if labels.get("dev-stack.built-from") == "packages" else "alpine"
    redis = env.get("REDIS_VERSION")
    if not redis and (
        found := re.search(r"/v?(\d+\.[\d.]+\d)\.tar", env.get("REDIS_DOWNLOAD_URL", ""))
    ):
        redis = found[1]
    return {"major": env.get("PG_MAJOR"), "family": family, "redis": redis}


def known_schema(files: Files) -> int | None:
    """The schema's version that the pgAdmin in the image knows, or None."""
    model = text(files.read("/pgadmin4/pgadmin/model/__init__.py", 1024 * 1024))
    found = re.search(r"^SCHEMA_VERSION = (\d+)", model, re.M)
    return int(found[1]) if found else None


# --- the look -----------------------------------------------------------------------------------


def remove_abandoned(client: Any, stack: str) -> None:
    """Remove containers of looks that were killed."""
    only = {"label": [f"{LABEL_STACK}={stack}", f"{LABEL_JOB}=look"]}
    for one in client.containers(all=True, filters=only):
        if time.time() - one["Created"] > ABANDONED:
            with suppress(Exception):  # another run was faster
                client.remove_container(one["Id"], v=True, force=True)


def look(client: Any, p: dict[str, Any]) -> dict[str, Any]:
    """{volumes, images}, see DOCUMENTATION. Raises what the engine's client raises."""
    import docker  # type: ignore[import-untyped]

    remove_abandoned(client, p["stack"])
    images = {
        service: image_facts(client.inspect_image(reference)["Config"])
        for service, reference in p["images"].items()
    }
    # pgAdmin's own image tells which schema it knows; for the rest any image does.
    image = p["images"].get("pgadmin") or next(iter(p["images"].values()))
    mounts = [
        docker.types.Mount(posixpath.join(FOLDER, service), volume, read_only=True, no_copy=True)
        for service, volume in p["volumes"].items()
    ]
    container = client.create_container(
        image,
        command=["true"],
        entrypoint=[],
        labels={LABEL_STACK: p["stack"], LABEL_JOB: "look", LABEL_RUN: p["run"]},
        host_config=client.create_host_config(mounts=mounts, network_mode="none"),
    )["Id"]
    try:
        files = Files(client, container)
        volumes = {}
        for service, volume in p["volumes"].items():
            root = posixpath.join(FOLDER, service)
            if service == "postgres":
                labels = client.inspect_volume(volume).get("Labels") or {}
                major = images["postgres"]["major"] or "18"
                volumes[service] = postgres_facts(files, root, labels, major)
            elif service == "redis":
                volumes[service] = redis_facts(files, root)
            elif service == "pgadmin":
                volumes[service] = pgadmin_facts(files, root)
                images[service]["schema"] = known_schema(files)
    finally:
        # With the empty volume that the engine made for what the image declares as one.
        client.remove_container(container, v=True, force=True)
    return {"volumes": volumes, "images": images}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "required": True},
            "stack": {"type": "str", "required": True},
            "volumes": {"type": "dict", "required": True},
            "images": {"type": "dict", "required": True},
            "run": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if not module.params["volumes"]:
        module.exit_json(changed=False, volumes={}, images={})
    names = ", ".join(module.params["volumes"].values())
    try:
        found = look(connect(module.params["docker_host"]), module.params)
    except Exception as error:
        module.fail_json(
            clear=True,
            msg=f"What is on the volumes {names} cannot be read, so nothing is started on them: "
            f"{error}\n{explain(str(error)) or 'What stands in the way: ./dev up -- -v'}",
        )
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
