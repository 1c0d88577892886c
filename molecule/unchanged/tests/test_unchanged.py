"""Runs that leave out what is as the last one found it: whatever differs must still be put right."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import faults
import pytest
from dev_stack import process_name
from stack import NAME, PATIENCE, PROJECT, SERVICES, Stack, eventually

NETWORK = f"{NAME}_network"


def entered(stack: Stack, *options: str, **how: Any) -> set[str]:
    """Bring the stack up by a plain run; which roles it entered, but for the engine's."""
    output = stack.converge("-v", *options, **how)
    return set(re.findall(r"^TASK \[(\w+) : ", output, re.MULTILINE)) - {"engine"}


def fails_now_and_then(stack: Stack, service: str) -> bool:
    """Whether a health probe failed after one that succeeded, of the last few since the start."""
    state = stack.inspect(service)["State"]
    started = datetime.fromisoformat(state["StartedAt"])
    probes = [p for p in state["Health"]["Log"] if datetime.fromisoformat(p["Start"]) > started]
    return (True, False) in pairwise(p["ExitCode"] == 0 for p in probes)


def assert_enters(stack: Stack, roles: set[str], *options: str, **how: Any) -> None:
    """Fail the test unless a plain run enters these roles and no other.

    On a busy machine a health probe may take too long. A service whose last one has is looked into.
    """
    found = entered(stack, *options, **how)
    excused = {s for s in stack.services() if s not in roles and fails_now_and_then(stack, s)}
    if roles & {"postgres", "redis"}:
        excused -= {"agentos"}  # which fails for want of them
    elif "postgres" in excused:
        excused |= {"agentos"}
    assert roles <= found <= roles | excused | ({"images"} if excused else set()), found


def memory(stack: Stack, service: str) -> int:
    """A container's memory limit in bytes."""
    return int(stack.inspect(service)["HostConfig"]["Memory"])


@pytest.fixture
def settled(stack: Stack) -> dict[str, str]:
    """The stack, with nothing to do after whatever was before; when each container was started."""
    if entered(stack):
        assert_enters(stack, set())
    return stack.started()


def test_what_is_as_it_was_is_left_out(stack: Stack, settled: dict[str, str]) -> None:
    assert "changed=0" in stack.converge()
    assert_enters(stack, set(), "--tags", "redis")
    assert stack.started() == settled


@pytest.mark.parametrize("options", [["-e", "compare_all=true"], ["--check", "--diff"]])
def test_all_are_compared_when_asked_to(
    stack: Stack, settled: dict[str, str], options: list[str]
) -> None:
    assert set(SERVICES) < entered(stack, *options)
    assert "changed=0" in stack.converge(*options)
    assert stack.started() == settled


def stop(stack: Stack, service: str) -> None:
    stack.client.stop(f"{NAME}_{service}", timeout=20)


def kill(stack: Stack, service: str) -> None:
    stack.client.kill(f"{NAME}_{service}")


def pause(stack: Stack, service: str) -> None:
    stack.client.pause(f"{NAME}_{service}")


def remove(stack: Stack, service: str) -> None:
    stack.client.remove_container(f"{NAME}_{service}", force=True)


def leave_the_network(stack: Stack, service: str) -> None:
    stack.client.disconnect_container_from_network(f"{NAME}_{service}", NETWORK)


def lose_its_alias(stack: Stack, service: str) -> None:
    leave_the_network(stack, service)
    stack.client.connect_container_to_network(f"{NAME}_{service}", NETWORK)


def join_another_network(stack: Stack, service: str) -> None:
    stack.client.connect_container_to_network(f"{NAME}_{service}", "bridge")


def change_its_limits(stack: Stack, service: str) -> None:
    stack.client.update_container(f"{NAME}_{service}", mem_limit="300m", memswap_limit="600m")


def change_its_restart_policy(stack: Stack, service: str) -> None:
    stack.client.update_container(f"{NAME}_{service}", restart_policy={"Name": "no"})


