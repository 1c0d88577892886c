"""Rows in PostgreSQL and keys in Redis, through everything that happens to containers."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import redis
from stack import NAME, Stack, eventually

ROWS = 10_000


def write(stack: Stack) -> None:
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept (id int PRIMARY KEY, text text NOT NULL)")
        connection.execute(
            "INSERT INTO kept SELECT n, md5(n::text) FROM generate_series(1, %s) AS n", [ROWS]
        )
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client, client.pipeline() as pipe:
        for n in range(1000):
            pipe.set(f"kept:{n}", n)
        pipe.xadd("kept:stream", {"event": "created"})
        pipe.execute()
    form = {"message": "kept", "stream": "false", "session_id": "kept"}
    with stack.agentos() as client:
        run = client.post("/workflows/stack-check/runs", data=form)
    assert (run.status_code, run.json()["status"]) == (200, "COMPLETED"), run.text


def content(stack: Stack) -> tuple[Any, ...]:
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        rows = connection.execute(
            "SELECT count(*), md5(string_agg(text, ',' ORDER BY id)) FROM kept"
        ).fetchone()
    with redis.Redis.from_url(stack.env()["REDIS_URL"], decode_responses=True) as client:
        keys = sum(int(client.get(f"kept:{n}") or 0) for n in range(1000))
        stream = [event for _, event in client.xrange("kept:stream")]
    with stack.agentos() as client:
        found = client.get("/sessions/kept/runs", params={"type": "workflow"})
    assert found.status_code == 200, found.text
    runs = [(run["run_id"], run["status"], run["content"]) for run in found.json()]
    assert rows is not None
    return (*rows, keys, stream, runs)


def test_containers_removed_by_hand(stack: Stack) -> None:
    write(stack)
    before = content(stack)
    assert before[0] == ROWS
    assert len(before[-1]) == 1
    for service in stack.services():
        # Redis writes its file once a second; a stop is how a user would end it.
        stack.client.stop(f"{NAME}_{service}", timeout=60)
        stack.client.remove_container(f"{NAME}_{service}", v=True)
    stack.converge("--skip-tags", "pgadmin")
    assert content(stack) == before


def test_containers_killed(stack: Stack) -> None:
    before = content(stack)
    time.sleep(1.5)  # Redis writes its append-only file once a second
    for service in ("postgres", "redis"):
        stack.client.kill(f"{NAME}_{service}")
    stack.converge("--skip-tags", "pgadmin")
    eventually(lambda: content(stack) == before)


def test_down_and_up(stack: Stack) -> None:
    before = content(stack)
    assert stack.play("down").returncode == 0
    assert stack.services() == []
    stack.converge("--skip-tags", "pgadmin")
    assert content(stack) == before
