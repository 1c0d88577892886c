"""The contract of the official redis:7 images."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
from conftest import HARDENED, Box, wait_until

IMAGE = "redis"
PASSWORD = "trial-password"
AUTH = {"REDISCLI_AUTH": PASSWORD}
CONFIGURATION = f"requirepass {PASSWORD}\nappendonly yes\nmaxmemory 32mb\n"


def answers(box: Box, env: dict[str, str] | None = None) -> Box:
    wait_until(
        lambda: box.running() and box.run("redis-cli", "-e", "ping", env=env)[1] == "PONG",
        what="PONG",
    )
    return box


def value(box: Box, name: str, env: dict[str, str] | None = None) -> str:
    return box.ok("redis-cli", "-e", "config", "get", name, env=env).split("\n", 1)[1].strip()


@pytest.fixture(scope="module")
def plain(module_box, image) -> Box:
    return answers(module_box(image, ports={"6379/tcp": ("127.0.0.1", None)}))


@pytest.fixture(scope="module")
def hardened(module_box, module_volume, image) -> Box:
    """As a service runs it: a configuration file, few capabilities, a read-only root."""
    files = {"/data/redis.conf": (CONFIGURATION, 0o644, 0)}
    return answers(
        module_box(
            image,
            ["redis-server", "/data/redis.conf"],
            files=files,
            volumes={module_volume(): {"bind": "/data", "mode": "rw"}},
            read_only=True,
            **HARDENED,
        ),
        AUTH,
    )


def test_image_configuration(image) -> None:
    config = image.attrs["Config"]
    assert config["Cmd"] == ["redis-server"]
    assert config["WorkingDir"] == "/data"
    assert "/data" in config["Volumes"]
    assert "6379/tcp" in config["ExposedPorts"]
    assert not config.get("User")


def test_version_and_programs(plain: Box) -> None:
    assert "redis_version:7." in plain.ok("redis-cli", "info", "server")
    for program in (
        "redis-server",
        "redis-cli",
        "redis-benchmark",
        "redis-check-aof",
        "redis-check-rdb",
        "redis-sentinel",
    ):
        plain.ok("which", program)


def test_user_and_group(plain: Box) -> None:
    assert plain.ok("sh", "-c", "id -u redis; id -g redis").split() == ["999", "1000"]
    assert plain.ok("stat", "-c", "%u:%g", "/proc/1", "/data").split() == ["999:1000", "999:1000"]


def test_published_port_answers_without_protected_mode(plain: Box) -> None:
    assert value(plain, "protected-mode") == "no"
    with socket.create_connection(("127.0.0.1", plain.port(6379)), 60) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"+PONG")


def test_defaults(plain: Box) -> None:
    assert value(plain, "save") == "3600 1 300 100 60 10000"
    assert value(plain, "appendonly") == "no"
    assert value(plain, "dir") == "/data"


def test_files_are_the_owner_s_only(plain: Box) -> None:
    plain.ok("redis-cli", "-e", "set", "key", "value")
    plain.ok("redis-cli", "-e", "save")
    assert plain.ok("stat", "-c", "%a %U", "/data/dump.rdb") == "600 redis"


def test_configuration_file_with_few_rights(hardened: Box) -> None:
    assert value(hardened, "maxmemory", AUTH) == str(32 * 1024 * 1024)
    assert "NOAUTH" in hardened.run("redis-cli", "ping")[1]
    status = hardened.ok("cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "Groups:\t1000" in status
    assert PASSWORD not in hardened.ok("cat", "/proc/1/cmdline")


def test_data_outlives_the_container(hardened: Box) -> None:
    hardened.ok("redis-cli", "-e", "set", "kept", "yes", env=AUTH)
    hardened.container.restart(timeout=60)
    answers(hardened, AUTH)
    assert hardened.ok("redis-cli", "-e", "get", "kept", env=AUTH) == "yes"


def test_leading_option_and_configuration_file_mean_the_server(
    box: Callable[..., Box], image
) -> None:
    first = box(image, ["--maxclients", "77"])
    second = box(
        image, ["/etc/trial.conf"], files={"/etc/trial.conf": ("maxclients 78\n", 0o644, 0)}
    )
    assert value(answers(first), "maxclients") == "77"
    assert value(answers(second), "maxclients") == "78"


def test_protected_mode_can_be_asked_for(box: Callable[..., Box], image) -> None:
    first = box(image, ["--protected-mode", "yes"])
    second = box(
        image, ["/etc/trial.conf"], files={"/etc/trial.conf": ("Protected-Mode yes\n", 0o644, 0)}
    )
    assert value(answers(first), "protected-mode") == "yes"
    assert value(answers(second), "protected-mode") == "yes"


def test_another_user_s_volume_is_taken_over(
    box: Callable[..., Box], volume: Callable[[], str], image
) -> None:
    name = volume()
    mounts = {name: {"bind": "/data", "mode": "rw"}}
    maker = box(image, ["sh", "-c", "touch /data/old && chown -R 70:70 /data"], volumes=mounts)
    assert maker.exit()[0] == 0
    server = answers(box(image, volumes=mounts, **HARDENED))
    assert server.ok("stat", "-c", "%u:%g", "/data", "/data/old").split() == ["999:1000"] * 2


def test_other_commands_run_as_they_are(box: Callable[..., Box], image) -> None:
    assert "v=7." in box(image, ["redis-server", "--version"]).exit()[1]
    assert "7." in box(image, ["redis-cli", "--version"]).exit()[1]
    assert box(image, ["sh", "-c", "id -u"]).exit()[1].strip() == "0"


def test_runs_as_any_user(box: Callable[..., Box], image) -> None:
    server = answers(box(image, user="4321:4321", tmpfs={"/data": "uid=4321"}, cap_drop=["ALL"]))
    assert server.ok("stat", "-c", "%u", "/proc/1") == "4321"


def test_stops_in_time(box: Callable[..., Box], image) -> None:
    server = answers(box(image, ["--appendonly", "yes"]))
    start = time.monotonic()
    server.container.stop(timeout=10)  # what Docker gives it
    assert time.monotonic() - start < 10
    assert server.state()["ExitCode"] == 0