def change_a_mounted_file(stack: Stack, service: str) -> None:
    (path, *_) = (p for p in (stack.state / service).rglob("[!.]*") if p.is_file())
    path.chmod(0o644)
    path.write_text("changed by hand")


def remove_its_files(stack: Stack, service: str) -> None:
    shutil.rmtree(stack.state / service)


Deed = Callable[[Stack, str], None]
# Each noticed by itself: a Redis that is away makes AgentOS ill, and pgAdmin nobody.
ROUNDS: list[dict[str, Deed]] = [
    {"redis": stop, "pgadmin": change_a_mounted_file},
    {"redis": kill, "pgadmin": stop},
    {"redis": pause, "pgadmin": leave_the_network},
    {"redis": remove, "pgadmin": pause},
    {"redis": leave_the_network, "pgadmin": change_its_restart_policy},
    {"redis": lose_its_alias, "pgadmin": join_another_network},
    {"redis": change_its_limits, "pgadmin": remove_its_files},
    {"postgres": kill},
    {"agentos": change_a_mounted_file},
]


@pytest.mark.parametrize("deeds", ROUNDS)
def test_what_was_done_by_hand_is_put_right(
    stack: Stack, settled: dict[str, str], deeds: dict[str, Deed]
) -> None:
    before = {service: stack.inspect(service) for service in deeds}
    for service, deed in deeds.items():
        deed(stack, service)
    # AgentOS fails while what it needs is away, and its schema is proved with its PostgreSQL alone.
    roles = entered(stack)
    assert {*deeds} <= roles <= {*deeds, "images", "agentos"}, roles
    for service in deeds:
        after = stack.inspect(service)
        assert after["State"]["Health"]["Status"] == "healthy"
        for part in ("Memory", "RestartPolicy", "PidsLimit"):
            assert after["HostConfig"][part] == before[service]["HostConfig"][part]
        networks = after["NetworkSettings"]["Networks"]
        assert set(networks) == {NETWORK}
        assert service in networks[NETWORK]["Aliases"]
    assert stack.status()["healthy"]


def test_a_network_that_is_gone_is_made_again(stack: Stack, settled: dict[str, str]) -> None:
    for service in SERVICES:
        leave_the_network(stack, service)
    stack.client.remove_network(NETWORK)
    assert {"network", *SERVICES} <= entered(stack)
    assert stack.status()["healthy"]


@pytest.mark.parametrize(
    ("password", "is_restarted"),
    # The second soon after the first, as what ends soon is taken for one that keeps exiting.
    [("unknown", True), ("unknown too", True), ("", False)],
)
def test_a_redis_with_another_password_is_looked_into(
    stack: Stack, settled: dict[str, str], password: str, is_restarted: bool
) -> None:
    log_in = f"REDISCLI_AUTH={stack.secrets()['redis_password']} redis-cli"
    stack.exec("redis", "sh", "-c", f"{log_in} CONFIG SET requirepass '{password}'")
    eventually(lambda: stack.inspect("redis")["State"]["Health"]["FailingStreak"])
    assert "redis" in entered(stack)
    assert stack.exec("redis", "sh", "-c", f"{log_in} -e PING 2>&1") == "PONG\n"
    assert (stack.started()["redis"] != settled["redis"]) is is_restarted
    assert stack.inspect("redis")["RestartCount"] == 0


