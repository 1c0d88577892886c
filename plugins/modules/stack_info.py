#!/usr/bin/python
"""Ansible module: one look at the machine and the engine, taken once a run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_info
short_description: Observe the engine, the stack on it, and the ports it wants
description:
  - Finds the Docker Engine to talk to and reads everything a run decides by, changing nothing.
  - Tells which names and ports are taken by something that is not this stack, and by what.
options:
  stack:
    description: Name of the stack, as in the label C(dev-stack.stack).
    type: str
    required: true
  docker_host:
    description: Address of the engine; found by itself when empty.
    type: str
    default: ""
  state_dir:
    description:
      - Directory that holds a folder for each stack; C(~/.local/state/dev-stack) when empty. The
        stack's own, in full, is returned as C(machine.state_dir).
    type: str
    default: ""
  wait:
    description: Seconds to wait for an engine to answer.
    type: float
    default: 0
  containers:
    description: Container name by service.
    type: dict
    default: {}
  one_offs:
    description: The service by the name of a container that runs now and then to do a job for it.
    type: dict
    default: {}
  volumes:
    description:
      - By service, the name of its first data volume. Which volume is in use now is what
        C(volumes.json) in the stack's state directory says; see C(docs/architecture.md).
    type: dict
    default: {}
  network:
    description: Name of the stack's network.
    type: str
    default: ""
  ports:
    description: Published ports as C({service, address, port, instead}), the last a setting to suggest.
    type: list
    elements: dict
    default: []
  images:
    description: Image references whose presence matters.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: It never changes anything.
author: HYVVE
"""

import errno
import hashlib
import json
import os
import pwd
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import (
    LABEL_FILES,
    LABEL_IMAGE,
    LABEL_JOB,
    LABEL_PROJECT,
    LABEL_RUN,
    LABEL_SCRATCH,
    LABEL_SERVICE,
    LABEL_STACK,
    REMEMBERED,
    RUN_VARIABLE,
    another_run,
    find_engine,
    fingerprint,
    is_alive,
    read_secret,
)

# Where distributions keep the certificates that a machine's owner added to the trusted ones.
OWN_CERTIFICATES = (
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/ca-certificates/trust-source/anchors",
)


def machine() -> dict[str, Any]:
    """What the run needs to know of the machine and the user."""
    import platform

    home = os.path.expanduser("~")
    release: dict[str, str] = {}
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        pass
    certificates = sorted(
        str(path)
        for folder in OWN_CERTIFICATES
        for path in Path(folder).rglob("*")
        if path.suffix in {".crt", ".pem", ".cer"} and path.is_file()
    )
    digest = hashlib.sha256()
    certificates = [path for path in certificates if os.access(path, os.R_OK)]
    for path in certificates:
        digest.update(Path(path).read_bytes())
    return {
        "system": platform.system(),
        "distribution": " ".join([release.get("ID", ""), release.get("ID_LIKE", "")]).split(),
        "architecture": platform.machine(),
        "root": os.geteuid() == 0,
        "dockerd": shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin"),
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "systemd": os.path.isdir("/run/systemd/system"),
        "state_home": os.environ.get("XDG_STATE_HOME") or f"{home}/.local/state",
        "own_certificates": certificates,
        "own_certificates_digest": digest.hexdigest()[:12] if certificates else "",
    }


def free_bytes(path: str) -> int | None:
    """Free bytes where the engine keeps its data, or None where this machine cannot see that."""
    if not os.path.isdir(path):
        return None
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


