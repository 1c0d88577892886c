"""Backups, restores and resets of real data: what comes back, and what bad input leaves untouched."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import data
import faults
import psycopg
import pytest
import redis
import redis_data
from stack import NAME, PATIENCE, PORTS, PROJECT, Stack, eventually

KEYS = 1_000_000
SCALE = 10
FULL, SMALL = "full", "small"  # backups


def held(stack: Stack) -> dict[str, Any]:
    """All that the services hold, by the tests' own means."""
    password = stack.secrets()["redis_password"]
    return {
        "postgres": data.contents(stack.client, f"{NAME}_postgres"),
        "redis": redis_data.digest(PORTS["redis"], password),
    }


def assert_holds(stack: Stack, wanted: dict[str, Any]) -> None:
    """The services hold the same as then, and can be logged in to with the present passwords."""
    found = held(stack)
    assert data.differences(wanted["postgres"], found["postgres"]) == []
    assert found["redis"] == wanted["redis"]
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        connection.execute("SELECT 1")
    assert stack.status()["healthy"]


def in_use(stack: Stack) -> dict[str, str]:
    """The volume that each container mounts."""
    return {
        service: mount["Name"]
        for service in stack.services()
        for mount in stack.inspect(service)["Mounts"]
        if mount["Type"] == "volume"
    }


def switched_to_a_new_volume(stack: Stack) -> Callable[[], bool]:
    """A moment: the record names another volume as PostgreSQL's than the one now in use."""
    record = stack.state / "volumes.json"
    before = in_use(stack)["postgres"]
    return lambda: json.loads(record.read_text())["current"].get("postgres", before) != before


def backups(stack: Stack) -> list[dict[str, Any]]:
    """What `backups --json` tells."""
    told = stack.play("backups", "-e", "backups_format=json")
    assert told.returncode == 0, told.stderr
    listed: list[dict[str, Any]] = json.loads(told.stdout)["backups"]
    return listed


@pytest.fixture(scope="module")
def original(stack: Stack) -> dict[str, Any]:
    """The data in its first state, which is also in the backup FULL."""
    # First, since the servers are busy for a while with what comes then.
    form = {"message": "kept", "stream": "false", "session_id": "kept"}
    with stack.agentos() as client:
        assert client.post("/workflows/stack-check/runs", data=form).status_code == 200
    data.fill(stack.client, f"{NAME}_postgres", SCALE)
    redis_data.fill(PORTS["redis"], stack.secrets()["redis_password"], KEYS, expiring=1000)
    before = held(stack)
    started = stack.started()
    made = stack.play("backup", "-e", f"backup_name={FULL}")
    assert made.returncode == 0, made.stdout + made.stderr
    assert stack.started() == started, "a backup must not disturb what runs"
    return before


def test_a_backup_tells_what_it_holds(stack: Stack, original: dict[str, Any]) -> None:
    (one,) = backups(stack)
    assert one["name"] == FULL and one["stack"] == NAME
    databases = {entry["name"]: entry for entry in one["services"]["postgres"]["databases"]}
    assert databases["hyvve"]["rows"] >= SCALE * 100_000
    assert set(one["services"]) == {"postgres", "redis", "pgadmin"}
    folder = stack.state / "backups" / FULL
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.stat().st_uid == os.getuid()
    assert [v for v in stack.volumes() if v.endswith("_check")] == []


def test_a_restore_brings_all_of_it_back(stack: Stack, original: dict[str, Any]) -> None:
    stack.sql("DROP TABLE pgbench_history; CREATE TABLE later (id int)")
    stack.sql("DELETE FROM pgbench_accounts WHERE aid % 3 = 0")
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client:
        client.set("later", 1)
        client.delete("long")
    restored = stack.play("restore", "-e", "restore_name=latest")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert_holds(stack, original)
    with stack.agentos() as agentos:
        runs = agentos.get("/sessions/kept/runs", params={"type": "workflow"})
    assert [run["status"] for run in runs.json()] == ["COMPLETED"]
    assert in_use(stack)["postgres"] == f"{NAME}_postgres_data_2"
    assert f"{NAME}_postgres_data" in stack.volumes(), "the old data is kept"
    assert "changed=0" in stack.converge()

    back = stack.play("restore", "-e", "restore_rollback=true")
    assert back.returncode == 0, back.stdout + back.stderr
    assert in_use(stack)["postgres"] == f"{NAME}_postgres_data"
    assert stack.sql("SELECT to_regclass('later')") == "later"
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client:
        assert client.exists("later") and not client.exists("long")