def test_a_redis_that_is_full_is_told_and_left_as_it_is(
    stack: Stack, settled: dict[str, str]
) -> None:
    log_in = f"REDISCLI_AUTH={stack.secrets()['redis_password']} redis-cli"
    occupy = stack.client.exec_create(
        f"{NAME}_redis", ["sh", "-c", f"{log_in} BLPOP occupied 600"], stderr=True
    )
    stack.client.exec_start(occupy["Id"], detach=True)
    eventually(lambda: "cmd=blpop" in stack.exec("redis", "sh", "-c", f"{log_in} CLIENT LIST"))
    stack.exec("redis", "sh", "-c", f"{log_in} CONFIG SET maxclients 1")
    try:
        eventually(lambda: stack.inspect("redis")["State"]["Health"]["FailingStreak"])
        result = stack.play("dev", "--tags", "redis")
        assert result.returncode != 0
        assert "max number of clients reached" in result.stdout + result.stderr
        assert stack.started()["redis"] == settled["redis"]
    finally:
        stack.client.restart(f"{NAME}_redis", timeout=20)


def test_agentos_is_waited_for_however_long_redis_takes(
    stack: Stack, settled: dict[str, str]
) -> None:
    """It is left out, and says that it is not well, for want of Redis."""

    def failures() -> int:
        return int(stack.inspect("agentos")["State"]["Health"]["FailingStreak"])

    stop(stack, "redis")
    eventually(lambda: stack.inspect("agentos")["State"]["Health"]["Status"] == "unhealthy")
    run = faults.begin(stack, "dev")
    faults.wait_for(run, lambda: bool(stack.inspect("redis")["State"]["Running"]))
    stack.client.kill(f"{NAME}_redis", "SIGSTOP")
    try:
        before = failures()
        faults.wait_for(run, lambda: failures() >= before + 3)
    finally:
        stack.client.kill(f"{NAME}_redis", "SIGCONT")
    output = run.communicate(timeout=3 * PATIENCE)[0]
    assert run.returncode == 0, output
    assert stack.started()["agentos"] == settled["agentos"]


def test_a_setting_reaches_its_service_and_no_other(stack: Stack, settled: dict[str, str]) -> None:
    before = memory(stack, "redis")
    assert_enters(stack, {"images", "redis"}, "-e", "redis_memory=300m")
    assert memory(stack, "redis") == 300 * 1024**2
    others = {s: t for s, t in stack.started().items() if s != "redis"}
    assert others.items() <= settled.items()
    assert_enters(stack, {"images", "redis"})
    assert memory(stack, "redis") == before


def test_a_role_s_own_default_can_be_set_too(stack: Stack, settled: dict[str, str]) -> None:
    assert_enters(stack, {"images", "pgadmin"}, "-e", "pgadmin_pids_limit=400")
    assert stack.inspect("pgadmin")["HostConfig"]["PidsLimit"] == 400


def test_a_setting_from_the_environment_is_applied(stack: Stack, settled: dict[str, str]) -> None:
    issuer = {"AUTH_ISSUER": "somebody"}
    assert_enters(stack, {"images", "agentos"}, environment=issuer)
    assert "AUTH_ISSUER=somebody" in stack.inspect("agentos")["Config"]["Env"]


def test_a_changed_secret_is_applied(stack: Stack, settled: dict[str, str]) -> None:
    old = stack.secrets()["redis_password"]
    stack.converge(environment={"REDIS_PASSWORD": "set-in-a-test"})
    assert "set-in-a-test" in stack.env()["REDIS_URL"]
    script = "REDISCLI_AUTH=set-in-a-test redis-cli -e PING"
    assert stack.exec("redis", "sh", "-c", script) == "PONG\n"
    stack.converge(environment={"REDIS_PASSWORD": old})


def test_a_secret_that_is_lost_is_made_again(stack: Stack, settled: dict[str, str]) -> None:
    (stack.state / "secrets" / "pgadmin_password").unlink()
    assert "pgadmin" in entered(stack)


