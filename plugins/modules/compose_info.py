#!/usr/bin/python
"""Ansible module: the volumes of docker compose projects that hold PostgreSQL's or Redis's data."""

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_info
short_description: Find the data of docker compose projects
description:
  - Looks at the volumes that docker compose made, by their labels, and at those that its containers
    mount, whoever made them. What a volume holds is told by the files on it.
  - For each it makes a container that is never started, with the volume mounted read-only, reads a
    few files through the engine, and removes it. Nothing is executed, and nothing is written.
  - C(volumes) is a list with an entry for each volume and project that holds data.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  stack:
    description: Name of the stack. Its own volumes are left out, and the containers carry its label.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: It never changes anything.
author: HYVVE
"""

import os
import re
import tarfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import (
    LABEL_JOB,
    LABEL_PROJECT,
    LABEL_RUN,
    LABEL_SERVICE,
    LABEL_STACK,
    RUN_VARIABLE,
    Files,
    connect,
    explain,
)

LABEL_VOLUME = "com.docker.compose.volume"
LABEL_PROJECT_SERVICE = "com.docker.compose.service"
LABEL_ANONYMOUS = "com.docker.volume.anonymous"
ROOT = "/dev-stack-look"  # in no image, so the engine copies nothing into an empty volume
ENDED = {"created", "exited", "dead"}
# Where images other than the official ones, and settings of PGDATA, have the data.
POSTGRES_FOLDERS = ("", "data", "pgdata", *(f"{major}/docker" for major in range(18, 25)))
REDIS_FOLDERS = ("", "data")
# Redis writes dump.rdb for a while after the moment that it shows; commands that came meanwhile are
# in the append-only file alone.
NEWER = 3600


# --- what a volume holds ------------------------------------------------------------------------


def postgres_facts(files: Any, also: list[str]) -> dict[str, Any] | None:
    """{version, folder, uid, gid} of the cluster on a volume, or None.

    Takes folders to look into beside the usual ones.
    """
    for folder in dict.fromkeys((*also, *POSTGRES_FOLDERS)):
        found = files.read(f"{ROOT}/{folder}/PG_VERSION".replace("//", "/"), 16)
        if found and re.fullmatch(rb"\d+(\.\d+)?\s*", found[0]):
            version = found[0].decode().strip()
            return {"version": version, "folder": folder, "uid": found[1].uid, "gid": found[1].gid}
    return None


def redis_version(head: bytes) -> str | None:
    """The version of the Redis that wrote an RDB file, from its first bytes."""
    found = re.search(rb"\xfa\tredis-ver.(\d+(?:\.\d+)+)", head, re.DOTALL)
    return found[1].decode() if found else None


def redis_facts(files: Any, appends: bool | None) -> dict[str, Any] | None:
    """{version, folder, uid, gid, reads} of Redis's data on a volume, or None.

    Takes whether its server was told to keep an append-only file, or None if that is not known.
    `reads` is what such a server would start from: `aof` or `rdb`. Where both are there and nobody
    knows, a snapshot that is much newer means that the append-only file was given up.
    """
    for folder in REDIS_FOLDERS:
        at = f"{ROOT}/{folder}".rstrip("/")
        times: dict[str, str] = {}
        head = b""
        owner: tarfile.TarInfo | None = None
        if manifest := files.read(f"{at}/appendonlydir/appendonly.aof.manifest", 1024 * 1024):
            owner = manifest[1]
            for name in re.findall(r"^file (\S+) seq \d+ type [bi]", manifest[0].decode(), re.M):
                stat = files.stat(f"{at}/appendonlydir/{name}")
                times["aof"] = max(times.get("aof", ""), stat["mtime"] if stat else "")
                if name.endswith(".base.rdb") and stat:
                    head = (files.read(f"{at}/appendonlydir/{name}", 64) or (b"",))[0]
        elif aof := files.read(f"{at}/appendonly.aof", 64):
            head, owner = aof
            times["aof"] = (files.stat(f"{at}/appendonly.aof") or {})["mtime"]
        rdb = files.read(f"{at}/dump.rdb", 64)
        if rdb and rdb[0].startswith(b"REDIS"):
            times["rdb"] = (files.stat(f"{at}/dump.rdb") or {})["mtime"]
            head, owner = (head if redis_version(head) else rdb[0]), owner or rdb[1]
        if owner is None or not times:
            continue
        return {
            "version": redis_version(head),
            "folder": folder,
            "uid": owner.uid,
            "gid": owner.gid,
            "reads": starts_from(times, appends),
        }
    return None


def starts_from(times: dict[str, str], appends: bool | None) -> str:
    """`aof` or `rdb`, from when each was written last, where there are both; see redis_facts."""
    if len(times) == 1:
        return next(iter(times))
    if appends is None:
        appends = seconds(times["rdb"]) - seconds(times["aof"]) < NEWER
    return "aof" if appends else "rdb"


def seconds(moment: str) -> float:
    """An RFC 3339 time as Go writes it, as seconds."""
    from datetime import datetime

    moment = re.sub(r"(\.\d{1,6})\d*", r"\1", moment).replace("Z", "+00:00")
    return datetime.fromisoformat(moment).timestamp()


# --- what the containers tell -------------------------------------------------------------------


def environment(config: dict[str, Any]) -> dict[str, str]:
    """The variables of a container or an image."""
    pairs = (one.partition("=") for one in config.get("Env") or [])
    return {name: value for name, _, value in pairs}


def appends(commands: list[list[str]]) -> bool | None:
    """Whether servers started so keep an append-only file; None if that is not said."""
    for command in commands:
        said = re.search(r"--appendonly\s+[\"']?(yes|no)", " ".join(command))
        if said:
            return said[1] == "yes"
    return None


def described(client: Any, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The containers that mount volumes, with what of them tells about the data."""
    import docker  # type: ignore[import-untyped]

    containers = []
    for one in listed:
        labels = one.get("Labels") or {}
        if LABEL_STACK in labels or not any(m["Type"] == "volume" for m in one.get("Mounts") or []):
            continue
        try:
            data = client.inspect_container(one["Id"])
        except docker.errors.NotFound:  # removed this very moment
            continue
        try:
            image = client.inspect_image(data["Image"])
        except docker.errors.NotFound:
            image = None
        containers.append(
            {
                "name": one["Names"][0].lstrip("/"),
                "project": labels.get(LABEL_PROJECT),
                "service": labels.get(LABEL_PROJECT_SERVICE),
                "running": one["State"] not in ENDED,
                "mounts": {
                    m["Name"]: m["Destination"]
                    for m in one["Mounts"]
                    if m["Type"] == "volume" and m.get("Name")
                },
                "env": environment(data["Config"]),
                "command": [data.get("Path", ""), *(data.get("Args") or [])],
                "image": data["Image"] if image else None,
                "image_name": data["Config"]["Image"],
                "image_env": environment((image or {}).get("Config") or {}),
            }
        )
    return containers