class Found:
    """Digests of what there is, so that a later run can tell whether it is still just so.

    Of all that a role compares or writes nothing may be missing here: whatever is digested the same
    is left alone. Keyed, as secrets are part of it. None where there is no key yet.
    """

    def __init__(self, state: Path) -> None:
        """Take the stack's state directory."""
        self.state = state
        try:
            self.key = read_secret(state / "secrets" / "fingerprint_key")
        except (OSError, ValueError):
            self.key = ""

    def digest(self, what: Any) -> str | None:
        """A digest of what the engine tells, or of files."""
        return fingerprint(self.key, json.dumps(what, sort_keys=True)) if self.key else None

    def files(self, service: str) -> list[tuple[str, int, str]]:
        """The secrets, and the files and folders of a service: path, mode, content. Raises OSError."""
        tops = [self.state / "secrets", self.state / "rotation", *self.state.glob(f"{service}*")]
        paths = [self.state, *(path for top in tops for path in (top, *top.rglob("*")))]
        return [
            (
                str(path),
                path.stat().st_mode,
                path.read_bytes().decode(errors="backslashreplace") if path.is_file() else "",
            )
            for path in sorted(paths)
            if path.exists()
        ]

    def container(self, data: dict[str, Any], service: str, volume: Any) -> str | None:
        """A digest of a container, its volume and its files; not of what a restart changes."""
        networks = data["NetworkSettings"]["Networks"] or {}
        kept = ("NetworkID", "IPAMConfig", "Links", "DriverOpts")
        joined = {
            name: {
                **{key: one.get(key) for key in kept},
                "Aliases": sorted(set(one.get("Aliases") or []) - {data["Id"][:12]}),
            }
            for name, one in networks.items()
        }
        mounts = sorted(data["Mounts"], key=lambda mount: str(mount["Destination"]))
        parts = [data["Id"], data["Image"], data["Config"], data["HostConfig"], mounts, joined]
        try:
            return self.digest([*parts, volume, self.files(service)])
        except OSError:  # another user's, or changing this moment
            return None


def describe(client: Any, data: dict[str, Any], network: str) -> dict[str, Any]:
    """One of the stack's containers, as the playbooks and `status` see it."""
    state, labels = data["State"], data["Config"]["Labels"] or {}
    health = state.get("Health") or {}
    networks = data["NetworkSettings"]["Networks"] or {}
    drift = []
    try:
        if client.inspect_image(data["Config"]["Image"])["Id"] != data["Image"]:
            drift.append("image")
    except Exception:
        drift.append("image")  # the tag is gone, or names another image by now
    if network and network not in networks:
        drift.append("network")
    wanted = data["HostConfig"].get("PortBindings") or {}
    if state["Running"] and any(not data["NetworkSettings"]["Ports"].get(key) for key in wanted):
        drift.append("ports")
    volumes = [m["Name"] for m in data["Mounts"] if m.get("Type") == "volume" and m.get("Name")]
    # As it was asked for: what the engine made of it differs where it runs in a virtual machine.
    secrets = [
        mount["Source"]
        for mount in data["HostConfig"].get("Mounts") or []
        if mount["Target"].startswith("/run/secrets")
    ]
    started = state.get("StartedAt", "")
    return {
        "id": data["Id"],
        "container": data["Name"].lstrip("/"),
        "service": labels.get(LABEL_SERVICE),
        "job": labels.get(LABEL_JOB),
        # Whether the run that started this job is still at work.
        "at_work": LABEL_JOB in labels and is_alive(labels.get(LABEL_RUN, "")),
        "state": "restarting" if state.get("Restarting") else state["Status"],
        "health": health.get("Status"),
        # It takes several failed probes in a row to be called unhealthy; this tells of the first.
        "failing": bool(health.get("FailingStreak")),
        "files": labels.get(LABEL_FILES),
        "image": data["Config"]["Image"],
        "image_id": data["Image"],
        "volume": volumes[0] if volumes else None,
        "since": started if state["Running"] and not started.startswith("0001") else None,
        "exit_code": None if state["Running"] else state.get("ExitCode"),
        "published": sorted(
            {
                f"{binding.get('HostIp') or '0.0.0.0'}:{binding['HostPort']}"
                for bindings in wanted.values()
                for binding in bindings or []
            }
        ),
        "drift": drift,
        "state_dir": str(Path(secrets[0]).parent.parent) if secrets else None,
    }


def holder(port: int) -> str:
    """The process that listens on a TCP port, in words."""
    import psutil  # type: ignore[import-untyped]

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port:
                continue
            if not connection.pid:
                break
            process = psutil.Process(connection.pid)
            return f"{process.name()} (process {connection.pid} of {process.username()})"
    except (psutil.Error, PermissionError, OSError):
        pass
    return f"another user's process (to see it: sudo ss -ltnp 'sport = :{port}')"


