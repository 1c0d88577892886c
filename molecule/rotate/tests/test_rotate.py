"""Rotation with clients at work, and with runs that fail or are killed at its steps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import faults
import httpx
import jwt
import psycopg
import pytest
import redis
from stack import PATIENCE, PORTS, PROJECT, Stack, eventually

ROTATED = {
    "postgres_password",
    "redis_password",
    "pgadmin_password",
    "better_auth_secret",
    "agentos_db_password",
}
LIVE = ("postgres", "redis", "pgadmin")
HOST = "127.0.0.1"


# --- what users do with secrets -----------------------------------------------------------------


def postgres_takes(user: str, password: str) -> bool:
    """Whether PostgreSQL lets in, over the published port."""
    try:
        psycopg.connect(
            host=HOST, port=PORTS["postgres"], dbname="hyvve", user=user, password=password
        ).close()
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False
    return True


def redis_takes(password: str) -> bool:
    try:
        with redis.Redis(host=HOST, port=PORTS["redis"], password=password) as client:
            return bool(client.ping())
    except redis.AuthenticationError:
        return False


def agentos_takes(secret: str) -> bool:
    now = int(time.time())
    claims = {
        "iss": "hyvve", "aud": "agentos", "sub": "alice", "tenant": "acme",
        "iat": now, "exp": now + 60, "scopes": ["workflows:read"],
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {jwt.encode(claims, secret, 'HS256')}"}
    url = f"http://{HOST}:{PORTS['agentos']}/workflows"
    status = httpx.get(url, headers=headers, timeout=PATIENCE).status_code
    assert status in (200, 401)
    return status == 200


TAKES: dict[str, Callable[[str], bool]] = {
    "postgres_password": lambda secret: postgres_takes("postgres", secret),
    "agentos_db_password": lambda secret: postgres_takes("agentos", secret),
    "redis_password": redis_takes,
    "better_auth_secret": agentos_takes,
}


class PgAdmin:
    """pgAdmin as an open page uses it: one session, with its cookies."""

    def __init__(self) -> None:
        self.web = httpx.Client(
            base_url=f"http://{HOST}:{PORTS['pgadmin']}", follow_redirects=True, timeout=PATIENCE
        )
        self.web.get("/browser/")
        token = re.search(
            r"csrf_token'\]\s*=\s*'([^']+)'", self.web.get("/browser/js/utils.js").text
        )
        assert token
        self.web.headers["X-pgA-CSRFToken"] = token[1]
        (server,) = self.web.get("/browser/server/nodes/1/").json()["result"]
        self.server = server["_id"]

    def connects(self) -> bool:
        """Whether the server connects anew without asking for anything."""
        self.web.delete(f"/browser/server/connect/1/{self.server}")
        answer = self.web.post(f"/browser/server/connect/1/{self.server}", data={})
        return answer.status_code == 200 and answer.json()["data"]["connected"] is True

    def opens_another_database(self) -> bool:
        """Whether, the server being connected, one more connection asks for nothing."""
        nodes = self.web.get(f"/browser/database/nodes/1/{self.server}/").json()["data"]
        (other,) = (node["_id"] for node in nodes if node["label"] == "postgres")
        answer = self.web.post(f"/browser/database/connect/1/{self.server}/{other}", data={})
        return answer.status_code == 200 and answer.json()["data"]["connected"] is True


def check_whole(stack: Stack, before: dict[str, str], now: dict[str, str]) -> None:
    """The secrets are `now` in every place, and those of `before` that differ hold nowhere."""
    kept = {name: value for name, value in stack.secrets().items() if name in ROTATED}
    assert kept == now
    env = stack.env()
    assert env["BETTER_AUTH_SECRET"] == now["better_auth_secret"]
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1000,)
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        assert client.get("kept") == b"1000"
    for name, takes in TAKES.items():
        assert takes(now[name]), name
        if before[name] != now[name]:
            assert not takes(before[name]), name
    with stack.agentos() as agentos:
        form = {"message": "hello", "stream": "false"}
        run = agentos.post("/workflows/stack-check/runs", data=form)
        assert (run.status_code, run.json()["status"]) == (200, "COMPLETED"), run.text
    assert PgAdmin().connects()
    left = [path.name for path in stack.state.rglob("*") if path.suffix == ".before"]
    assert left == []
    assert not (stack.state / "rotation").exists()
    assert {p.stat().st_mode & 0o777 for p in (stack.state, stack.state / "redis")} == {0o700}


def secrets(stack: Stack) -> dict[str, str]:
    return {name: value for name, value in stack.secrets().items() if name in ROTATED}


@contextmanager
def rotating(stack: Stack, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A rotation in a session of its own, which is killed, children and all, if it still runs."""
    inventory = PROJECT / "molecule/inventory/hosts.yml"
    command = ["ansible-playbook", f"--inventory={inventory}", "playbooks/rotate.yml", *options]
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env=stack.user_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            yield run
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)


def kill_when(stack: Stack, condition: Callable[[], Any]) -> None:
    """Rotate, and kill the run without warning as soon as the condition holds."""
    faults.kill_when(faults.begin(stack, "rotate"), lambda: bool(condition()))
    assert (stack.state / "rotation").exists()


