"""Filters that decide: which services, which images, and what is wrong with the settings."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
from difflib import get_close_matches
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir, "module_utils"))
from dev_stack import human_size, tree_digest

SERVICES = ("postgres", "redis", "agentos", "pgadmin")
NEEDS = {"agentos": ("postgres", "redis"), "pgadmin": ("postgres",)}
TAGS = ("network", *SERVICES)
SPECIAL_TAGS = {"all", "always", "never", "tagged", "untagged"}
# molecule skips these in every run
SPECIAL_TAGS |= {"notest", "molecule-notest", "molecule-idempotence-notest"}
LEAST_MEGABYTES = 64
DATABASE_NAME = r"[A-Za-z_][A-Za-z0-9_-]{0,62}"  # and a role's
POSTGRES_MAJORS = (16, 17, 18)


# --- which services -----------------------------------------------------------------------------


def selected_services(
    run_tags: list[str], skip_tags: list[str], pgadmin_enabled: Any, needed_too: bool = True
) -> list[str]:
    """The services that a run is about, in the order in which they are listed everywhere.

    Takes Ansible's tags, whether pgAdmin is enabled, and whether what a named service needs
    belongs to it (starting) or not (stopping).
    """
    named = set(run_tags) - SPECIAL_TAGS
    if not named or "all" in run_tags:
        chosen = set(SERVICES)
        if needed_too and not as_bool(pgadmin_enabled):
            chosen.discard("pgadmin")
    else:
        chosen = named & set(SERVICES)
        if needed_too:
            chosen |= {need for service in chosen for need in NEEDS.get(service, ())}
    return [s for s in SERVICES if s in chosen and s not in skip_tags]


# Which services hold which secret. AgentOS is given the owner's password for its migrations alone.
HOLDERS = {
    "postgres_password": ("postgres", "pgadmin"),
    "redis_password": ("redis", "agentos"),
    "pgadmin_password": ("pgadmin",),
    "better_auth_secret": ("agentos",),
    "agentos_db_password": ("agentos",),
    "openai_api_key": ("agentos",),
    "anthropic_api_key": ("agentos",),
}


# Which services know one without a file of it: AgentOS's role logs in to PostgreSQL.
KNOWN_TO = {"agentos_db_password": ("postgres",)}


def secrets_of(services: list[str], optional: list[str]) -> list[str]:
    """The secrets that one of these services knows, but for the optional ones."""
    return [
        secret
        for secret, holders in HOLDERS.items()
        if secret not in optional and {*holders, *KNOWN_TO.get(secret, ())} & set(services)
    ]


def with_users_of(
    selected: list[str], changed_secrets: list[str], existing: list[str]
) -> list[str]:
    """`selected`, and those of the existing services that hold a secret that changed.

    What these need joins as well, if it exists: it may have been stopped.
    """
    joining = {s for secret in changed_secrets for s in HOLDERS[secret] if s in existing}
    joining |= {need for s in joining for need in NEEDS.get(s, ()) if need in existing}
    return [s for s in SERVICES if s in selected or s in joining]


def is_well(found: dict[str, Any]) -> bool:
    """Whether a container's last health check succeeded; not so of {}, one that is not there."""
    return found.get("health") == "healthy" and not found.get("failing")


# AgentOS is as it should be only if the PostgreSQL is on which it was found so: that holds its schema.
PROVED_WITH = {"agentos": ("postgres",)}


def unchanged_services(
    observed: dict[str, Any], described: dict[str, str], changed_secrets: list[str]
) -> list[str]:
    """The services, and `network`, that need not be looked into: all is as when last found right.

    Takes what was observed, the digests of what is wanted (stack_description), and the secrets
    that this run changed.
    """
    now = as_it_is(observed, described, [*SERVICES, "network"])
    left_behind = {one["service"] for one in observed["others"]}  # by a run that was interrupted
    same = [
        name
        for name, one in now.items()
        if one["found"] and one == observed["remembered"].get(name)
        if name not in left_behind and not changed_secrets
    ]
    well = [name for name in same if name == "network" or is_running_well(observed, name)]
    if "agentos" in same and "agentos" not in well and is_running(observed, "agentos"):
        # It says that it is not well while Redis is not, and recovers once this run has mended that.
        if "redis" in now and not is_running_well(observed, "redis"):
            well.append("agentos")
    return [name for name in well if not {*PROVED_WITH.get(name, ())} - {*well}]


def is_running(observed: dict[str, Any], service: str) -> bool:
    """Whether a service's container runs, and the engine changed nothing under it."""
    found = observed["services"][service]
    return found["state"] == "running" and not found["drift"]


def is_running_well(observed: dict[str, Any], service: str) -> bool:
    """Whether a service's container runs, and was healthy at its last health check."""
    return is_running(observed, service) and is_well(observed["services"][service])


def as_it_is(
    observed: dict[str, Any], described: dict[str, str], services: list[str]
) -> dict[str, dict[str, str | None]]:
    """{service: {description, found}} of those of some services, or `network`, that are there."""
    there = {s: observed["services"][s] for s in services if s in observed["services"]}
    there |= (
        {"network": observed["network"]} if observed["network"] and "network" in services else {}
    )
    return {
        name: {"description": described[name], "found": one["found"]}
        for name, one in there.items()
        if name in described
    }


def remembered(
    observed: dict[str, Any], described: dict[str, Any], services: list[str], env_file: str
) -> dict[str, dict[str, str | None]]:
    """What to remember once a run has looked into these; what is known of others stays as it was.

    Takes what was observed, what is wanted (stack_description), and the digest of the file with the
    connection strings, as the run left it.
    """
    return {
        **observed["remembered"],
        **as_it_is(observed, described["services"], services),
        "env_file": {**described["env_file"], "found": env_file},
    }


def same_env_file(observed: dict[str, Any], described: dict[str, Any]) -> bool:
    """Whether the file with the connection strings is as the last run left it, and to be as then."""
    now = described["env_file"]
    return bool(now["found"]) and observed["remembered"].get("env_file") == now


def migrated_with(observed: dict[str, Any]) -> dict[str, str]:
    """The image and the files with which AgentOS was healthy before the run; {} if it was not.

    Its health check proves that the database is as this image wants it, and that the files hold
    the right password. That holds while its PostgreSQL is healthy too, and unless a migration was
    interrupted, which leaves its container behind.
    """
    services = observed["services"]
    found = services.get("agentos", {})
    whole = is_well(found) and is_well(services.get("postgres", {}))
    interrupted = any(one["service"] == "agentos" for one in observed["others"])
    if not whole or interrupted or "image" in found["drift"]:
        return {}
    return {"image": found["image"], "files": found["files"]}


# --- settings -----------------------------------------------------------------------------------


def as_bool(value: Any) -> bool | None:
    """A setting's truth as Ansible reads it; None when it is neither."""
    text = str(value).strip().lower()
    if text in {"true", "yes", "on", "1"}:
        return True
    return False if text in {"false", "no", "off", "0"} else None


def as_int(value: Any) -> int | None:
    """A setting's whole number, or None."""
    return int(str(value)) if re.fullmatch(r"-?\d+", str(value)) else None