def bind_refusal(address: str, port: int) -> int | None:
    """The error number with which this machine refuses to listen there, or None."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno
    return None


def port_conflicts(
    ports: list[dict[str, Any]], listed: list[dict[str, Any]], stack: str, local: bool
) -> list[dict[str, str]]:
    """{service, message} for each wanted port that something other than the stack holds."""
    conflicts = []
    for want in ports:
        service, port = want["service"], int(want["port"])
        by = next(
            (
                one
                for one in listed
                if any(
                    p.get("PublicPort") == port
                    and p.get("Type", "tcp") == "tcp"
                    and (
                        p.get("IP") in {want["address"], "0.0.0.0", "::"}
                        or want["address"] in {"0.0.0.0", "::"}
                    )
                    for p in one.get("Ports") or []
                )
            ),
            None,
        )
        if by is not None:
            labels = by.get("Labels") or {}
            if labels.get(LABEL_STACK) == stack:
                continue  # ours: being moved or kept, either way not in the way
            who = f"the container {by['Names'][0].lstrip('/')}"
            if project := labels.get(LABEL_PROJECT):
                message = (
                    f"Port {port} for {service} is taken by {who} (docker compose project {project}). "
                    f"Stop that project: docker compose -p {project} stop   (its data can be taken over: "
                    f"./dev adopt {project}), or use other ports: ./dev up -- -e port_offset=<number>"
                )
                conflicts.append({"service": service, "kind": "port", "message": message})
                continue
            if labels.get(LABEL_STACK):
                who += f" (stack {labels[LABEL_STACK]})"
        elif local and (refusal := bind_refusal(want["address"], port)) == errno.EADDRINUSE:
            who = holder(port)
        elif local and refusal == errno.EADDRNOTAVAIL:
            message = (
                f"bind_address {want['address']} is not an address of this machine. See which are: "
                "ip address"
            )
            conflicts.append({"service": service, "kind": "port", "message": message})
            continue
        else:
            continue
        message = (
            f"Port {port} for {service} is taken by {who}. Stop it, or use another port: "
            f"./dev up -- -e {want['instead']}   (or move all of them: -e port_offset=<number>)"
        )
        conflicts.append({"service": service, "kind": "port", "message": message})
    return conflicts


def foreign(service: str, kind: str, name: str, labels: dict[str, str] | None) -> dict[str, str]:
    """{service, kind, message} of an object that has one of our names but not our label."""
    project = (labels or {}).get(LABEL_PROJECT)
    if not project:
        message = (
            f"There is a {kind} named {name} already, and it is not this stack's; it is left alone. "
            "Rename or remove it, or give this stack another name: ./dev up -- -e stack_name=<name>"
        )
    elif kind == "volume":
        message = (
            f"There is a volume named {name} already, of the docker compose project {project}; it is "
            f"left alone. To start with a copy of its data: ./dev adopt {project}. To start without: "
            "STACK_NAME=<name> ./dev up"
        )
    else:
        message = (
            f"There is a {kind} named {name} already, of the docker compose project {project}; it is "
            f"left alone. Stop and remove the project's containers; its volumes stay: "
            f"docker compose -p {project} down. Then start with a copy of its data: "
            f"./dev adopt {project}. Or have both, this stack under another name: "
            "STACK_NAME=<name> PORT_OFFSET=<number> ./dev up"
        )
    return {"service": service, "kind": kind, "message": message}


def read_record(path: Path) -> dict[str, Any] | None:
    """What volumes.json says; None if there is none. Raises ValueError if it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        current, previous = record["current"], record.get("previous", {})
        names = [*current.items(), *previous.items()]
        if not all(isinstance(word, str) for pair in names for word in pair):
            raise TypeError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}, which says which volumes are in use, cannot be read ({error}). Put it right, or, if the "
            "stack was never restored or upgraded, remove it"
        ) from error
    return {**record, "previous": previous}


def read_remembered(path: Path) -> dict[str, Any]:
    """What the last run found right, by service; {} where that cannot be told, which costs time only."""
    try:
        remembered = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


def read_run(path: Path) -> str:
    """A line if another run has noted that it is at work (stack_record), else ""."""
    try:
        run = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    return str(another_run(run, os.environ.get(RUN_VARIABLE, "")))


