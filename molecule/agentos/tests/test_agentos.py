"""A run with the tag agentos; its database, and what happens when that goes away."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import tagged
from stack import NAME, PATIENCE, PORTS, PROJECT, Stack, eventually

URL = f"http://127.0.0.1:{PORTS['agentos']}"


def health(stack: Stack) -> str:
    """What Docker's health check of AgentOS says."""
    return str(stack.inspect("agentos")["State"]["Health"]["Status"])


def fails(stack: Stack) -> bool:
    """Whether the last probe failed; it takes several in a row to be called unhealthy."""
    return bool(stack.inspect("agentos")["State"]["Health"]["FailingStreak"])


def test_it_brings_what_it_needs_and_nothing_else(stack: Stack) -> None:
    tagged.check_only(stack, "agentos", ["agentos", "postgres", "redis"])


def test_again_nothing_changes(stack: Stack) -> None:
    with stack.migrations() as migrations:
        tagged.check_again(stack, "agentos")
    assert migrations == []


def test_what_was_done_to_it_by_hand_is_put_right(stack: Stack) -> None:
    tagged.check_repair(stack, "agentos")
    stack.client.pause(f"{NAME}_agentos")
    stack.converge("--tags", "agentos")
    assert health(stack) == "healthy"


# --- ./dev token --------------------------------------------------------------------------------


def dev_token(stack: Stack, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher as a user would; it finds the stack by its name."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "dev"), "token", *options],
        env=stack.user_environment() | {"STACK_NAME": stack.name},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_dev_token_prints_a_token_and_nothing_else(stack: Stack) -> None:
    result = dev_token(stack, "--tenant", "acme", "--sub", "alice", "--ttl", "5m")
    assert (result.returncode, result.stderr) == (0, "")
    token = result.stdout.rstrip("\n")
    assert result.stdout == f"{token}\n" and token.count(".") == 2
    answer = httpx.get(f"{URL}/workflows", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("options", [[], ["--tenant", "no tenant", "--sub", "x"]])
def test_dev_token_passes_on_what_its_program_says(stack: Stack, options: list[str]) -> None:
    result = dev_token(stack, *options)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


def test_dev_token_says_that_agentos_does_not_run(stack: Stack) -> None:
    stack.client.stop(f"{NAME}_agentos", timeout=20)
    result = dev_token(stack, "--tenant", "acme", "--sub", "alice")
    assert result.returncode != 0
    assert result.stdout == ""
    assert "AgentOS does not run. Start it: ./dev up agentos" in result.stderr
    stack.converge("--tags", "agentos")


# --- its database -------------------------------------------------------------------------------


def test_a_schema_that_was_dropped_comes_back(stack: Stack) -> None:
    before = stack.started()
    stack.sql("DROP SCHEMA agentos CASCADE")
    eventually(lambda: httpx.get(f"{URL}/ready").status_code == 503)
    eventually(lambda: fails(stack))
    output = stack.converge("--tags", "agentos")
    assert "AgentOS: The schema agentos was brought from nothing to" in output
    eventually(lambda: httpx.get(f"{URL}/ready").status_code == 200)
    assert stack.started() == before


def test_a_password_that_was_changed_by_hand_is_set_back(stack: Stack) -> None:
    before = stack.started()
    stack.sql("ALTER ROLE agentos PASSWORD 'another'")
    stack.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'agentos'")
    eventually(lambda: fails(stack))
    output = stack.converge("--tags", "agentos")
    assert "AgentOS: The password of the role agentos was set." in output
    assert stack.started() == before
    assert "changed=0" in stack.converge("--tags", "agentos")


def test_a_run_starts_the_server_that_a_migration_needs(stack: Stack) -> None:
    stack.client.stop(f"{NAME}_postgres", timeout=60)
    with stack.migrations() as migrations:
        stack.converge("--tags", "agentos")
    assert migrations.count("start") == 1
    assert stack.inspect("postgres")["State"]["Health"]["Status"] == "healthy"


def test_check_mode_tells_of_a_migration_and_runs_none(stack: Stack) -> None:
    stack.client.stop(f"{NAME}_agentos", timeout=20)
    with stack.migrations() as migrations:
        output = stack.converge("--tags", "agentos", "--check", "--diff")
    assert "would change: Bring AgentOS's database up to date" in output
    assert migrations == []
    assert stack.inspect("agentos")["State"]["Running"] is False
    stack.converge("--tags", "agentos")


def leave_a_migration(stack: Stack) -> str:
    """What a run that was killed leaves: the container of a migration. Gives its id."""
    made = stack.client.create_container(
        stack.inspect("agentos")["Config"]["Image"],
        command=["sleep", "600"],
        name=f"{NAME}_agentos_migrate",
        labels={"dev-stack.stack": NAME, "dev-stack.service": "agentos"},
        networking_config=stack.client.create_networking_config(
            {f"{NAME}_network": stack.client.create_endpoint_config()}
        ),
    )
    stack.client.start(made)
    return str(made["Id"])


def test_what_an_interrupted_migration_left_is_removed(stack: Stack) -> None:
    left = leave_a_migration(stack)
    status = stack.status()
    assert [s["container"] for s in status["services"] if s["service"] == "agentos"] == [
        f"{NAME}_agentos"
    ]
    before = stack.started()
    assert "changed=0" in stack.converge("--tags", "agentos")
    assert stack.started() == before
    assert stack.services() == ["agentos", "postgres", "redis"]
    assert left not in [c["Id"] for c in stack.client.containers(all=True)]


def test_a_migration_that_fails_leaves_the_service_as_it_is(stack: Stack) -> None:
    stack.sql("ALTER SCHEMA agentos RENAME TO aside")
    stack.sql("CREATE SCHEMA agentos CREATE TABLE foreign_table (id int)")
    eventually(lambda: fails(stack))
    before = stack.inspect("agentos")
    try:
        result = stack.play("dev", "--tags", "agentos", "-e", "agentos_memory=600m")
        assert result.returncode != 0
        # But for what a task says that takes its time.
        lines = [s for s in result.stderr.splitlines() if not re.match(r"  .* … \d+ s", s)]
        assert lines[0].startswith("Error: AgentOS's database could not be brought up to date")
        assert lines[1].startswith("  agentos migrate: ")
        assert "./dev up" in lines[-1]
        after = stack.inspect("agentos")
        assert (after["Id"], after["State"]["StartedAt"]) == (
            before["Id"],
            before["State"]["StartedAt"],
        )
        assert stack.services() == ["agentos", "postgres", "redis"]
    finally:
        stack.sql("DROP SCHEMA agentos CASCADE")
        stack.sql("ALTER SCHEMA aside RENAME TO agentos")
    stack.converge("--tags", "agentos")
    assert health(stack) == "healthy"


def test_a_frozen_server_is_told_at_once_and_forgotten_when_it_goes_on(stack: Stack) -> None:
    with stack.agentos() as client:

        def serves() -> bool:
            return client.get("/sessions", params={"type": "workflow"}).status_code == 200

        eventually(serves)
        before = stack.inspect("agentos")["State"]["StartedAt"]
        stack.client.pause(f"{NAME}_postgres")
        try:
            for ask in (
                lambda: client.get("/sessions", params={"type": "workflow"}),
                lambda: client.post(
                    "/workflows/stack-check/runs", data={"message": "x", "stream": "false"}
                ),
            ):
                delays = []
                with ThreadPoolExecutor() as pool:
                    asked = pool.submit(ask)
                    while not asked.done():
                        delays.append(client.get("/health").elapsed.total_seconds())
                        time.sleep(0.05)
                answer = asked.result()
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) > 0
                # A busy machine delays what waits for no server as well; but something is answered.
                seconds = answer.elapsed.total_seconds()
                assert seconds < 2 or (seconds < 2 + 3 * max(delays) and len(delays) > 3), delays
            assert client.get("/health").status_code == 200
        finally:
            stack.client.unpause(f"{NAME}_postgres")
        eventually(serves)
        assert stack.inspect("agentos")["State"]["StartedAt"] == before


# --- this machine -------------------------------------------------------------------------------


def test_a_server_on_this_machine_can_be_reached(stack: Stack) -> None:
    """A model server, for example."""
    assert stack.inspect("agentos")["HostConfig"]["ExtraHosts"] == [
        "host.docker.internal:host-gateway"
    ]
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(PATIENCE)

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"reached")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        ask = f"import socket; s = socket.create_connection(('host.docker.internal', {port}), 60); "
        assert (
            stack.exec("agentos", "python", "-c", ask + "print(s.recv(9))").strip() == "b'reached'"
        )
        thread.join(5)