def sizes(client: Any) -> dict[str, int]:
    """Bytes by volume where the engine knows them soon enough."""
    try:
        url = client._url("/system/df")
        answer = client._get(url, params={"type": "volume"}, timeout=10)
        volumes = client._result(answer, True)["Volumes"] or []
    except Exception:
        return {}
    usage = {one["Name"]: (one.get("UsageData") or {}).get("Size", -1) for one in volumes}
    return {name: size for name, size in usage.items() if size >= 0}


# --- the look -----------------------------------------------------------------------------------


def look(client: Any, stack: str, image: str, volume: str, mounting: list[Any]) -> dict[str, Any]:
    """{kind, version, …} of a volume; {} if it holds nothing that is looked for."""
    import docker

    mount = docker.types.Mount(ROOT, volume, read_only=True, no_copy=True)
    container = client.create_container(
        image,
        command=["true"],
        entrypoint=[],
        labels={
            LABEL_STACK: stack,
            LABEL_SERVICE: "postgres",
            LABEL_JOB: "look",
            LABEL_RUN: os.environ.get(RUN_VARIABLE, ""),
        },
        host_config=client.create_host_config(mounts=[mount], network_mode="none"),
    )["Id"]
    try:
        files = Files(client, container)
        data = [
            one["env"]["PGDATA"].removeprefix(one["mounts"][volume]).strip("/")
            for one in mounting
            if f"{one['env'].get('PGDATA', '')}/".startswith(f"{one['mounts'][volume]}/")
        ]
        if facts := postgres_facts(files, data):
            return {"kind": "postgres", **facts}
        if facts := redis_facts(files, appends([one["command"] for one in mounting])):
            return {"kind": "redis", **facts}
        return {}
    finally:
        # With the empty volume that the engine made for what the image declares as one.
        client.remove_container(container, v=True, force=True)


