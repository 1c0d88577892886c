"""How the containers are made: what protects a laptop, and names others rely on."""

from __future__ import annotations

import json

import pytest
from stack import INSIDE, NAME, PORTS, SERVICES, Stack

CAPABILITIES = {
    "postgres": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"},
    "redis": {"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"},
    "agentos": set(),
    "pgadmin": set(),
}
VOLUMES = {
    "postgres": "/var/lib/postgresql/data",
    "redis": "/data",
    "pgadmin": "/var/lib/pgadmin",
}


def test_names(stack: Stack) -> None:
    assert stack.services() == sorted(SERVICES)
    assert stack.volumes() == [f"{NAME}_{s}_data" for s in sorted(VOLUMES)]
    assert len(stack.client.networks(names=[f"{NAME}_network"])) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_on_loopback_and_nowhere_else(host, stack: Stack, service: str) -> None:
    port = PORTS[service]
    assert host.socket(f"tcp://127.0.0.1:{port}").is_listening
    listening = [s for s in host.socket.get_listening_sockets() if s.endswith(f":{port}")]
    assert listening == [f"tcp://127.0.0.1:{port}"]
    bindings = {k: v for k, v in stack.inspect(service)["NetworkSettings"]["Ports"].items() if v}
    assert bindings == {f"{INSIDE[service]}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}


@pytest.mark.parametrize("service", SERVICES)
def test_limits_and_rights(stack: Stack, service: str) -> None:
    host = stack.inspect(service)["HostConfig"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "10m", "max-file": "3"},
    }
    assert host["CapDrop"] == ["ALL"]
    added = {c.removeprefix("CAP_") for c in host["CapAdd"] or []}
    assert added == CAPABILITIES[service]
    assert any(o.startswith("no-new-privileges") for o in host["SecurityOpt"])
    assert not host["Privileged"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_main_process_is_not_root(stack: Stack, service: str) -> None:
    """Nor those that it started; a health check, which the engine starts, may be."""
    table = stack.client.top(f"{NAME}_{service}", "-eo pid,ppid,uid,args")
    rows = sorted(tuple(map(int, row[:3])) for row in table["Processes"])
    main = stack.inspect(service)["State"]["Pid"]
    parents = {pid: parent for pid, parent, _ in rows}

    def is_own(pid: int) -> bool:
        return pid == main or (pid in parents and is_own(parents[pid]))

    users = {user for pid, _, user in rows if is_own(pid)}
    assert users and 0 not in users, table


def test_particulars(stack: Stack) -> None:
    postgres, agentos = stack.inspect("postgres"), stack.inspect("agentos")
    assert postgres["HostConfig"]["ShmSize"] == 256 * 1024**2
    assert postgres["Config"]["StopTimeout"] == 60
    assert stack.inspect("redis")["Config"]["StopTimeout"] == 60
    assert agentos["HostConfig"]["ReadonlyRootfs"]


@pytest.mark.parametrize("service", SERVICES)
def test_data_is_in_named_volumes_only(stack: Stack, service: str) -> None:
    mounts = {m["Destination"]: m for m in stack.inspect(service)["Mounts"]}
    volumes = {d: m["Name"] for d, m in mounts.items() if m["Type"] == "volume"}
    wanted = {VOLUMES[service]: f"{NAME}_{service}_data"} if service in VOLUMES else {}
    assert volumes == wanted  # an image's VOLUME that is not covered would show up anonymous
    assert not any(m["RW"] for m in mounts.values() if m["Type"] == "bind")


@pytest.mark.parametrize("service", SERVICES)
def test_labels(stack: Stack, service: str) -> None:
    labels = stack.inspect(service)["Config"]["Labels"]
    assert labels["dev-stack.stack"] == NAME
    assert labels["dev-stack.service"] == service


@pytest.mark.parametrize("service", SERVICES)
def test_services_find_each_other_by_name(stack: Stack, service: str) -> None:
    networks = stack.inspect(service)["NetworkSettings"]["Networks"]
    assert list(networks) == [f"{NAME}_network"]
    assert service in networks[f"{NAME}_network"]["Aliases"]
    address = networks[f"{NAME}_network"]["IPAddress"]
    resolved = stack.exec(
        "agentos", "python", "-c", f"import socket; print(socket.gethostbyname('{service}'))"
    )
    assert resolved.strip() == address


def test_no_secret_in_inspect_processes_or_logs(stack: Stack) -> None:
    for service in SERVICES:
        name = f"{NAME}_{service}"
        seen = json.dumps(stack.client.inspect_container(name))
        seen += json.dumps(stack.client.top(name, "-eo pid,args"))
        seen += stack.client.logs(name).decode()
        seen += json.dumps(stack.client.inspect_image(stack.inspect(service)["Image"]))
        seen += json.dumps(stack.client.history(stack.inspect(service)["Image"]))
        for secret, value in stack.secrets().items():
            assert value not in seen, f"{secret} shows in {name}"


def test_agentos_is_not_given_the_database_owner_s_password(stack: Stack) -> None:
    """Its migration is, in a container of its own that is gone by now."""
    data = stack.inspect("agentos")
    mounts = {m["Source"]: m["Destination"] for m in data["Mounts"] if m["Type"] == "bind"}
    folder = f"{stack.state}/agentos/"
    assert set(mounts.values()) == {
        "/run/secrets/database_url",
        "/run/secrets/redis_url",
        "/run/secrets/better_auth_secret",
    }
    assert all(source.startswith(folder) for source in mounts)
    assert not any("MIGRATION" in line or "API_KEY" in line for line in data["Config"]["Env"])
    inside = stack.exec("agentos", "sh", "-c", "cat /run/secrets/* /proc/1/environ")
    secrets = stack.secrets()
    for name in ("agentos_db_password", "better_auth_secret", "redis_password"):
        assert secrets[name] in inside, name
    for name in ("postgres_password", "pgadmin_password"):
        assert secrets[name] not in inside, name
    login = "import os, psycopg; url = open(os.environ['DATABASE_URL_FILE']).read().strip(); "
    login += "print(psycopg.connect(url).execute('SELECT current_user').fetchone()[0])"
    assert stack.exec("agentos", "python", "-c", login).strip() == "agentos"


def test_secrets_are_in_files_only_their_owner_can_reach(stack: Stack) -> None:
    assert stack.state.stat().st_mode & 0o777 == 0o700
    for path in stack.state.iterdir():
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    for secret in (stack.state / "secrets").iterdir():
        assert secret.stat().st_mode & 0o777 == 0o600, secret
    assert stack.env_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("service", SERVICES)
def test_logs_hold_no_errors(stack: Stack, service: str) -> None:
    log = stack.client.logs(f"{NAME}_{service}").decode().splitlines()
    assert log
    bad = [line for line in log if any(w in line for w in ("ERROR", "FATAL", "PANIC", "Traceback"))]
    # So PostgreSQL answers whoever asks whether it serves yet.
    early = "FATAL:  the database system is starting up"
    assert [line for line in bad if not line.endswith(early)] == []