def port_problems(s: dict[str, Any]) -> list[str]:
    """A line for each published port that cannot be."""
    offset = as_int(s["port_offset"])
    if offset is None:
        return [f"port_offset is {s['port_offset']!r}; it has to be a whole number, such as 100."]
    problems: list[str] = []
    seen: dict[int, str] = {}
    for service in SERVICES:
        name, value = f"{service}_port", s[f"{service}_port"]
        base = as_int(value)
        port = None if base is None else base + offset
        if port is None or not 1 <= port <= 65535 or not 1 <= (base or 0) <= 65535:
            with_offset = f" (with port_offset {offset}: {port})" if offset and base else ""
            problems.append(
                f"{name} is {value!r}{with_offset}; a port is a number from 1 to 65535."
            )
        elif port in seen:
            problems.append(f"{name} and {seen[port]} are both {port}; each service needs its own.")
        else:
            seen[port] = name
    return problems


def url_problems(name: str, value: str, example: str) -> list[str]:
    """A line if a setting for AgentOS's container is no URL that it could call."""
    if not value:
        return []
    match = re.fullmatch(
        r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?(/[^\s?#@]*)?", value, re.IGNORECASE
    )
    if match is None:
        return [
            f"{name} is {value!r}; it has to be an http or https URL without user, password, ? or #, "
            f"such as {example}."
        ]
    if re.fullmatch(r"localhost|127\..*|\[::1\]|0\.0\.0\.0", match[1], re.IGNORECASE):
        return [
            f"{name} is {value!r}; in AgentOS's container {match[1]} is the container itself. This "
            f"machine is host.docker.internal there: {value.replace(match[1], 'host.docker.internal', 1)}"
        ]
    return []


def settings_problems(s: dict[str, Any]) -> list[str]:
    """A line for each setting that cannot be, naming it, its value and what it should be.

    Takes the settings by name, with `run_tags` and `skip_tags` of the run among them.
    """
    problems = port_problems(s)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", str(s["stack_name"])):
        problems.append(
            f"stack_name is {s['stack_name']!r}; it has to be 1 to 40 small letters, digits, "
            "_ or -, and begin with a letter or digit."
        )
    try:
        ipaddress.IPv4Address(str(s["bind_address"]))
    except ValueError:
        problems.append(
            f"bind_address is {s['bind_address']!r}; it has to be an IPv4 address of this machine, "
            "such as 127.0.0.1."
        )
    if s["network_subnet"]:
        try:
            ipaddress.ip_network(str(s["network_subnet"]))
        except ValueError:
            problems.append(
                f"network_subnet is {s['network_subnet']!r}; it has to be a subnet such as "
                "10.210.0.0/24."
            )
    sources = ("auto", "registry", "packages")
    if s["image_source"] not in sources:
        problems.append(
            f"image_source is {s['image_source']!r}; it has to be {' or '.join(sources)}."
        )
    if str(s["postgres_version"]) not in {"", *map(str, POSTGRES_MAJORS)}:
        problems.append(
            f"postgres_version is {s['postgres_version']!r}; it has to be "
            f"{' or '.join(map(str, POSTGRES_MAJORS))}, or empty."
        )
    if s["image_registry"] and not re.fullmatch(
        r"[A-Za-z0-9.-]+(:\d+)?(/[a-z0-9._/-]+)?", str(s["image_registry"])
    ):
        problems.append(
            f"image_registry is {s['image_registry']!r}; it has to be a host, with port and path "
            "if need be, and no https://, such as registry.example.com:5000/mirror."
        )
    for name in ("postgres_db", "postgres_user"):
        if not re.fullmatch(DATABASE_NAME, str(s[name])):
            problems.append(
                f"{name.upper()} is {s[name]!r}; it has to be 1 to 63 letters, digits, _ or -, "
                "and begin with a letter or _."
            )
    if not re.fullmatch(r"[^@\s'\"]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", str(s["pgadmin_email"])):
        problems.append(
            f"PGADMIN_DEFAULT_EMAIL is {s['pgadmin_email']!r}; it has to be an e-mail address, "
            "such as dev@example.com."
        )
    model, keys = "http://host.docker.internal:11434/v1", "https://app.example.com/api/auth/jwks"
    problems += url_problems("agentos_model_url", str(s["agentos_model_url"]), model)
    problems += url_problems("auth_jwks_url", str(s["auth_jwks_url"]), keys)
    for name in ("auth_issuer", "auth_audience"):
        if not re.fullmatch(r"\S{1,200}", str(s[name])):
            problems.append(
                f"{name} is {s[name]!r}; it has to be a name or URL without spaces, such as hyvve."
            )
    if s["agentos_model_url"] and not s["agentos_model"]:
        problems.append(
            "agentos_model is not set; it has to name the model that agentos_model_url serves."
        )
    if re.search(r"\s", str(s["agentos_model"])):
        problems.append(
            f"agentos_model is {s['agentos_model']!r}; it has to be a model's name without spaces."
        )
    for name in ("pgadmin_enabled", "agentos_reload", "take_over", "compare_all"):
        if as_bool(s.get(name, False)) is None:
            problems.append(f"{name} is {s.get(name)!r}; it has to be true or false.")
    if as_int(s["backup_keep"]) is None or (as_int(s["backup_keep"]) or 0) < 0:
        problems.append(
            f"backup_keep is {s['backup_keep']!r}; it has to be a number of backups, 0 for all."
        )
    for service in SERVICES:
        size = re.fullmatch(r"(\d+)([mgMG])", str(s[f"{service}_memory"]))
        if not size or int(size[1]) * (1024 if size[2] in "gG" else 1) < LEAST_MEGABYTES:
            problems.append(
                f"{service}_memory is {s[f'{service}_memory']!r}; it has to be a size such as 512m, "
                f"at least {LEAST_MEGABYTES}m."
            )
    if not isinstance(s.get("allowed_hosts", []), list):
        problems.append(
            "allowed_hosts has to be a list. For one run: "
            """./dev up -- -e '{"allowed_hosts": ["name"]}'"""
        )
    if not isinstance(s.get("postgres_settings", {}), dict):
        problems.append(
            "postgres_settings has to be a mapping. For one run: "
            """./dev up -- -e '{"postgres_settings": {"work_mem": "16MB"}}'"""
        )
    for tag in sorted((set(s["run_tags"]) | set(s["skip_tags"])) - SPECIAL_TAGS - set(TAGS)):
        near = get_close_matches(tag, TAGS, n=1)
        problems.append(
            f"There is no service or tag {tag!r}{f' (did you mean {near[0]}?)' if near else ''}; "
            f"there are {', '.join(TAGS)}."
        )
    if (
        s.get("starting", True)
        and "pgadmin" in s["run_tags"]
        and as_bool(s["pgadmin_enabled"]) is False
    ):
        problems.append(
            "pgadmin was named, but pgadmin_enabled is false: ./dev up pgadmin -- -e pgadmin_enabled=true"
        )
    return problems


def other_owner(observed: dict[str, Any], state_dir: str, take_over: Any) -> list[str]:
    """A line if what is there has its secrets elsewhere: another user's stack, most likely.

    With secrets of our own we would lock its owner out, and `down` or `reset` would end it.
    """
    kept_in = {one["state_dir"] for one in observed["services"].values()}
    volumes = [*observed["volumes"].values(), *observed["kept"].values()]
    kept_in |= {one["labels"].get("dev-stack.state-dir") for one in volumes}
    elsewhere = sorted(kept_in - {state_dir, None})
    if not elsewhere or as_bool(take_over):
        return []
    return [
        f"This stack has its secrets in {', '.join(elsewhere)} and not in {state_dir}: it is another "
        "user's, or state_dir was changed. Choose another name: STACK_NAME=<name> "
        "PORT_OFFSET=<number> ./dev up. If it is yours: take_over: true in zz-local.yml, or once: "
        "./dev up -- -e take_over=true"
    ]


def one_offs(containers: dict[str, str], first: dict[str, str]) -> dict[str, str]:
    """The service by name of each container that does a job for it and ends."""
    names = {f"{containers['agentos']}_migrate": "agentos"}
    for service in first:
        names |= {f"{containers[service]}_{job}": service for job in ("job", "check", "adopt")}
    return names


def at_work(observed: dict[str, Any]) -> list[str]:
    """A line if another run works on this stack's data right now."""
    if observed["another_run"]:
        return [observed["another_run"]]
    jobs = [one for one in observed["others"] if one["at_work"]]
    return [
        f"Another run is at work on this stack's data ({one['job']}, container {one['container']}). "
        f"Wait until it is done, or end it: docker rm -f {one['container']}"
        for one in jobs[:1]
    ]


def volume_problems(observed: dict[str, Any], replaced: list[str], data_returns: bool) -> list[str]:
    """A line for each volume of which nobody knows where it is.

    A run that removes the data of some services (`replaced`) needs not know theirs; one that brings
    a backup back (`data_returns`) can do without those that are gone.
    """
    whole = set(replaced) >= set(observed["current"])
    return [
        one["message"]
        for one in observed["volume_problems"]
        if one["service"] not in replaced
        and not (whole and not one["service"])
        and not (data_returns and one["gone"])
    ]


def in_the_way(observed: dict[str, Any], one_offs: list[str], first: dict[str, str]) -> list[str]:
    """A line for each thing that is not ours and has a name that jobs on data use."""
    scratch = {f"{name}_{end}" for name in first.values() for end in ("check", "adopt")}
    lines = [
        f"There is a volume named {name} already, and it is not this stack's; it is left alone. Rename it by "
        "copying it, or remove it."
        for name in observed["foreign_volumes"]
        if name in scratch
    ]
    taken = [one["message"] for one in observed["taken"] if one["kind"] == "container"]
    return lines + [line for line in taken if any(f" {name} " in line for name in one_offs)]


def healthy_services(observed: dict[str, Any]) -> list[str]:
    """The services that run and whose health check says so, the last probe or those before it."""
    return [name for name, one in observed["services"].items() if is_healthy(one)]


def restore_problems(
    manifest: dict[str, Any], postgres_major: Any, free_bytes: int | None
) -> list[str]:
    """A line for each reason why a backup cannot be restored into this stack.

    Takes its manifest, the major version of PostgreSQL that the stack uses, and the bytes free on
    the engine's disk, where they are known.
    """
    services, problems = manifest["services"], []
    server = services.get("postgres", {})
    if int(server.get("major", 0)) > int(postgres_major):
        problems.append(
            f"The backup was made by PostgreSQL {server['major']}, and this stack uses {postgres_major}, "
            f"which is older. First: ./dev upgrade --to {server['major']}"
        )
    files = manifest["files"]
    need = sum(int(one["size"]) for one in server.get("databases", []))
    need += sum(3 * one["bytes"] for name, one in files.items() if name.startswith("redis/"))
    if free_bytes is not None and free_bytes < need + 50_000_000:
        problems.append(
            f"The data of the backup takes about {human_size(need)}, and the engine's disk has "
            f"{human_size(free_bytes)} free. Nothing was touched. See what takes the room: docker system df"
        )
    return problems


def upgrade_problems(
    observed: dict[str, Any], to: Any, rollback: Any, postgres_version: Any
) -> list[str]:
    """A line for each reason why PostgreSQL cannot be upgraded so.

    Takes the major version to upgrade to, or whether to go back, and the setting postgres_version.
    """
    majors = [str(major) for major in POSTGRES_MAJORS]
    to, back = str(to), bool(as_bool(rollback))
    if bool(to) == back:
        return [
            "Name the version, or the way back: ./dev upgrade --to 18, or ./dev upgrade --rollback"
        ]
    if back:
        return []
    if to not in majors:
        return [f"PostgreSQL {to} is not known here; there are {', '.join(majors)}."]
    if "postgres" not in services_with_data(observed):
        return [f"There is no data to upgrade yet. Start with it: POSTGRES_VERSION={to} ./dev up"]
    now = postgres_major(observed, "", 16)
    if int(to) < now:
        return [
            f"The data is of PostgreSQL {now}, and an older version cannot take it. What was upgraded goes "
            "back with: ./dev upgrade --rollback"
        ]
    if str(postgres_version) not in {"", to}:
        return [
            f"postgres_version (POSTGRES_VERSION) is set to {postgres_version}. Remove that setting, or set it to "
            f"{to}, then: ./dev upgrade --to {to}"
        ]
    return []


def backups_table(backups: list[dict[str, Any]], directory: str) -> str:
    """`backups` for people: a line per backup, the newest first."""
    if not backups:
        return f"There is no backup in {directory} yet. Make one: ./dev backup"
    rows = [["BACKUP", "MADE", "SIZE", "HOLDS", "WHY"]]
    for one in backups:
        server = one["services"].get("postgres", {})
        holds = [
            f"{name} {server['version']}" if name == "postgres" else name
            for name in one["services"]
        ]
        size = human_size(one["bytes"]) if one["bytes"] is not None else "-"
        why = "damaged" if "problem" in one else one.get("why", "-")
        made = str(one["at"])[:16].replace("T", " ")
        rows.append([one["name"], made, size, ", ".join(holds) or "-", why])
    return table(rows) + f"\n\nThey are in {directory}. Bring one back: ./dev restore NAME"


def leftovers(observed: dict[str, Any]) -> dict[str, list[str]]:
    """What interrupted runs left: {containers: of jobs, volumes: of scratch, or half loaded}."""
    jobs = [one["container"] for one in observed["others"] if one["job"] and not one["at_work"]]
    unused = [
        name
        for name, one in observed["kept"].items()
        if "dev-stack.scratch" in one["labels"]
        or (name in observed["loading"] and name not in observed["previous"].values())
    ]
    return {"containers": jobs, "volumes": unused}


def postgres_major(observed: dict[str, Any], wanted: Any, default: int) -> int:
    """The major version of PostgreSQL to run: the one asked for, else the volume's, else `default`.

    A volume from before its label was introduced is 16.
    """
    if str(wanted):
        return int(wanted)
    volume = observed["volumes"].get(observed["current"].get("postgres", ""))
    if volume is None:
        return default
    return int(volume["labels"].get("dev-stack.postgres-major", 16))


def services_with_data(observed: dict[str, Any]) -> list[str]:
    """The services whose volume in use is there."""
    return [s for s, name in observed["current"].items() if name in observed["volumes"]]


def volumes_with_data(observed: dict[str, Any]) -> dict[str, str]:
    """The volume in use of each service that has one."""
    return {s: observed["current"][s] for s in services_with_data(observed)}


def volumes_of(observed: dict[str, Any], services: list[str]) -> list[str]:
    """All data volumes of some services, those kept from before a restore included."""
    both = {**observed["volumes"], **observed["kept"]}
    return sorted(n for n, one in both.items() if one["labels"]["dev-stack.service"] in services)


def services_in_doubt(observed: dict[str, Any], services: list[str]) -> list[str]:
    """Those of some services that have volumes, none of which is known to be the one in use."""
    unclear = {one["service"] for one in observed["volume_problems"]}
    whole = services_with_data(observed)
    return [
        service
        for service in services
        if volumes_of(observed, [service]) and (service not in whole or {service, ""} & unclear)
    ]


def kept_before(before: dict[str, Any], to: dict[str, str], there: list[str]) -> dict[str, str]:
    """The volumes that are the way back once a stack moved on.

    Takes what was current and previous, the new volumes, and the names of those that exist. Where
    the current one was gone, the one before it still is the way back.
    """
    left = {service: before["current"].get(service) for service in to}
    return {**before["previous"], **{s: name for s, name in left.items() if name in there}}


def next_volume(service: str, observed: dict[str, Any], first: dict[str, str]) -> str:
    """The name of a service's next data volume: its first one's with the lowest free number."""
    known = {*observed["volumes"], *observed["kept"], *observed["current"].values()}
    known |= {*observed["foreign_volumes"]}
    number = 2
    while f"{first[service]}_{number}" in known:
        number += 1
    return f"{first[service]}_{number}"


def conflicts(
    observed: dict[str, Any], volumes: dict[str, str], postgres_user: str, network_subnet: str
) -> list[str]:
    """A line for each setting that what is there already cannot follow."""
    lines = []
    labels = (observed["volumes"].get(volumes["postgres"]) or {}).get("labels", {})
    made_with = labels.get("dev-stack.postgres-user", postgres_user)
    if made_with != postgres_user:
        lines.append(
            f"POSTGRES_USER is {postgres_user}, but the volume {volumes['postgres']} was made with "
            f"{made_with}. Set it back: POSTGRES_USER={made_with}, or start afresh: ./dev reset"
        )
    network = observed["network"]
    if network and network_subnet and network_subnet not in network["subnets"]:
        lines.append(
            f"The network {network['name']} is there with {', '.join(network['subnets'])}; another "
            "subnet takes a new network: ./dev down, then ./dev up"
        )
    return lines


def environment_value(name: str) -> str | None:
    """The environment variable, or None when it is not set (Ansible's lookup gives "" for both)."""
    return os.environ.get(name)


# --- adoption -----------------------------------------------------------------------------------

ADOPTED_MAJORS = (16, 17, 18)
KINDS = {"postgres": "PostgreSQL", "redis": "Redis"}


def in_words(one: dict[str, Any]) -> str:
    """What a volume found by compose_info holds: PostgreSQL 16."""
    return f"{KINDS[one['kind']]} {one['version'] or ''}".strip()


def short_name(volume: str) -> str:
    """A volume's name where nobody types it; an anonymous one's has 64 digits."""
    return f"{volume[:12]}…" if re.fullmatch(r"[0-9a-f]{64}", volume) else volume


def chosen_volumes(found: list[dict[str, Any]], project: str, names: list[str]) -> list[Any]:
    """The volumes of a project that are meant: those named, in full or as compose does, else all."""
    named = [one for word in names for one in word.split(",") if one]
    own = [one for one in found if one["project"] == project]
    return [one for one in own if not named or {one["volume"], one["short"]} & set(named)]


def adopted_volumes(
    found: list[dict[str, Any]], project: str, names: list[str]
) -> dict[str, dict[str, Any]]:
    """The volume to adopt for each service, once adoption_problems has nothing to say."""
    return {one["kind"]: one for one in chosen_volumes(found, project, names)}


def adopting(project: str, volumes: list[dict[str, Any]], every: list[dict[str, Any]]) -> str:
    """The command that adopts these volumes of a project, out of `every` one that it has."""
    named = [f" --volume {one['volume']}" for one in volumes] if len(volumes) < len(every) else []
    return f"./dev adopt {project}{''.join(named)}"


def adoption_problems(
    found: list[dict[str, Any]],
    project: str,
    names: list[str],
    observed: dict[str, Any],
    stack: str,
    postgres_version: Any,
) -> list[str]:
    """A line for each reason why a project's data cannot be adopted into this stack as it is.

    Takes what compose_info found, the project and the volumes that were named, what stack_info
    observed, the stack's name and the setting postgres_version.
    """
    projects = sorted({one["project"] for one in found})
    own = [one for one in found if one["project"] == project]
    if not own:
        near = get_close_matches(project, projects, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        known = (
            f"There are: {', '.join(projects)}." if projects else "There is none of any project."
        )
        return [
            f"There is no volume of a docker compose project {project} that holds PostgreSQL's or Redis's "
            f"data.{hint} {known} All of them: ./dev adopt"
        ]
    named = [one for word in names for one in word.split(",") if one]
    unknown = [n for n in named if not any(n in {one["volume"], one["short"]} for one in own)]
    if unknown:
        listed = ", ".join(f"{one['volume']} ({in_words(one)})" for one in own)
        return [
            f"The project {project} has no volume {unknown[0]} with such data. It has: {listed}"
        ]
    chosen = chosen_volumes(found, project, names)
    for kind, title in KINDS.items():
        several = [one for one in chosen if one["kind"] == kind]
        if len(several) > 1:
            others = [one for one in chosen if one["kind"] != kind]
            lines = [
                f"  {adopting(project, [one, *others], own)}   ({in_words(one)}, of {users(one)})"
                for one in several
            ]
            return [
                f"The project {project} has {len(several)} volumes of {title}, and a stack has one. "
                "Name those to adopt:",
                *lines,
            ]
    problems = []
    if with_data := [s for s in services_with_data(observed) if s in KINDS]:
        volumes = ", ".join(observed["current"][service] for service in with_data)
        problems.append(
            f"The stack {stack} has data already ({volumes}), which stays. Adopt into another one: "
            f"STACK_NAME=<name> PORT_OFFSET=<number> {adopting(project, chosen, own)}, or remove that "
            "data first, after a backup: ./dev reset, then ./dev down, then remove its volumes"
        )
    problems += in_use(project, chosen, own)
    for one in chosen:
        if one["kind"] == "postgres":
            problems += _wrong_major(one, project, str(postgres_version))
    return problems


def users(one: dict[str, Any]) -> str:
    """Who has a volume found by compose_info, in words."""
    return f"service {', '.join(one['services'])}" if one["services"] else "no container any more"


def in_use(project: str, chosen: list[Any], own: list[Any]) -> list[str]:
    """A line if containers run that write to these volumes, or are of their project."""
    running = sorted({name for one in own for name in one["project_running"]})
    if running:
        return [
            f"The project {project} is running ({', '.join(running)}). A copy is only whole while nobody "
            f"writes, and the stack may need its ports. Stop it; its data stays: docker compose -p {project} stop"
        ]
    others = sorted({name for one in chosen for name in one["running"]})
    return [
        f"{', '.join(others)} {'uses' if len(others) == 1 else 'use'} the data. Stop "
        f"{'it' if len(others) == 1 else 'them'}: docker stop {' '.join(others)}"
        for _ in others[:1]
    ]


def _wrong_major(one: dict[str, Any], project: str, wanted: str) -> list[str]:
    """A line if data of this major version of PostgreSQL cannot be adopted."""
    major = one["version"]
    if major not in map(str, ADOPTED_MAJORS):
        service = (one["services"] or ["<service>"])[0]
        compose = f"docker compose -p {project}"
        return [
            f"The volume {one['volume']} holds PostgreSQL {major}; volumes of "
            f"{', '.join(map(str, ADOPTED_MAJORS))} can be adopted. Take it over as SQL: "
            f"{compose} start {service}; {compose} exec -T {service} pg_dumpall -U <its superuser> > all.sql; "
            f"{compose} stop; ./dev up; ./dev psql < all.sql"
        ]
    if wanted not in {"", major}:
        return [
            f"The volume {one['volume']} holds PostgreSQL {major}, and postgres_version is {wanted}. Adopt "
            f"it as it is first, without that setting; then: ./dev upgrade --to {wanted}"
        ]
    return []


def adoption_conflicts(
    observed: dict[str, Any], selected: list[str], chosen: dict[str, dict[str, Any]]
) -> list[str]:
    """A line for each name or port that the stack needs and something else has.

    A volume of the name that a first one would have is no obstacle: others are made. An anonymous
    volume is lost to its project with its container, so that one is renamed rather than removed.
    """
    taken = [
        t for t in observed["taken"] if t["service"] in {*selected, ""} and t["kind"] != "volume"
    ]
    lines = list(dict.fromkeys(one["message"] for one in taken))
    unnamed = sorted({n for one in chosen.values() if one["anonymous"] for n in one["containers"]})
    if any(one["kind"] == "container" for one in taken) and unnamed:
        lines.append(
            "Mind that its data is in volumes without a name, which are hard to find once the containers are "
            "gone. Rename these instead of removing them: "
            + "; ".join(f"docker rename {name} {name}_old" for name in unnamed)
        )
    return lines


def adoption_room(chosen: dict[str, dict[str, Any]], free_bytes: int | None) -> list[str]:
    """A line if the engine's disk has no room for two more copies of the data, where that is known."""
    need = sum(2 * (one["bytes"] or 0) for one in chosen.values()) + 50_000_000
    if free_bytes is None or free_bytes >= need:
        return []
    return [
        f"Adopting takes about {human_size(need)} while it is at work, and the engine's disk has "
        f"{human_size(free_bytes)} free. Nothing was touched. See what takes the room: docker system df"
    ]


def source_images(
    chosen: dict[str, dict[str, Any]], images: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """The image that reads the copy of each volume: the project's own, which surely can, or the stack's."""
    return {s: one["image"].get("id") or images[s]["reference"] for s, one in chosen.items()}


def containers_of(observed: dict[str, Any], services: list[str]) -> list[str]:
    """The containers of some services that are there, those that do a job for one among them."""
    there = [*observed["services"].values(), *observed["others"]]
    return [one["container"] for one in there if one["service"] in services]


def nameless(observed: dict[str, Any], services: list[str]) -> list[str]:
    """Those of the services whose volume would have the name of one that is not the stack's."""
    return [s for s in services if observed["current"].get(s) in observed["foreign_volumes"]]


def adoption_table(found: list[dict[str, Any]]) -> str:
    """What compose_info found, for people."""
    if not found:
        return (
            "No volume of a docker compose project on this engine holds PostgreSQL's or Redis's data. "
            "Volumes of another engine: docker context ls. A backup of another stack: ./dev restore --from FILE"
        )
    rows = [["PROJECT", "VOLUME", "HOLDS", "SIZE", "USED BY", "ADOPT IT"]]
    for one in found:
        own = [other for other in found if other["project"] == one["project"]]
        of_kind = {kind: [o for o in own if o["kind"] == kind] for kind in KINDS}
        others = [o for o in own if o["kind"] != one["kind"] and len(of_kind[o["kind"]]) == 1]
        state = " (running)" if one["running"] else ""
        rows.append(
            [
                one["project"],
                short_name(one["volume"]),
                in_words(one),
                "-" if one["bytes"] is None else human_size(one["bytes"]),
                f"{', '.join(one['services']) or '-'}{state}",
                adopting(one["project"], [one, *others], own),
            ]
        )
    running = sorted({one["project"] for one in found if one["project_running"]})
    text = f"{table(rows)}\n\nThe stack gets copies; these volumes stay as they are."
    if running:
        stops = ", ".join(f"docker compose -p {project} stop" for project in running)
        text += f" A project that runs has to be stopped first: {stops}"
    return text


def adoption_report(
    chosen: dict[str, dict[str, Any]],
    manifest: dict[str, Any],
    copied: dict[str, Any],
    postgres_db: str,
    postgres_user: str,
) -> str:
    """What was adopted, for people.

    Takes the volumes, the manifest of the backup that was made of them, what look-at-copy told of
    PostgreSQL, and the stack's own database and superuser.
    """
    lines = []
    services = manifest["services"]
    if server := services.get("postgres"):
        lines.append(
            f"PostgreSQL {server['version']}, from {short_name(chosen['postgres']['volume'])}:"
        )
        names = [one["name"] for one in server["databases"]]
        for one in server["databases"]:
            if one["name"] not in {"template1", "postgres"} or one["tables"]:
                lines.append(
                    f"  database {one['name']}: {one['tables']} tables, {one['rows']} rows"
                )
        lines += [
            f"  {one['name']} sorted by {one['sorted_by']}, which this PostgreSQL lacks; now by {one['now']}: "
            "by code point, so that Z comes before a, and a before ä"
            for one in copied.get("resorted", [])
        ]
        if copied["superuser"] != postgres_user:
            lines.append(
                f"  The superuser {copied['superuser']} and all roles are there with the passwords they had; "
                f"the stack itself uses {postgres_user}, with a password of its own."
            )
        else:
            lines.append(
                f"  All roles are there with the passwords they had, but {postgres_user}, which has the stack's own."
            )
        own = [name for name in names if name not in {"template1", "postgres"}]
        own = [name for name in own if re.fullmatch(DATABASE_NAME, name)]  # what the setting takes
        if postgres_db not in own and own:
            biggest = max(server["databases"], key=lambda d: (d["name"] in own, d["rows"]))["name"]
            lines.append(
                f"  DATABASE_URL names the database {postgres_db}, which is new and empty. To have it name "
                f"{biggest}: POSTGRES_DB={biggest} ./dev up, or for good, "
                "postgres_db in inventory/group_vars/all/zz-local.yml"
            )
    if redis := services.get("redis"):
        counts = (re.fullmatch(r"keys db\d+ (\d+) .*", line) for line in redis["summary"])
        origin = (
            "its append-only file" if chosen["redis"]["reads"] == "aof" else "its last snapshot"
        )
        lines.append(
            f"Redis, from {short_name(chosen['redis']['volume'])} ({origin}): "
            f"{sum(int(count[1]) for count in counts if count)} keys"
        )
    return "\n".join(lines)


# --- images -------------------------------------------------------------------------------------


def mirrored(reference: str, registry: str) -> str:
    """`reference` as a mirror of Docker Hub has it: official images are under library/ there."""
    if not registry:
        return reference
    return f"{registry}/{reference if '/' in reference else f'library/{reference}'}"


def of_major(references: dict[str, str], major: Any) -> dict[str, str]:
    """The official references by name, with PostgreSQL's `major` where {major} stands."""
    return {name: one.replace("{major}", str(major)) for name, one in references.items()}


def every_reference(references: dict[str, str], registry: str) -> list[str]:
    """All references there may be, as `registry` has them: with every major of PostgreSQL."""
    found = [one for major in POSTGRES_MAJORS for one in of_major(references, major).values()]
    return [mirrored(reference, registry) for reference in dict.fromkeys(found)]


def with_images(observed: dict[str, Any], got: list[str]) -> dict[str, Any]:
    """What stack_info returned, with the images (references) that were got since then."""
    built = {name: list(references) for name, references in observed["built"].items()}
    for reference in got:
        if reference.startswith("dev-stack/"):
            name = reference.removeprefix("dev-stack/").partition(":")[0]
            built.setdefault(name, []).append(reference)
    return observed | {"images": observed["images"] | dict.fromkeys(got, "got"), "built": built}


def image_references(
    definitions: dict[str, Any],
    folder: str,
    agents: str,
    agents_files: list[str],
    in_registry: dict[str, str],
    registry: str,
    certificates: str,
) -> dict[str, dict[str, str]]:
    """The reference of every image, as `registry` has it and as built from `packages`.

    Takes the definitions ({name: {version, base or rootfs}}), the folder with a folder for each,
    AgentOS's build context and what of it counts, the official references, the mirror, and a digest of the certificates that
    this machine's owner added. AgentOS is built either way, on the one Python or the other. A
    built image's tag changes with its definition, its base and those certificates.
    """
    official = {name: mirrored(reference, registry) for name, reference in in_registry.items()}
    packages: dict[str, str] = {}

    def built(name: str) -> str:
        if name not in packages:
            definition = definitions[name]
            if "base" in definition:
                made_of = [built(definition["base"])]
            else:
                script = tree_digest(f"{folder}/rootfs", certificates)
                made_of = [script, *definition["rootfs"]]
            digest = tree_digest(f"{folder}/{name}", *made_of)
            packages[name] = f"dev-stack/{name}:{definition['version']}-{digest}"
        return packages[name]

    def agentos(base: str) -> str:
        return tree_digest(agents, base, only=agents_files)

    for name in definitions:
        built(name)
    # pip, inside an official image, trusts what this machine trusts only if it is told.
    trusted = tree_digest(f"{folder}/trusted-python", official["python"], certificates)
    official["trusted-python"] = (
        f"dev-stack/trusted-python:{trusted}" if certificates else official["python"]
    )
    official["agentos"] = f"dev-stack/agentos:{agentos(official['trusted-python'])}"
    packages["agentos"] = f"dev-stack/agentos:{agentos(packages['python'])}"
    return {"registry": official, "packages": packages}


def image_plan(
    wanted: list[str],
    source: str,
    references: dict[str, dict[str, str]],
    observed: dict[str, Any],
    volumes: dict[str, str],
    registry_answers: bool | None,
) -> dict[str, dict[str, Any]]:
    """Where each wanted image comes from.

    Takes the setting image_source, the references (image_references), what the engine has
    (stack_info), the volume of each service, and whether the registry answers (None: not asked
    yet). Gives by name {source, reference, present}; source is None while the registry's answer
    is needed.

    With `auto`: what is present, the volume's own source first; then the volume's source; then
    the registry if it answers; then packages.
    """

    def there(name: str, where: str) -> bool:
        reference = references[where][name]
        return bool(observed["images"].get(reference)) or reference in observed["built"].get(
            name, []
        )

    plan = {}
    for name in wanted:
        labels = (observed["volumes"].get(volumes.get(name, "")) or {}).get("labels", {})
        made_with = labels.get("dev-stack.image-source")
        if name != "agentos" and (running := observed["services"].get(name)):
            # What runs is newer knowledge than what the volume was made with.
            made_with = "packages" if running["image"].startswith("dev-stack/") else "registry"
        # AgentOS has no volume; the Python that is there already decides.
        base = next((w for w in references if name == "agentos" and there("python", w)), None)
        present = [where for where in references if there(name, where)]
        chosen: str | None
        if source != "auto":
            chosen = source
        elif made_with in present or (made_with == "packages" and observed["built"].get(name)):
            chosen = made_with
        elif present:
            chosen = present[0]
        elif made_with or base:
            chosen = made_with or base
        elif registry_answers is None:
            chosen = None
        else:
            chosen = "registry" if registry_answers else "packages"
        plan[name] = {
            "source": chosen,
            "reference": references[chosen][name] if chosen else None,
            "present": chosen in present,
        }
    return plan


def image_work(
    plan: dict[str, dict[str, Any]],
    definitions: dict[str, Any],
    references: dict[str, dict[str, str]],
    observed: dict[str, Any],
) -> dict[str, Any]:
    """What a plan takes: {pull: references, build: names with bases first, agentos: its base}.

    `agentos` is "" when it need not be built; `trust` tells whether its official base has to be
    given this machine's certificates first.
    """
    official, packages, built = references["registry"], references["packages"], observed["built"]
    build: list[str] = []

    def add(name: str) -> None:
        if packages[name] in built.get(name, []) or name in build:
            return
        if base := definitions[name].get("base"):
            add(base)
        build.append(name)

    work: dict[str, Any] = {"pull": [], "build": build, "agentos": "", "trust": False}
    for name, choice in plan.items():
        if choice["present"]:
            continue
        if name != "agentos":
            if choice["source"] == "packages":
                add(name)
            else:
                work["pull"].append(choice["reference"])
        elif choice["source"] == "packages":
            add("python")
            work["agentos"] = packages["python"]
        else:
            work["agentos"] = official["trusted-python"]
            work["trust"] = official["trusted-python"] != official["python"] and official[
                "trusted-python"
            ] not in built.get("trusted-python", [])
            if not observed["images"].get(official["python"]):
                work["pull"].append(official["python"])
    return work


def image_builds(
    work: dict[str, Any],
    definitions: dict[str, Any],
    references: dict[str, dict[str, str]],
    folder: str,
    args: dict[str, str],
) -> list[dict[str, Any]]:
    """The images that the module image_builds is to build, from image_work.

    `folder` holds the contexts by name, the script that makes Debian's file system and the
    certificates that it is given; `args` are arguments of every build.
    """
    official, packages = references["registry"], references["packages"]
    builds: list[dict[str, Any]] = []

    def add(name: str, reference: str, base: str, **more: Any) -> None:
        build = {"name": name, "reference": reference, "base": base, "path": f"{folder}/{name}"}
        builds.append({**build, "args": args, **more})

    for name in work["build"]:
        one = definitions[name]
        more: dict[str, Any] = {"args": args | one.get("args", {})}
        if "rootfs" in one:
            suite, *further = one["rootfs"]
            script, certificates = f"{folder}/rootfs/rootfs", f"{folder}/certificates.crt"
            more["command"] = [script, "rootfs.tar", suite, ",".join(further), certificates]
        add(name, packages[name], packages.get(one.get("base", ""), ""), **more)
    if work["trust"]:
        add("trusted-python", official["trusted-python"], official["python"])
    if base := work["agentos"]:
        built = official if base == official["trusted-python"] else packages
        add("agentos", built["agentos"], base)
    return builds


# --- data ---------------------------------------------------------------------------------------

# The newest version of the RDB format that each Redis reads; newer ones are not known here.
RDB_READ_BY = {(5, 0): 9, (6, 0): 9, (6, 2): 9, (7, 0): 10, (7, 2): 11, (7, 4): 12}
# Locales of the C library that sort by code point in every image. In the images built here, so
# does en_US.utf8, the official image's; and with Alpine's C library, all do.
BY_CODE_POINT = {"c", "posix", "c.utf8"}


def volumes_to_look_at(
    selected: list[str],
    plan: dict[str, dict[str, Any]],
    observed: dict[str, Any],
    volumes: dict[str, str],
) -> dict[str, str]:
    """The volumes, by service, that are there and whose image has yet to prove that it opens them.

    Takes the services of the run, where their images come from (image_plan), what was observed
    (stack_info), and the volume of each service. A healthy container has proved it for its image;
    one that was stopped has not, since what is on the volume may have been changed since.
    """
    looked_at = {}
    for service in selected:
        volume = volumes.get(service)
        found = observed["services"].get(service) or {}
        proved = (
            found.get("health") == "healthy"
            and found.get("volume") == volume
            and found.get("image") == plan[service]["reference"]
            and "image" not in found["drift"]
        )
        if volume in observed["volumes"] and not proved:
            looked_at[service] = str(volume)
    return looked_at


def unsafe_data(
    look: dict[str, Any],
    asked: dict[str, Any],
    volumes: dict[str, str],
    plan: dict[str, dict[str, Any]],
) -> list[str]:
    """A line for each volume that its image could not open safely: the reason, and the way out.

    Takes what volume_info found, what the running PostgreSQL said of itself (the result of its
    task: `rc` 1 while it initialises, else the facts as JSON in `stdout`), the volumes by service
    and where the images come from.
    """
    lines = []
    for service, volume in volumes.items():
        found, image = look["volumes"][service], look["images"][service]
        reference = plan[service]["reference"]
        if service == "postgres":
            lines += _unsafe_postgres(found, image, asked, volume, reference)
        elif service == "redis":
            lines += _unsafe_redis(found, image, volume, reference)
        elif service == "pgadmin":
            lines += _unsafe_pgadmin(found, image, volume, reference)
    return lines


def _unsafe_postgres(
    found: dict[str, Any], image: dict[str, Any], asked: dict[str, Any], volume: str, reference: str
) -> list[str]:
    """The lines for PostgreSQL's volume: one at most, the first reason is enough."""
    if found["empty"]:
        return []
    if found["complete"] is False and asked.get("rc") == 1:
        return [
            f"PostgreSQL is still initialising the volume {volume}. Wait until it is done, which "
            "./dev logs -f postgres tells, then run this again."
        ]
    if found["complete"] is False:
        return [_half_made(found, volume)]
    if not found["major"]:
        return [
            f"The volume {volume} holds no PostgreSQL data but something else (there is "
            f"{found['first']}), so PostgreSQL is not started on it. If it is not needed: "
            "./dev reset postgres"
        ]
    major, wanted = as_int(found["major"]), as_int(image["major"])
    if major is None:
        return [
            f"The volume {volume} has a PG_VERSION that is no version: {found['major']!r}. Put a "
            "backup back: ./dev restore latest, or start afresh: ./dev reset postgres"
        ]
    if wanted is not None and major < wanted:
        return [
            f"The volume {volume} holds the data of PostgreSQL {major}, which {reference}, of "
            f"PostgreSQL {wanted}, cannot open. Carry the data over: ./dev upgrade --to {wanted}"
        ]
    if wanted is not None and major > wanted:
        return [
            f"The volume {volume} holds the data of PostgreSQL {major}, which {reference}, of "
            f"PostgreSQL {wanted}, cannot open: no PostgreSQL reads a newer one's. Set "
            f"postgres_version back to {major}, or return to the data from before the upgrade: "
            "./dev upgrade --rollback"
        ]
    return _unsafe_sorting(found, image, asked, volume, reference)


def _half_made(found: dict[str, Any], volume: str) -> str:
    """The line for a cluster of which something is missing."""
    missing = ", ".join(found["lacking"])
    if "dev-stack.json" in found["lacking"]:  # which initialisation ends by writing
        return (
            f"The volume {volume} holds a half-made PostgreSQL cluster: its initialisation was cut "
            f"short ({missing} is missing), so it was never in use and nothing of value is in it. "
            "Start afresh: ./dev reset postgres --no-backup"
        )
    return (
        f"The volume {volume} holds an incomplete PostgreSQL cluster: {missing} is missing. Its "
        "initialisation was cut short, or files were lost. Put a backup back: ./dev restore "
        "latest, or start afresh: ./dev reset postgres --no-backup"
    )


def sorting(provider: str, locale: str, family: str) -> str:
    """What decides how texts sort: equal for two image families where the order is the same.

    Takes a collation's provider (c: the C library, i: ICU, b: PostgreSQL itself) and locale.
    """
    same = {"c.utf-8": "c.utf8", "en_us.utf-8": "en_us.utf8"}
    name = same.get(locale.lower(), locale.lower())
    if provider == "i":
        return f"ICU of {family}"
    by_code_point = name in BY_CODE_POINT or family == "alpine"
    by_code_point |= family == "packages" and name == "en_us.utf8"
    return "code points" if provider == "b" or by_code_point else f"{name} of {family}"


def _unsafe_sorting(
    found: dict[str, Any], image: dict[str, Any], asked: dict[str, Any], volume: str, reference: str
) -> list[str]:
    """The line for databases that another C library or ICU would sort differently.

    Their indexes would be out of order there, which gives wrong results and no error.
    """
    noted = found["marker"] or {}
    try:
        noted = (
            json.loads(asked.get("stdout") or "null") or noted
        )  # newer than what is on the volume
    except ValueError:
        pass
    known = "databases" in noted
    # Without a note, the user's number on the files tells Debian's from the others.
    made_with = {"registry": "alpine", "packages": "packages"}.get(found["made_with"])
    family = noted.get("family") or ("debian" if found["uid"] == 999 else made_with)
    wanted = image["family"]
    if wanted is None or family is None or family == wanted:
        return []
    if not known and family == "debian" and wanted.startswith("debian "):
        return []  # which Debian is not known; PostgreSQL itself warns of another version
    back = "packages" if family == "packages" else "registry"
    source = "packages" if wanted == "packages" else "registry"
    if back != source:
        keep = f"Keep to the images it was made with: ./dev up -- -e image_source={back}"
    else:
        keep = f"Keep to the image it was made with, of the kind {family} (registry_images)"
    if not known:
        return [
            f"The volume {volume} was made with PostgreSQL's image of the kind {family}, and "
            f"{reference} is of the kind {wanted}, which may sort texts differently; whether that "
            "would break its indexes is not noted on the volume. Run it once with the image it was "
            f"made with, which notes it: ./dev up -- -e image_source={back}"
        ]
    differing = [
        f"database {one['name']} ({one['locale']})"
        for one in noted["databases"]
        if sorting(one["provider"], one["locale"], family)
        != sorting(one["provider"], one["locale"], wanted)
    ]
    differing += [
        f"columns with the collation {one['name']} in {one['database']}"
        for one in noted.get("collations", [])
        if sorting(one["provider"], one["locale"], family)
        != sorting(one["provider"], one["locale"], wanted)
    ]
    if not differing:
        return []
    return [
        f"The volume {volume} was written by PostgreSQL's image of the kind {family}; {reference} "
        f"is of the kind {wanted} and sorts differently: {', '.join(differing)}. Indexes would be "
        f"out of order there, without an error. {keep}. Or carry the data over, which makes the "
        f"indexes anew: ./dev upgrade --to {found['major']}"
    ]


def rdb_read_by(redis: str | None) -> int | None:
    """The newest RDB version that this Redis reads, or None where that is not known."""
    parts = re.match(r"(\d+)\.(\d+)", redis or "")
    return RDB_READ_BY.get((int(parts[1]), int(parts[2]))) if parts else None


def _unsafe_redis(
    found: dict[str, Any], image: dict[str, Any], volume: str, reference: str
) -> list[str]:
    """The lines for Redis's volume."""
    if found["empty"]:
        return []
    if found["foreign"]:
        return [
            f"The volume {volume} holds no Redis data but something else (there is "
            f"{found['foreign']}), so Redis is not started on it. If it is not needed: "
            "./dev reset redis"
        ]
    aof = found["aof"]
    if aof and (aof["missing"] or not aof["readable"]):
        what = f"lists {', '.join(aof['missing'])}, which is missing"
        if not aof["readable"]:
            what = "has a manifest that cannot be read, or none"
        return [
            f"The append-only file on the volume {volume} {what}; Redis would not start. Put a "
            "backup back: ./dev restore latest, or start afresh, with what Redis holds lost: "
            "./dev reset redis"
        ]
    # With an append-only file, dump.rdb is not read.
    written = aof["base_rdb"] if aof else found["rdb"]
    reads = rdb_read_by(image["redis"])
    if written and reads and written > reads:
        return [
            f"The volume {volume} was written by a newer Redis (RDB version {written}) than "
            f"{reference} (Redis {image['redis']}, which reads up to {reads}). Use the newer one: "
            "./dev up -- -e image_source=registry, or, with what Redis holds lost, ./dev reset redis"
        ]
    return []


def _unsafe_pgadmin(
    found: dict[str, Any], image: dict[str, Any], volume: str, reference: str
) -> list[str]:
    """The lines for pgAdmin's volume."""
    if found["empty"]:
        return []
    if found["foreign"]:
        return [
            f"The volume {volume} holds nothing of pgAdmin's but something else (there is "
            f"{found['foreign']}), so pgAdmin is not started on it. If it is not needed: "
            "./dev reset pgadmin"
        ]
    if found["schema"] and image["schema"] and found["schema"] > image["schema"]:
        return [
            f"The volume {volume} holds the settings of a newer pgAdmin (schema {found['schema']}) "
            f"than {reference} (schema {image['schema']}), which would fail on them or put them "
            "aside. Use the newer one again (registry_images), or, with its settings lost: "
            "./dev reset pgadmin"
        ]
    return []


# --- reports ------------------------------------------------------------------------------------


def endpoint(service: str, address: str) -> str:
    """What a person types or clicks, from a published `address:port`."""
    host, _, port = address.rpartition(":")
    host = "localhost" if host in {"127.0.0.1", "0.0.0.0", "::1", "::"} else host
    return f"http://{host}:{port}" if service in {"agentos", "pgadmin"} else f"{host}:{port}"


def status_report(observed: dict[str, Any], stack: str, enabled: list[str]) -> dict[str, Any]:
    """The document of `status --json`, schema 1; see README."""
    services = []
    for service in SERVICES:
        found = observed["services"].get(service)
        if found is None and service not in enabled:
            continue
        found = found or {}
        published = found.get("published") or []
        services.append(
            {
                "service": service,
                "container": found.get("container"),
                "state": found.get("state", "absent"),
                "health": found.get("health"),
                "image": found.get("image"),
                "image_id": found.get("image_id"),
                "endpoint": endpoint(service, published[0]) if published else None,
                "volume": found.get("volume"),
                "since": found.get("since"),
                "drift": found.get("drift", []),
            }
        )
    by_name = {one["service"]: one for one in services}
    return {
        "schema": 1,
        "stack": stack,
        "healthy": bool(enabled) and all(is_healthy(by_name[name]) for name in enabled),
        "engine": {
            key: observed["engine"][key]
            for key in ("docker_host", "name", "version", "api_version", "operating_system")
        },
        "services": services,
    }


def is_healthy(service: dict[str, Any]) -> bool:
    """Whether it runs and its health check, if there is one, says so."""
    return service["state"] == "running" and service["health"] in {"healthy", None}


def ailing(report: dict[str, Any], enabled: list[str]) -> list[str]:
    """The enabled services that are not healthy, from a status report."""
    return [
        s["service"] for s in report["services"] if s["service"] in enabled and not is_healthy(s)
    ]


def table(rows: list[list[str]]) -> str:
    """Rows as aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def age(since: str | None, now: float) -> str:
    """How long ago an RFC 3339 time was, in its largest unit."""
    from datetime import datetime

    if not since:
        return "-"
    begun = datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", since).replace("Z", "+00:00"))
    seconds = max(0, int(now - begun.timestamp()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def status_table(report: dict[str, Any], images: bool = True) -> str:
    """`status` for people: a line per service."""
    import time

    now = time.time()
    rows = [["SERVICE", "STATE", "ENDPOINT", "UP FOR", "IMAGE"]]
    for one in report["services"]:
        state = one["state"]
        if state == "running" and one["health"]:
            state = one["health"]
        if one["drift"]:
            state += f" (differs: {', '.join(one['drift'])})"
        rows.append(
            [
                one["service"],
                state,
                one["endpoint"] or "-",
                age(one["since"], now),
                one["image"] or "-",
            ]
        )
    return table(rows if images else [row[:-1] for row in rows])


# --- programs that ./dev runs with the terminal ---------------------------------------------------

SHELLS = {
    "postgres": 'exec psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" "$@"',
    # The password stays in the container: no argument on this machine holds it.
    "redis": 'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" exec redis-cli "$@"',
}


def handover_shell(service: str, observed: dict[str, Any]) -> dict[str, Any]:
    """The command that opens a service's shell; {tty} stands for -it or -i, the caller knows."""
    container = observed["services"][service]["container"]
    docker = ["docker", "-H", observed["engine"]["docker_host"]]
    argv = [*docker, "exec", "{tty}", container, "sh", "-c", SHELLS[service], "sh"]
    return {"service": service, "argv": argv}


def handover_token(service: str, observed: dict[str, Any]) -> dict[str, Any]:
    """The command that mints a token in AgentOS; its output is the token, so it gets no terminal."""
    docker = ["docker", "-H", observed["engine"]["docker_host"]]
    program = ["python", "-m", "agentos.token"]
    return {
        "service": service,
        "argv": [*docker, "exec", observed["services"][service]["container"], *program],
    }


def handover_logs(
    service: str, observed: dict[str, Any], tail: int, timestamps: bool
) -> dict[str, Any]:
    """The command that follows a service's log."""
    container = observed["services"][service]["container"]
    argv = ["docker", "-H", observed["engine"]["docker_host"], "logs", "-f", "-n", str(tail)]
    return {"service": service, "argv": argv + (["-t"] if timestamps else []) + [container]}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {
            "selected_services": selected_services,
            "settings_problems": settings_problems,
            "environment_value": environment_value,
            "conflicts": conflicts,
            "at_work": at_work,
            "leftovers": leftovers,
            "services_with_data": services_with_data,
            "volumes_of": volumes_of,
            "postgres_major": postgres_major,
            "volume_problems": volume_problems,
            "in_the_way": in_the_way,
            "kept_before": kept_before,
            "services_in_doubt": services_in_doubt,
            "human_size": human_size,
            "healthy_services": healthy_services,
            "restore_problems": restore_problems,
            "backups_table": backups_table,
            "upgrade_problems": upgrade_problems,
            "one_offs": one_offs,
            "next_volume": next_volume,
            "other_owner": other_owner,
            "volumes_to_look_at": volumes_to_look_at,
            "unsafe_data": unsafe_data,
            "adopted_volumes": adopted_volumes,
            "adoption_conflicts": adoption_conflicts,
            "adoption_problems": adoption_problems,
            "adoption_report": adoption_report,
            "adoption_room": adoption_room,
            "adoption_table": adoption_table,
            "nameless": nameless,
            "containers_of": containers_of,
            "source_images": source_images,
            "volumes_with_data": volumes_with_data,
            "with_users_of": with_users_of,
            "secrets_of": secrets_of,
            "tree_digest": tree_digest,
            "of_major": of_major,
            "every_reference": every_reference,
            "with_images": with_images,
            "image_references": image_references,
            "mirrored": mirrored,
            "image_plan": image_plan,
            "image_work": image_work,
            "image_builds": image_builds,
            "handover_shell": handover_shell,
            "handover_logs": handover_logs,
            "handover_token": handover_token,
            "migrated_with": migrated_with,
            "is_well": is_well,
            "unchanged_services": unchanged_services,
            "remembered": remembered,
            "same_env_file": same_env_file,
            "ailing": ailing,
            "status_report": status_report,
            "status_table": status_table,
        }