def test_settings_reach_it(stack: Stack) -> None:
    """Those that are empty are not set at all."""
    env = json.dumps(stack.inspect("agentos")["Config"]["Env"])
    assert "AUTH_ISSUER=hyvve" in env and "AUTH_AUDIENCE=agentos" in env
    assert "AGENTOS_MODEL" not in env and "AUTH_JWKS_URL" not in env
    given = {"AUTH_ISSUER": "https://app.example.com", "AUTH_AUDIENCE": "apps"}
    stack.converge("--tags", "agentos", environment=given)
    with stack.agentos() as client:  # its own tokens follow
        assert client.get("/workflows").status_code == 200
    stack.converge("--tags", "agentos")


def test_down_takes_it_alone(stack: Stack) -> None:
    leave_a_migration(stack)
    tagged.check_down(stack, "agentos", ["postgres", "redis"])


def test_down_takes_what_an_interrupted_migration_left_without_a_service(stack: Stack) -> None:
    made = stack.client.create_container(
        stack.client.images(filters={"label": "dev-stack.image=agentos"})[0]["Id"],
        name=f"{NAME}_agentos_migrate",
        labels={"dev-stack.stack": NAME, "dev-stack.service": "agentos"},
    )
    result = stack.play("down")
    assert result.returncode == 0, result.stderr
    assert "Stopped:" in result.stdout and "agentos" in result.stdout
    assert made["Id"] not in [c["Id"] for c in stack.client.containers(all=True)]
    assert stack.client.networks(names=[f"{NAME}_network"]) == []