@pytest.fixture(scope="module", autouse=True)
def data(stack: Stack) -> None:
    """Something to lose."""
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) AS n")
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client:
        client.set("kept", 1000)


# --- tests --------------------------------------------------------------------------------------


def test_everything_is_changed_live(stack: Stack) -> None:
    before, started = secrets(stack), stack.started()
    page = PgAdmin()
    assert page.connects()
    with (
        psycopg.connect(stack.env()["DATABASE_URL"]) as connection,
        redis.Redis.from_url(stack.env()["REDIS_URL"], single_connection_client=True) as client,
    ):
        server_process = connection.execute("SELECT pg_backend_pid()").fetchone()
        client_number = client.client_id()
        with rotating(stack) as first:
            eventually(lambda: (stack.state / "rotation").exists())
            second = stack.play("rotate")
            said, _ = first.communicate(timeout=3 * PATIENCE)
        assert first.returncode == 0, said
        assert second.returncode != 0
        assert f"Another run (process {first.pid})" in second.stderr
        # What was open before is open still, and the same.
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == server_process
        assert client.client_id() == client_number
    assert page.opens_another_database(), "in a page that was open before"
    assert page.connects()
    now = secrets(stack)
    assert all(before[name] != now[name] for name in ROTATED)
    check_whole(stack, before, now)
    restarted = {s for s, since in stack.started().items() if since != started[s]}
    assert restarted == {"agentos"}
    assert not any(value in said for value in (before | now).values())
    # Written down for the next start as well.
    stack.client.restart(f"{stack.name}_redis", timeout=60)
    eventually(lambda: redis_takes(now["redis_password"]))
    assert not redis_takes(before["redis_password"])


def test_a_step_that_fails_is_put_back(stack: Stack) -> None:
    """Redis has its new password by then; PostgreSQL may not write its own."""
    eventually(lambda: stack.status()["healthy"])  # Redis was just restarted
    before, started = secrets(stack), stack.started()
    stack.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    stack.sql("SELECT pg_reload_conf()")
    eventually(lambda: stack.sql("SHOW default_transaction_read_only") == "on")
    try:
        result = stack.play("rotate")
    finally:
        stack.sql("ALTER SYSTEM RESET ALL")
        stack.sql("SELECT pg_reload_conf()")
    assert result.returncode != 0
    assert "read-only transaction" in result.stderr, result.stderr
    assert "No secret was rotated" in result.stderr
    eventually(lambda: stack.sql("SHOW default_transaction_read_only") == "off")
    check_whole(stack, before, before)
    assert {s: stack.started()[s] for s in LIVE} == {s: started[s] for s in LIVE}


def test_killed_with_redis_changed_and_the_next_rotation_works(stack: Stack) -> None:
    before = secrets(stack)
    kill_when(stack, lambda: not redis_takes(before["redis_password"]))
    result = stack.play("rotate", "--tags", "redis")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the old ones are put back" in result.stdout
    now = secrets(stack)
    assert {name for name in ROTATED if now[name] != before[name]} == {"redis_password"}
    check_whole(stack, before, now)


def test_killed_with_all_changed_and_the_next_up_puts_back(stack: Stack) -> None:
    before, env = secrets(stack), stack.env_file.read_text()
    kill_when(stack, lambda: stack.env_file.read_text() != env)
    abandoned = secrets(stack)
    assert all(abandoned[name] != before[name] for name in ROTATED)
    output = stack.converge("--tags", "redis")
    assert "the old ones are put back" in output
    check_whole(stack, abandoned, before)
    assert "put back" not in stack.converge()


def test_refusals_change_nothing(stack: Stack) -> None:
    before = secrets(stack)
    given = stack.play("rotate", environment={"REDIS_PASSWORD": "mine"})
    # Given by hand, and not yet applied either.
    assert given.returncode != 0
    assert "unset REDIS_PASSWORD" in given.stderr
    assert secrets(stack) == before
    stack.client.stop(f"{stack.name}_redis")
    ailing = stack.play("rotate", "--tags", "postgres")
    assert ailing.returncode != 0
    assert "redis is not healthy" in ailing.stderr
    assert secrets(stack) == before


def test_a_password_given_by_hand_is_applied_live(stack: Stack) -> None:
    before, started = secrets(stack), stack.started()
    given = {"POSTGRES_PASSWORD": "p@ss: /wörd'\"\\%", "REDIS_PASSWORD": " with 'spaces\" "}
    output = stack.converge(environment=given)
    assert output.count("PostgreSQL: the password") == 1
    now = before | {
        "postgres_password": given["POSTGRES_PASSWORD"],
        "redis_password": given["REDIS_PASSWORD"],
    }
    for name in ("postgres_password", "redis_password"):
        assert TAKES[name](now[name])
        assert not TAKES[name](before[name])
    assert stack.started()["postgres"] == started["postgres"]
    assert PgAdmin().connects()
    with stack.agentos() as agentos:
        eventually(lambda: agentos.get("/ready").status_code == 200)
    result = stack.play("rotate", "--tags", "pgadmin,redis")  # strange ones are proved to be gone
    assert result.returncode == 0, result.stdout + result.stderr
    check_whole(stack, now, secrets(stack))
