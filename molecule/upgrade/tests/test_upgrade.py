"""An upgrade of real data from PostgreSQL 16 to 18: the same data before and after, old or new, whole."""

from __future__ import annotations

from collections.abc import Callable

import data
import faults
import psycopg
import pytest
from stack import NAME, PATIENCE, Stack

SCALE = 10
Moment = Callable[[Stack], Callable[[], bool]]


def held(stack: Stack) -> dict[str, list[str]]:
    """All that PostgreSQL holds, by the tests' own means."""
    return data.contents(stack.client, f"{NAME}_postgres")


def version(stack: Stack) -> int:
    """The server's major version, asked over the published port with the present password."""
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        return connection.info.server_version // 10000


@pytest.fixture(scope="module")
def original(stack: Stack) -> dict[str, list[str]]:
    """The data as it is in 16, with a run of AgentOS among it."""
    # First, since the server is busy for a while with what comes then.
    form = {"message": "kept", "stream": "false", "session_id": "kept"}
    with stack.agentos() as client:
        assert client.post("/workflows/stack-check/runs", data=form).status_code == 200
    data.fill(stack.client, f"{NAME}_postgres", SCALE)
    return held(stack)


def test_up_with_a_newer_version_refuses_and_names_the_command(
    stack: Stack, original: dict[str, list[str]]
) -> None:
    before = stack.started()
    refused = stack.play("dev", "--skip-tags", "pgadmin", "-e", "postgres_version=18")
    assert refused.returncode != 0
    assert "./dev upgrade --to 18" in refused.stderr
    assert stack.started() == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "./dev upgrade --to 18"),
        (["-e", "upgrade_to=19"], "there are 16, 17, 18"),
        (["-e", "upgrade_to=18", "-e", "postgres_version=16"], "Remove that setting"),
        (["-e", "upgrade_rollback=true"], "nothing to go back to"),
    ],
)
def test_what_cannot_be_is_refused(
    stack: Stack, original: dict[str, list[str]], options: list[str], told: str
) -> None:
    before = stack.started()
    refused = stack.play("upgrade", *options)
    assert refused.returncode != 0
    assert told in refused.stderr
    assert stack.started() == before


def test_clients_that_are_connected_stop_it(stack: Stack, original: dict[str, list[str]]) -> None:
    before = stack.started()
    with psycopg.connect(stack.env()["DATABASE_URL"], application_name="my-app"):
        refused = stack.play("upgrade", "-e", "upgrade_to=18")
    assert refused.returncode != 0 and "my-app" in refused.stderr
    assert stack.started() == before


# Each of the moments at which the run may die, and whether the new version may be in use after it.
MOMENTS: dict[str, tuple[Moment, bool]] = {
    "load": (lambda stack: faults.volume_exists(stack, f"{NAME}_postgres_data_2"), False),
    "switched": (lambda stack: faults.switched(stack, f"{NAME}_postgres_data_2"), True),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_kill_leaves_the_old_or_the_new_whole(
    stack: Stack, original: dict[str, list[str]], name: str
) -> None:
    moment, upgraded = MOMENTS[name]
    run = faults.begin(stack, "upgrade", "-e", "upgrade_to=18")
    faults.kill_when(run, moment(stack))
    stack.converge("--skip-tags", "pgadmin")
    assert version(stack) == (18 if upgraded else 16)
    assert data.differences(original, held(stack)) == []
    own = {"label": [f"dev-stack.stack={NAME}", "dev-stack.job"]}
    assert stack.client.containers(all=True, filters=own) == []
    if upgraded:
        refused = stack.play("upgrade", "-e", "upgrade_to=16")
        assert refused.returncode != 0 and "./dev upgrade --rollback" in refused.stderr
        back = stack.play("upgrade", "-e", "upgrade_rollback=true")
        assert back.returncode == 0, back.stdout + back.stderr
        assert version(stack) == 16
        assert data.differences(original, held(stack)) == []
        assert f"{NAME}_postgres_data_2" in stack.volumes(), "what was upgraded is kept too"


def test_a_server_that_dies_on_the_way_leaves_the_old_one(
    stack: Stack, original: dict[str, list[str]]
) -> None:
    run = faults.begin(stack, "upgrade", "-e", "upgrade_to=18")
    faults.wait_for(run, faults.job_runs(stack, "postgres", "serve"))
    stack.client.kill(f"{NAME}_postgres_check")
    output = run.communicate(timeout=3 * PATIENCE)[0]
    assert run.returncode != 0
    assert "PostgreSQL is 16 as before" in output, output
    assert version(stack) == 16
    assert stack.status()["healthy"]
    # After a crash PostgreSQL itself empties tables that are unlogged.
    refill = "TRUNCATE shop.cache; " + data.line_with("INSERT INTO shop.cache")
    stack.exec("postgres", "psql", "-U", "postgres", "-d", "shop", "-Atqc", refill)
    assert data.differences(original, held(stack)) == []


def test_an_upgrade_brings_all_of_it_over(stack: Stack, original: dict[str, list[str]]) -> None:
    done = stack.play("upgrade", "-e", "upgrade_to=18")
    assert done.returncode == 0, done.stdout + done.stderr
    assert version(stack) == 18
    assert data.differences(original, held(stack)) == []
    with stack.agentos() as agentos:
        runs = agentos.get("/sessions/kept/runs", params={"type": "workflow"})
    assert [run["status"] for run in runs.json()] == ["COMPLETED"]
    assert "changed=0" in stack.converge("--skip-tags", "pgadmin")


def test_an_older_backup_is_restored_into_a_newer_version(
    stack: Stack, original: dict[str, list[str]]
) -> None:
    stack.sql("DROP TABLE pgbench_accounts")
    restored = stack.play("restore", "-e", "restore_name=latest")  # of 16, made by the upgrade
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert version(stack) == 18
    assert data.differences(original, held(stack)) == []