@pytest.fixture(scope="module")
def small(stack: Stack, original: dict[str, Any]) -> dict[str, Any]:
    """Less of the data, which is also in the backup SMALL: for what is about faults, not size."""
    stack.sql("DROP TABLE pgbench_accounts")
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client:
        client.flushall()
    redis_data.fill(PORTS["redis"], stack.secrets()["redis_password"], 1000)
    made = stack.play("backup", "-e", f"backup_name={SMALL}")
    assert made.returncode == 0, made.stdout + made.stderr
    return held(stack)


@pytest.fixture
def untouched(stack: Stack) -> Iterator[None]:
    """Whatever the test tries leaves containers, volumes and backups as they were."""
    before = (stack.started(), stack.volumes(), in_use(stack))
    kept = sorted(path.name for path in (stack.state / "backups").iterdir())
    yield
    assert (stack.started(), stack.volumes(), in_use(stack)) == before
    assert sorted(path.name for path in (stack.state / "backups").iterdir()) == kept


@pytest.mark.usefixtures("small", "untouched")
class TestBadInput:
    """A clear line, and nothing touched."""

    def refused(self, stack: Stack, playbook: str, *options: str) -> str:
        words = [word for option in options for word in ("-e", option)]
        result = stack.play(playbook, *words)
        assert result.returncode != 0, result.stdout
        assert "Traceback" not in result.stdout + result.stderr
        assert "changed:" not in result.stdout
        return result.stderr

    def test_an_unknown_backup(self, stack: Stack) -> None:
        told = self.refused(stack, "restore", "restore_name=nightly")
        assert f"There is no backup nightly. There are: {SMALL}, {FULL}" in told

    def test_a_name_with_path_characters(self, stack: Stack) -> None:
        for playbook, variable in (("backup", "backup_name"), ("restore", "restore_name")):
            option = json.dumps({variable: "../../etc"})
            assert "cannot be the name of a backup" in self.refused(stack, playbook, option)

    def test_a_name_that_is_taken(self, stack: Stack) -> None:
        told = self.refused(stack, "backup", f"backup_name={SMALL}")
        assert f"There is a backup {SMALL} already" in told

    def test_nothing_named(self, stack: Stack) -> None:
        assert "./dev restore latest" in self.refused(stack, "restore")

    def test_a_damaged_backup(self, stack: Stack) -> None:
        folder = stack.state / "backups" / SMALL
        (dump,) = sorted(folder.glob("postgres/*.dump"), key=lambda p: p.stat().st_size)[-1:]
        content = dump.read_bytes()
        middle = len(content) // 2
        try:
            dump.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            )
            told = self.refused(stack, "restore", f"restore_name={SMALL}")
            assert f"The backup {SMALL} is damaged" in told and dump.name in told
        finally:
            dump.write_bytes(content)

    def test_an_archive_that_is_none(self, stack: Stack, tmp_path: Path) -> None:
        (tmp_path / "not.tar").write_bytes(b"no archive" * 1000)
        told = self.refused(stack, "restore", f"restore_from={tmp_path}/not.tar")
        assert "is no archive of a backup" in told
        told = self.refused(stack, "restore", f"restore_from={tmp_path}/none.tar")
        assert "No such file" in told

    def test_clients_that_are_connected(self, stack: Stack) -> None:
        url = stack.env()["DATABASE_URL"]
        with psycopg.connect(url, application_name="my-app"):
            told = self.refused(stack, "restore", f"restore_name={SMALL}")
        assert "my-app" in told and "--disconnect" in told
        with redis.Redis.from_url(stack.env()["REDIS_URL"], client_name="my-worker") as client:
            client.ping()
            told = self.refused(stack, "restore", f"restore_name={SMALL}")
        assert "my-worker" in told

    def test_a_disk_without_room(self, stack: Stack) -> None:
        with disk_of(stack, 8) as folder:
            result = stack.play("backup")
            assert result.returncode != 0
            assert "MB free, and this may take" in result.stderr
            assert list(folder.iterdir()) == []

    def test_a_disk_that_fills_up_on_the_way(self, stack: Stack) -> None:
        with disk_of(stack, 300) as folder:
            run = faults.begin(stack, "backup", "-e", "backup_name=cut")
            # There was room when it began; by the time that it copies there is none.
            faults.wait_for(run, lambda: any(folder.iterdir()))
            while run.poll() is None:
                fill_up(folder / ".filler")
                time.sleep(0.05)
            output = run.communicate(timeout=PATIENCE)[0]
            assert run.returncode != 0, output
            assert "The disk ran full" in output, output
            assert "Traceback" not in output
            (folder / ".filler").unlink()
            assert list(folder.iterdir()) == []