def volumes_in_use(
    plain: dict[str, str],
    found: dict[str, dict[str, Any]],
    record: dict[str, Any] | None,
    mounted: dict[str, str | None],
    path: str,
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Which volume each service uses, and {service, message, gone} where that cannot be told.

    Takes each service's first volume, the stack's volumes ({name: {labels}}), the record of them
    or None, what the services' containers mount, and the record's path. Without a record it is
    the only volume of a service, or the one that its container mounts.
    """
    current: dict[str, str] = {}
    problems: list[dict[str, Any]] = []
    for service, first in plain.items():
        own = sorted(
            name
            for name, volume in found.items()
            if volume["labels"].get(LABEL_SERVICE) == service
            and LABEL_SCRATCH not in volume["labels"]
        )
        current[service] = first
        if record is not None:
            current[service] = record["current"].get(service, first)
            if service in record["current"] and current[service] not in own:
                others = ", ".join(own) or "none"
                message = (
                    f"The volume {current[service]}, which {service} uses according to {path}, is gone. "
                    f"Volumes of {service} that are there: {others}. Bring the data back: "
                    f"./dev restore latest, or start afresh: ./dev reset {service}"
                )
                problems.append({"service": service, "message": message, "gone": True})
        elif len(own) == 1:
            current[service] = own[0]
        elif mounted.get(service) in own:
            current[service] = str(mounted[service])
        elif own:
            listed = ", ".join(f"{name} (of {found[name]['created']})" for name in own)
            message = (
                f"{service} has several volumes, {listed}, and {path}, which said which of them is in "
                "use, is gone."
            )
            current[service] = own[-1]
            problems.append({"service": service, "message": message, "gone": False})
    if any(not one["gone"] for one in problems):
        # All of them: what the record does not name is taken to be the first.
        example = json.dumps({"current": {s: name for s, name in current.items() if name in found}})
        problems[-1]["message"] += f" Name those in use, such as: echo '{example}' > {path}"
    return current, problems


def observe(module: AnsibleModule, client: Any, url: str, state: Path) -> dict[str, Any]:
    """Everything there is to know, in one dictionary (see the playbooks for its use)."""
    import docker  # type: ignore[import-untyped]

    p = module.params
    stack = p["stack"]
    info = client.info()
    version = client.version()
    local = url.startswith("unix://")
    listed = client.containers(all=True)
    taken: list[dict[str, str]] = []

    services: dict[str, Any] = {}
    inspected: dict[str, dict[str, Any]] = {}
    others: list[dict[str, Any]] = []
    for one in listed:
        labels, names = one.get("Labels") or {}, [n.lstrip("/") for n in one["Names"] or []]
        if labels.get(LABEL_STACK) == stack and labels.get(LABEL_SERVICE):
            try:
                data = client.inspect_container(one["Id"])
                seen = describe(client, data, p["network"])
            except docker.errors.NotFound:  # removed this very moment
                continue
            if p["containers"].get(seen["service"], seen["container"]) == seen["container"]:
                services[seen["service"]], inspected[seen["service"]] = seen, data
            else:
                others.append(seen)
        else:
            taken += [
                foreign(service, "container", name, labels)
                for service, name in [
                    *p["containers"].items(),
                    *((s, n) for n, s in p["one_offs"].items()),
                ]
                if name in names
            ]

    found: dict[str, dict[str, Any]] = {}
    others_volumes: list[str] = []
    for one in client.volumes()["Volumes"] or []:
        labels = one["Labels"] or {}
        if labels.get(LABEL_STACK) == stack and labels.get(LABEL_SERVICE) in p["volumes"]:
            found[one["Name"]] = {"labels": labels, "created": one.get("CreatedAt")}
        elif one["Name"].startswith(tuple(p["volumes"].values())):
            others_volumes.append(one["Name"])
    mounted = {service: one["volume"] for service, one in services.items()}
    path = state / "volumes.json"
    record: dict[str, Any] | None = None
    problems: list[dict[str, Any]] = []
    try:
        record = read_record(path)
    except ValueError as error:
        problems.append({"service": "", "message": str(error), "gone": False})
    current, unknown = volumes_in_use(p["volumes"], found, record, mounted, str(path))
    for service, name in current.items():
        if name in found:
            continue
        try:
            labels = client.inspect_volume(name).get("Labels")
        except docker.errors.NotFound:
            continue
        taken.append(foreign(service, "volume", name, labels))
    in_use = set(current.values())
    digests = Found(state)
    for service, one in services.items():
        volume = found.get(current.get(service, ""))
        one["found"] = digests.container(inspected[service], service, volume)

    network = None
    ours = {found["id"] for found in [*services.values(), *others]}
    if p["network"]:
        for data in client.networks(names=[p["network"]]):
            if data["Name"] != p["network"]:
                continue  # the engine's filter matches parts of names
            if (data.get("Labels") or {}).get(LABEL_STACK) == stack:
                pools = (data.get("IPAM") or {}).get("Config") or []
                subnets = [pool["Subnet"] for pool in pools if pool.get("Subnet")]
                whole = client.inspect_network(data["Id"])
                attached = whole.get("Containers") or {}
                kept = ("Id", "Driver", "Labels", "Options", "IPAM", "Internal", "EnableIPv6")
                network = {
                    "id": data["Id"],
                    "name": data["Name"],
                    "subnets": subnets,
                    "others": sorted(c["Name"] for i, c in attached.items() if i not in ours),
                    "found": digests.digest([whole.get(key) for key in kept]),
                }
            else:
                taken.append(foreign("", "network", p["network"], data.get("Labels")))

    images: dict[str, str | None] = {}
    for reference in p["images"]:
        try:
            images[reference] = client.inspect_image(reference)["Id"]
        except docker.errors.APIError:
            images[reference] = None
    built: dict[str, list[str]] = {}
    for image in client.images(filters={"label": LABEL_IMAGE}):
        tags = [t for t in image.get("RepoTags") or [] if t != "<none>:<none>"]
        built.setdefault(image["Labels"][LABEL_IMAGE], []).extend(tags)

    components = {c["Name"]: c["Version"] for c in version.get("Components") or []}
    api = version["ApiVersion"]
    return {
        "engine": {
            "docker_host": url,
            "name": "Podman" if "Podman Engine" in components else "Docker",
            "version": version["Version"],
            "api_version": api,
            # The health check option `start_interval` came with this API version.
            "start_interval": tuple(map(int, api.split("."))) >= (1, 44),
            "operating_system": info.get("OperatingSystem"),
            "local": local,
            "free_bytes": free_bytes(info.get("DockerRootDir", "")) if local else None,
        },
        "services": services,
        "others": others,
        "current": current,
        "previous": (record or {}).get("previous", {}),
        "loading": (record or {}).get("loading", []),
        "why": (record or {}).get("why", ""),
        "recorded": record is not None,
        "remembered": read_remembered(state / REMEMBERED),
        "another_run": read_run(state / "run"),
        "volumes": {name: one for name, one in found.items() if name in in_use},
        "kept": {name: one for name, one in found.items() if name not in in_use},
        # Not ours, with names that ours have or may get.
        "foreign_volumes": sorted(others_volumes),
        "volume_problems": problems + unknown,
        "network": network,
        "images": images,
        "built": built,
        "taken": taken + port_conflicts(p["ports"], listed, stack, local),
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "stack": {"type": "str", "required": True},
            "docker_host": {"type": "str", "default": ""},
            "state_dir": {"type": "str", "default": ""},
            "wait": {"type": "float", "default": 0},
            "containers": {"type": "dict", "default": {}},
            "one_offs": {"type": "dict", "default": {}},
            "volumes": {"type": "dict", "default": {}},
            "network": {"type": "str", "default": ""},
            "ports": {"type": "list", "elements": "dict", "default": []},
            "images": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        import docker  # noqa: F401
        import psutil  # noqa: F401
    except ImportError as error:
        module.fail_json(
            clear=True,
            msg=f"The Python package {error.name} is missing on this host. "
            "Here: ./dev setup. On another machine: pip install docker psutil",
        )
    deadline = time.monotonic() + module.params["wait"]
    while True:
        client, url, problem = find_engine(module.params["docker_host"])
        if client is not None or problem["kind"] == "denied" or time.monotonic() >= deadline:
            break
        time.sleep(0.25)
    result: dict[str, Any] = {"machine": machine(), "problem": problem, "engine": None}
    base = module.params["state_dir"] or f"{result['machine']['state_home']}/dev-stack"
    base = os.path.abspath(os.path.expandvars(os.path.expanduser(base)))
    state = Path(base) / module.params["stack"]
    result["machine"]["state_dir"] = str(state)
    if client is not None:
        try:
            result.update(observe(module, client, url, state))
        except Exception as error:
            module.fail_json(
                clear=True, msg=f"The engine at {url} answered, but then failed: {error}"
            )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