def test_what_a_role_s_files_say_is_applied(
    stack: Stack, settled: dict[str, str], tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(PROJECT, checkout, ignore=ignored, symlinks=True)
    definition = checkout / "roles/redis/vars/main.yml"
    text = definition.read_text()
    assert "appendfsync everysec" in text
    definition.write_text(text.replace("appendfsync everysec", "appendfsync always"))
    assert "redis" in entered(stack, checkout=checkout)
    assert "appendfsync always" in (stack.state / "redis/mounted/redis.conf").read_text()
    assert "redis" in entered(stack)
    assert "appendfsync everysec" in (stack.state / "redis/mounted/redis.conf").read_text()


def touch_nothing(path: Path) -> None:
    pass


def say_something_else(path: Path) -> None:
    path.write_text(path.read_text() + "# mine\nDATABASE_URL=elsewhere\n")


def let_others_read(path: Path) -> None:
    path.chmod(0o644)


@pytest.mark.parametrize(
    ("deed", "changed"),
    [(touch_nothing, 0), (Path.unlink, 1), (say_something_else, 1), (let_others_read, 1)],
)
def test_connection_strings_are_written_though_no_role_is_entered(
    stack: Stack, settled: dict[str, str], deed: Callable[[Path], None], changed: int
) -> None:
    before = stack.env()
    deed(stack.env_file)
    mine = "# mine" in (stack.env_file.read_text() if stack.env_file.exists() else "")
    output = stack.converge("-v")
    assert f"changed={changed}" in re.sub(" +", " ", output)
    # Where nothing differs, nothing is guarded, written or looked at twice.
    assert ("Write the connection strings" in output) is bool(changed)
    assert stack.env() == before
    assert ("# mine" in stack.env_file.read_text()) is mine
    assert stack.env_file.stat().st_mode & 0o777 == 0o600
    assert stack.started() == settled


def test_a_secret_that_is_given_as_it_is_changes_nothing(
    stack: Stack, settled: dict[str, str]
) -> None:
    kept = {"REDIS_PASSWORD": stack.secrets()["redis_password"], "OPENAI_API_KEY": ""}
    assert_enters(stack, set(), environment=kept)
    assert stack.started() == settled


def test_what_could_not_work_is_told_though_all_is_as_it_was(
    stack: Stack, settled: dict[str, str]
) -> None:
    empty = stack.play("dev", environment={"REDIS_PASSWORD": ""})
    assert empty.returncode == 2 and "REDIS_PASSWORD is set but empty" in empty.stderr
    (stack.state / "volumes.json").write_text("{")
    try:
        unknown = stack.play("dev")
    finally:
        (stack.state / "volumes.json").unlink()
    assert unknown.returncode == 2 and "cannot be read" in unknown.stderr
    (stack.state / "run").write_text(process_name())  # this one, which is at work
    try:
        busy = stack.play("dev")
    finally:
        (stack.state / "run").unlink()
    assert busy.returncode == 2 and f"Another run (process {os.getpid()})" in busy.stderr
    assert stack.started() == settled


@pytest.mark.parametrize("content", [None, "", "[]", '{"redis": 1}', "{"])
def test_what_is_remembered_may_be_lost(
    stack: Stack, settled: dict[str, str], content: str | None
) -> None:
    path = stack.state / "remembered.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert set(SERVICES) < entered(stack)
    assert stack.started() == settled


def test_what_is_remembered_holds_no_secret(stack: Stack, settled: dict[str, str]) -> None:
    text = (stack.state / "remembered.json").read_text()
    assert set(json.loads(text)) == {*SERVICES, "network", "env_file"}
    assert not [name for name, secret in stack.secrets().items() if secret in text]


def test_pgadmin_goes_when_it_is_disabled(stack: Stack, settled: dict[str, str]) -> None:
    stack.converge("-e", "pgadmin_enabled=false")
    assert "pgadmin" not in stack.services()
    assert_enters(stack, set(), "-e", "pgadmin_enabled=false")


def test_after_all_that_a_whole_comparison_finds_nothing(
    stack: Stack, settled: dict[str, str]
) -> None:
    assert "changed=0" in stack.converge("-e", "compare_all=true")
    assert stack.started() == settled