@contextlib.contextmanager
def disk_of(stack: Stack, megabytes: int) -> Iterator[Path]:
    """A small disk of its own for the stack's backups; the folder of backups on it."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    folder = stack.state / "backups"
    aside = folder.with_name("backups-aside")
    folder.rename(aside)
    folder.mkdir(0o700)
    size = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
        aside.rename(folder)


def fill_up(path: Path) -> None:
    """Write to a file until its disk takes no more."""
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        while file.write(bytes(1 << 20)):
            pass


Moment = Callable[[Stack], Callable[[], bool]]
# The moments at which a run may die, by what it does. After the first it takes effect within a
# fraction of a second, and on a busy machine it may just have.
RESTORE_MOMENTS: dict[str, Moment] = {
    "stopped": lambda stack: faults.container_gone(stack, "redis"),
    "switched": switched_to_a_new_volume,
}


def leftovers(stack: Stack) -> list[str]:
    """Jobs that are still there, and volumes that are neither in use nor kept."""
    containers = stack.client.containers(all=True, filters={"label": "dev-stack.job"})
    own = [c["Names"][0] for c in containers if c["Labels"]["dev-stack.stack"] == stack.name]
    record = json.loads((stack.state / "volumes.json").read_text())
    known = {*record["current"].values(), *record["previous"].values()}
    return own + [name for name in stack.volumes() if name not in known]


def test_a_backup_that_is_killed_is_none(stack: Stack, small: dict[str, Any]) -> None:
    run = faults.begin(stack, "backup", "-e", "backup_name=killed")
    faults.kill_when(run, faults.job_began(stack, "redis", "load"))
    assert "killed" not in [one["name"] for one in backups(stack)]
    again = stack.play("backup", "-e", "backup_name=after")
    assert again.returncode == 0, again.stdout + again.stderr
    assert leftovers(stack) == []
    assert [p.name for p in (stack.state / "backups").iterdir() if p.name[0] == "."] == []


@pytest.mark.parametrize("name", RESTORE_MOMENTS)
def test_a_restore_that_is_killed_leaves_the_old_or_the_new(
    stack: Stack, small: dict[str, Any], name: str
) -> None:
    stack.sql("CREATE TABLE IF NOT EXISTS since ()")
    has_switched = switched_to_a_new_volume(stack)
    run = faults.begin(stack, "restore", "-e", f"restore_name={SMALL}")
    faults.kill_when(run, RESTORE_MOMENTS[name](stack))
    restored = has_switched()
    assert restored or name != "switched"
    stack.converge()
    assert leftovers(stack) == []
    assert stack.status()["healthy"]
    assert stack.sql("SELECT to_regclass('since')") == ("" if restored else "since")
    if not restored:
        stack.sql("DROP TABLE since")
    assert_holds(stack, small)


def test_ctrl_c_in_a_restore_leaves_the_old_and_nothing_else(
    stack: Stack, small: dict[str, Any]
) -> None:
    run = faults.begin(stack, "restore", "-e", f"restore_name={SMALL}")
    load = faults.job_runs(stack, "postgres", "load")
    output = faults.kill_when(run, load, signal.SIGINT)
    assert "Traceback" not in output
    # One that nobody waited for yet goes on to its end, and the next run removes it.
    eventually(lambda: not load())
    stack.converge()
    assert leftovers(stack) == []
    assert_holds(stack, small)


def test_a_job_that_dies_is_told_and_nothing_changes(stack: Stack, small: dict[str, Any]) -> None:
    before = stack.started()
    for playbook, option in (("backup", "backup_name=dies"), ("restore", f"restore_name={SMALL}")):
        run = faults.begin(stack, playbook, "-e", option)
        job = "dump" if playbook == "backup" else "load"
        faults.wait_for(run, faults.job_runs(stack, "postgres", job))
        stack.client.kill(f"{NAME}_postgres_job")
        output = run.communicate(timeout=3 * PATIENCE)[0]
        assert run.returncode != 0
        assert "Error: The" in output and "Traceback" not in output, output
    assert stack.started() == before
    assert leftovers(stack) == []


def test_two_at_once_are_refused(stack: Stack, small: dict[str, Any]) -> None:
    run = faults.begin(stack, "backup", "-e", "backup_name=first")
    faults.wait_for(run, faults.job_runs(stack, "postgres", "dump"))
    second = stack.play("restore", "-e", f"restore_name={SMALL}")
    output = run.communicate(timeout=3 * PATIENCE)[0]
    assert second.returncode != 0
    assert f"Another run (process {run.pid}) is at work" in second.stderr, second.stderr
    assert run.returncode == 0 and "first" in output, output


def launcher(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run ./dev on the test inventory, in the environment that runs the tests."""
    inventory = ["--", f"--inventory={PROJECT}/molecule/inventory/hosts.yml"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
    program = shutil.which("ansible-playbook")
    assert program is not None
    environment["DEV_VENV"] = str(Path(program).parent.parent)
    return subprocess.run(
        [PROJECT / "dev", *words, *inventory],
        capture_output=True,
        env=environment,
        timeout=6 * PATIENCE,
        stdin=subprocess.DEVNULL,
        check=False,
        **options,
    )


def test_an_archive_brings_it_to_a_stack_that_has_nothing(
    stack: Stack, small: dict[str, Any], tmp_path: Path
) -> None:
    made = launcher("backup", "moved", "--to-stdout")
    assert made.returncode == 0, made.stderr.decode()
    (tmp_path / "moved.tar").write_bytes(made.stdout)
    # As on another machine: no backup, no volume, no secrets.
    assert stack.play("down").returncode == 0
    for name in stack.volumes():
        stack.client.remove_volume(name)
    shutil.rmtree(stack.state)
    result = launcher("restore", "--from", str(tmp_path / "moved.tar"))
    assert result.returncode == 0, result.stdout.decode() + result.stderr.decode()
    assert_holds(stack, small)


def test_reset_backs_up_first_and_the_backup_brings_it_back(
    stack: Stack, small: dict[str, Any]
) -> None:
    refused = stack.play("reset")
    assert refused.returncode != 0 and "--yes" in refused.stderr
    result = stack.play("reset", "-e", "reset_confirmed=true", "--skip-tags", "pgadmin")
    assert result.returncode == 0, result.stdout + result.stderr
    assert stack.sql("SELECT to_regclass('pgbench_branches')") == ""
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client:
        assert client.dbsize() < 10
    newest = backups(stack)[0]
    assert newest["why"] == "before a reset"
    assert newest["name"] in result.stdout
    restored = stack.play("restore", "-e", "restore_name=latest")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert_holds(stack, small)


def test_reset_of_what_cannot_be_backed_up_is_refused(stack: Stack, small: dict[str, Any]) -> None:
    stack.client.stop(f"{NAME}_redis", timeout=20)
    volumes = stack.volumes()
    refused = stack.play("reset", "--tags", "redis", "-e", "reset_confirmed=true")
    assert refused.returncode != 0
    assert "--no-backup" in refused.stderr and "Nothing was removed" in refused.stderr
    assert stack.volumes() == volumes
    options = ["--tags", "redis", "-e", "reset_confirmed=true", "-e", "reset_backup=no"]
    assert stack.play("reset", *options).returncode == 0
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client:
        assert client.dbsize() < 10