def image_for(facts: dict[str, Any], mounting: list[dict[str, Any]]) -> dict[str, str]:
    """{id, name} of an image on this engine that the data was last opened with; {} if none is sure."""
    for one in mounting:
        env = one["image_env"]
        if facts["kind"] == "postgres":
            fits = env.get("PG_MAJOR") == facts["version"]
        else:
            fits = any(name.startswith("REDIS_") for name in env)
        if one["image"] and fits:
            return {"id": one["image"], "name": one["image_name"]}
    return {}


def find(client: Any, stack: str) -> list[dict[str, Any]]:
    """See DOCUMENTATION. Raises what the engine's client raises."""
    listed = client.containers(all=True)
    containers = described(client, listed)
    images = [one["Id"] for one in client.images()]
    volumes = {one["Name"]: one for one in client.volumes()["Volumes"] or []}
    used = {name: [one for one in containers if name in one["mounts"]] for name in volumes}
    bytes_of: dict[str, int] | None = None
    result = []
    for name, volume in sorted(volumes.items()):
        labels = volume.get("Labels") or {}
        mounting = used[name]
        projects = {labels.get(LABEL_PROJECT), *(one["project"] for one in mounting)} - {None}
        if LABEL_STACK in labels or not projects or not images:
            continue
        # An image that is there for sure: its container is.
        image = next((one["image"] for one in mounting if one["image"]), images[0])
        facts = look(client, stack, image, name, mounting)
        if not facts:
            continue
        if bytes_of is None:
            bytes_of = sizes(client)
        for project in sorted(projects):
            result.append(
                {
                    "project": project,
                    "volume": name,
                    "short": labels.get(LABEL_VOLUME),
                    "anonymous": LABEL_ANONYMOUS in labels
                    or bool(re.fullmatch(r"[0-9a-f]{64}", name)),
                    **facts,
                    "bytes": bytes_of.get(name),
                    "containers": sorted(one["name"] for one in mounting),
                    # Whatever writes to it, and the project's others, which hold ports.
                    "running": sorted(one["name"] for one in mounting if one["running"]),
                    "project_running": sorted(
                        one["Names"][0].lstrip("/")
                        for one in listed
                        if (one.get("Labels") or {}).get(LABEL_PROJECT) == project
                        and one["State"] not in ENDED
                    ),
                    "services": sorted(
                        {one["service"] for one in mounting if one["project"] == project} - {None}
                    ),
                    "image": image_for(facts, mounting),
                }
            )
    return sorted(result, key=lambda one: (one["project"], one["kind"], one["volume"]))


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "required": True},
            "stack": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        volumes = find(connect(module.params["docker_host"]), module.params["stack"])
    except Exception as error:
        module.fail_json(
            clear=True,
            msg=f"The volumes of docker compose projects cannot be read: {error}\n"
            f"{explain(str(error)) or 'What stands in the way: ./dev adopt -- -v'}",
        )
    module.exit_json(changed=False, volumes=volumes)


if __name__ == "__main__":
    main()
