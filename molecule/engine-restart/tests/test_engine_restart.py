"""The engine restarts, properly and by being killed; services and data come back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import faults
import psycopg
import pytest
import redis
from stack import PATIENCE, SERVICES, Stack, eventually

PID_FILE = Path("/var/run/docker.pid")

pytestmark = pytest.mark.skipif(
    not PID_FILE.exists() or os.geteuid() != 0 or Path("/run/systemd/system").exists(),
    reason="only an engine that this project started without systemd is stopped here",
)


def engine_pid() -> int:
    pid = int(PID_FILE.read_text())
    assert Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd"
    return pid


def end_engine(sign: int) -> None:
    pid = engine_pid()
    os.kill(pid, sign)
    limit = time.monotonic() + PATIENCE
    with suppress(FileNotFoundError, ProcessLookupError):
        while " Z " not in Path(f"/proc/{pid}/stat").read_text():
            assert time.monotonic() < limit, "the engine did not end"
            time.sleep(0.2)


def write(stack: Stack, value: str) -> None:
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (text text)")
        connection.execute("TRUNCATE kept")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client:
        client.set("kept", value)
    time.sleep(1.5)  # Redis writes its append-only file once a second


def read(stack: Stack) -> tuple[str, str]:
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        row = connection.execute("SELECT text FROM kept").fetchone()
    with redis.Redis.from_url(stack.env()["REDIS_URL"], decode_responses=True) as client:
        return (row[0] if row else "", str(client.get("kept")))


def all_healthy(stack: Stack) -> bool:
    return all(stack.inspect(s)["State"]["Health"]["Status"] == "healthy" for s in SERVICES)


def test_stopped_properly(stack: Stack) -> None:
    write(stack, "before the stop")
    end_engine(signal.SIGTERM)
    status = stack.play("status")
    assert status.returncode != 0
    assert "./dev up" in status.stderr
    stack.converge()
    assert read(stack) == ("before the stop",) * 2
    assert stack.status()["healthy"]


def test_killed_with_a_stale_pid_file(stack: Stack) -> None:
    write(stack, "before the kill")
    end_engine(signal.SIGKILL)
    # Another process may have the engine's old number by now: dockerd refuses to start then.
    with subprocess.Popen(["sleep", "300"]) as other:
        PID_FILE.write_text(str(other.pid))
        try:
            stack.converge()
        finally:
            other.terminate()
    eventually(lambda: all_healthy(stack))
    assert read(stack) == ("before the kill",) * 2


def test_killed_while_a_backup_is_restored(stack: Stack) -> None:
    write(stack, "in the backup")
    made = stack.play("backup", "-e", "backup_name=before")
    assert made.returncode == 0, made.stdout + made.stderr
    write(stack, "since then")
    run = faults.begin(stack, "restore", "-e", "restore_name=before")
    faults.wait_for(run, faults.job_runs(stack, "postgres", "load"))
    end_engine(signal.SIGKILL)
    output = run.communicate(timeout=PATIENCE)[0]
    assert run.returncode != 0 and "Traceback" not in output, output
    stack.converge()
    assert read(stack) == ("since then",) * 2
    again = stack.play("restore", "-e", "restore_name=before")
    assert again.returncode == 0, again.stdout + again.stderr
    assert read(stack) == ("in the backup",) * 2
