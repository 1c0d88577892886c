"""Each bad input: one clear line, nothing made."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from stack import BESIDE, NAME, PORTS, Stack, find_engine


@pytest.fixture(autouse=True)
def nothing_made(stack: Stack):
    """Whatever the test asked for, the engine and the state folder are as before."""
    yield
    assert stack.services() == []
    assert stack.volumes() == []
    assert stack.client.networks(names=[f"{NAME}_network"]) == []
    assert not stack.env_file.exists()


def refused(stack: Stack, *options: str, environment: dict[str, str] | None = None) -> str:
    """The one line with which a run is refused."""
    result = stack.play("dev", *options, environment=environment)
    assert result.returncode != 0
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


# Each is told in a line of its own, so one run is enough for them; ports decide on one another.
SETTINGS = {
    "postgres_port=0": ["postgres_port", "1 to 65535"],
    "redis_port=70000": ["redis_port", "1 to 65535"],
    "agentos_port=http": ["agentos_port", "1 to 65535"],
    "stack_name=My.Stack": ["stack_name", "small letters"],
    "bind_address=nowhere": ["bind_address", "IPv4 address"],
    "network_subnet=10.0.0.300/24": ["network_subnet", "10.210.0.0/24"],
    "image_source=dockerhub": ["image_source", "auto or registry or packages"],
    "image_registry=https://mirror.example": ["image_registry", "no https://"],
    "postgres_db=no;drop": ["POSTGRES_DB"],
    "pgadmin_email=nobody": ["PGADMIN_DEFAULT_EMAIL", "e-mail"],
    "pgadmin_enabled=maybe": ["pgadmin_enabled", "true or false"],
    "redis_memory=lots": ["redis_memory", "512m"],
    "agentos_model_url=ftp://models": ["agentos_model_url", "http or https"],
    "auth_jwks_url=http://localhost:3000/jwks": ["http://host.docker.internal:3000/jwks"],
    "auth_audience=": ["auth_audience", "name or URL"],
}
PORT_SETTINGS = {
    "port_offset=60000": ["port_offset 60000", "1 to 65535"],
    "port_offset=much": ["port_offset", "whole number"],
    "redis_port=5432": ["redis_port", "postgres_port", "its own"],
}


def told(stack: Stack, *settings: str) -> list[str]:
    """The lines with which a run with such settings is refused."""
    result = stack.play("dev", *(word for setting in settings for word in ("-e", setting)))
    assert result.returncode != 0
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stdout + result.stderr
    return result.stderr.splitlines()


@pytest.fixture(scope="module")
def told_together(stack: Stack) -> list[str]:
    return told(stack, *SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(told_together: list[str], setting: str) -> None:
    words = SETTINGS[setting]
    assert [line for line in told_together if all(word in line for word in words)], told_together


@pytest.mark.parametrize("setting", PORT_SETTINGS)
def test_port_settings(stack: Stack, setting: str) -> None:
    lines, words = told(stack, setting), PORT_SETTINGS[setting]
    assert [line for line in lines if all(word in line for word in words)], lines


def test_a_port_is_refused_in_one_line(stack: Stack) -> None:
    assert "redis_port" in refused(stack, "-e", "redis_port=70000")


def test_unknown_service(stack: Stack) -> None:
    line = refused(stack, "--tags", "redsi")
    assert "'redsi'" in line
    assert "did you mean redis" in line


def test_disabled_pgadmin_that_is_named(stack: Stack) -> None:
    assert "pgadmin_enabled=true" in refused(
        stack, "--tags", "pgadmin", "-e", "pgadmin_enabled=false"
    )


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("POSTGRES_PASSWORD", "", "empty"),
        ("REDIS_PASSWORD", "", "empty"),
        ("BETTER_AUTH_SECRET", "short", "needs 32 or more"),
        ("PGADMIN_DEFAULT_PASSWORD", "two\nlines", "control character"),
        ("AGENTOS_DB_PASSWORD", "", "empty"),
        ("OPENAI_API_KEY", "two\nlines", "control character"),
    ],
)
def test_secrets(stack: Stack, variable: str, value: str, word: str) -> None:
    line = refused(stack, environment={variable: value})
    assert variable in line
    assert word in line
    assert value not in line or not value


def test_a_port_that_a_process_holds(stack: Stack) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", PORTS["redis"]))
        holder.listen()
        line = refused(stack, "--tags", "redis")
        assert str(PORTS["redis"]) in line
        assert str(os.getpid()) in line
        # A port that this run does not need is nobody's business.
        stack.converge("--tags", "network")
        assert stack.play("down").returncode == 0
        stack.env_file.unlink()


def test_a_port_and_names_that_a_container_holds(stack: Stack) -> None:
    """As docker compose would have left them."""
    stack.converge("--tags", "redis")  # for its image, wherever that comes from
    image = stack.inspect("redis")["Config"]["Image"]
    assert stack.play("down").returncode == 0
    for volume in stack.volumes():
        stack.client.remove_volume(volume)
    stack.env_file.unlink()
    labels = BESIDE | {"com.docker.compose.project": "old"}
    container = stack.client.create_container(
        image,
        name=f"{NAME}_redis",
        labels=labels,
        ports=[6379],
        host_config=stack.client.create_host_config(
            port_bindings={6379: ("127.0.0.1", PORTS["redis"])}
        ),
    )
    try:
        stack.client.start(container)
        result = stack.play("dev", "--tags", "redis")
        assert result.returncode != 0
        assert f"There is a container named {NAME}_redis already" in result.stderr
        assert "docker compose project old" in result.stderr
        assert (
            f"Port {PORTS['redis']} for redis is taken by the container {NAME}_redis"
            in result.stderr
        )
        down = stack.play("down")
        assert down.returncode == 0
        assert stack.client.inspect_container(container)["State"]["Running"]
    finally:
        stack.client.remove_container(container, force=True, v=True)


def test_a_registry_that_does_not_answer(stack: Stack) -> None:
    options = ["-e", "image_source=registry", "-e", "image_registry=127.0.0.1:1"]
    result = stack.play("dev", "--tags", "redis", *options)
    assert result.returncode != 0
    assert "127.0.0.1:1/library/redis:7-alpine cannot be had" in result.stderr
    assert "image_source=packages" in result.stderr


def test_an_engine_that_does_not_answer(stack: Stack) -> None:
    line = refused(stack, environment={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    assert "unset DOCKER_HOST" in line
    assert "127.0.0.1:1" in line
    assert "DOCKER_HOST" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_a_user_without_rights_to_the_engine() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, json.dumps(find_engine()[2]).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        problem = json.loads(pipe.read() or "{}")
    assert problem.get("kind") == "denied"


def test_a_state_folder_that_cannot_be_used(stack: Stack, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    line = refused(stack, "-e", f"state_dir={blocked}/state")
    assert "state_dir" in line


def test_a_setting_that_agentos_itself_refuses(stack: Stack) -> None:
    """What the playbooks do not check: AgentOS says it, and the wait repeats that, once."""
    options = ["--tags", "agentos", "-e", json.dumps({"allowed_hosts": ["no host"]})]
    try:
        result = stack.play("dev", *options)
        assert result.returncode != 0
        assert f"{NAME}_agentos does not serve: it keeps exiting with status 78" in result.stderr
        assert result.stderr.count("AGENTOS_ALLOWED_HOSTS has 'no host'; expected") == 1
        assert "./dev up" in result.stderr
        assert "Traceback" not in result.stdout + result.stderr
    finally:
        assert stack.play("down").returncode == 0
        for volume in stack.volumes():
            stack.client.remove_volume(volume)
