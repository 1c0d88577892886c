"""Which volume is in use: plugins/modules/stack_info.py and the filters about it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .project import load_plugin

FIRST = {"postgres": "s_postgres_data", "redis": "s_redis_data"}


@pytest.fixture(scope="module")
def stack_info() -> ModuleType:
    """plugins/modules/stack_info.py."""
    return load_plugin("modules", "stack_info")


def found(*names: str, scratch: tuple[str, ...] = ()) -> dict[str, Any]:
    """Volumes as the engine lists them."""
    volumes = {}
    for name in (*names, *scratch):
        labels = {"dev-stack.service": name.split("_")[1]}
        labels |= {"dev-stack.scratch": "true"} if name in scratch else {}
        volumes[name] = {"labels": labels, "created": "2026-01-01T00:00:00Z"}
    return volumes


def look(stack_info: ModuleType, volumes: Any, record: Any = None, mounted: Any = None) -> Any:
    return stack_info.volumes_in_use(FIRST, volumes, record, mounted or {}, "/s/volumes.json")


def test_a_new_stack_uses_the_first_names(stack_info: ModuleType) -> None:
    assert look(stack_info, {}) == (FIRST, [])


def test_the_record_decides(stack_info: ModuleType) -> None:
    volumes = found("s_postgres_data", "s_postgres_data_2", "s_redis_data")
    record = {"current": {"postgres": "s_postgres_data_2"}, "previous": {}}
    current, problems = look(stack_info, volumes, record)
    assert current == {"postgres": "s_postgres_data_2", "redis": "s_redis_data"}
    assert problems == []


def test_a_recorded_volume_that_is_gone_is_never_made_anew(stack_info: ModuleType) -> None:
    record = {"current": {"postgres": "s_postgres_data_2"}, "previous": {}}
    _, (problem,) = look(stack_info, found("s_postgres_data"), record)
    assert "s_postgres_data_2" in problem["message"] and "is gone" in problem["message"]
    assert "./dev restore latest" in problem["message"]
    assert problem["gone"] is True


def test_without_a_record_the_only_one_or_the_mounted_one_is_used(stack_info: ModuleType) -> None:
    assert look(stack_info, found("s_postgres_data_3"))[0]["postgres"] == "s_postgres_data_3"
    several = found("s_postgres_data", "s_postgres_data_2", scratch=("s_postgres_data_check",))
    current, problems = look(stack_info, several, None, {"postgres": "s_postgres_data_2"})
    assert (current["postgres"], problems) == ("s_postgres_data_2", [])
    one = found("s_postgres_data", scratch=("s_postgres_data_check",))
    assert look(stack_info, one) == (FIRST, [])


def test_without_a_record_several_are_a_question(stack_info: ModuleType) -> None:
    _, (problem,) = look(stack_info, found("s_postgres_data", "s_postgres_data_2"))
    assert "several volumes" in problem["message"] and problem["gone"] is False
    command = problem["message"].partition("echo '")[2].partition("' >")[0]
    assert json.loads(command) == {"current": {"postgres": "s_postgres_data_2"}}
    more = found("s_postgres_data", "s_postgres_data_2", "s_redis_data_4")
    _, (problem,) = look(stack_info, more)
    command = problem["message"].partition("echo '")[2].partition("' >")[0]
    assert json.loads(command)["current"]["redis"] == "s_redis_data_4", "or it would be lost"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"current": 1}', '{"current": {"redis": 1}}', "{}"]
)
def test_a_record_that_cannot_be_read_is_said(
    stack_info: ModuleType, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "volumes.json"
    assert stack_info.read_record(path) is None
    path.write_text(text)
    with pytest.raises(ValueError, match="cannot be read"):
        stack_info.read_record(path)


def test_the_next_name_is_the_lowest_free_one(filters: ModuleType) -> None:
    observed = {
        "volumes": found("s_redis_data_2"),
        "kept": found("s_redis_data"),
        "current": {},
        "foreign_volumes": [],
    }
    assert filters.next_volume("redis", observed, FIRST) == "s_redis_data_3"
    assert filters.next_volume("postgres", observed, FIRST) == "s_postgres_data_2"


def test_only_dead_jobs_and_scratch_volumes_are_leftovers(filters: ModuleType) -> None:
    jobs = [
        {"container": "alive", "job": "dump", "at_work": True},
        {"container": "dead", "job": "load", "at_work": False},
        {"container": "migration", "job": None, "at_work": False},
    ]
    names = ("s_redis_data", "s_redis_data_2", "s_redis_data_3")
    observed = {
        "others": jobs,
        "kept": found(*names, scratch=("s_redis_data_check",)),
        "previous": {"redis": "s_redis_data_2"},
        "loading": ["s_redis_data_2", "s_redis_data_3"],
        "another_run": "",
    }
    interrupted = ["s_redis_data_3", "s_redis_data_check"]
    assert filters.leftovers(observed) == {"containers": ["dead"], "volumes": interrupted}
    found_so = filters.leftovers(observed | {"loading": []})["volumes"]
    assert found_so == ["s_redis_data_check"], "not known to be of no use"
    (line,) = filters.at_work(observed)
    assert "alive" in line and "docker rm -f alive" in line
    # All else that is found then may be its doing.
    assert filters.at_work(observed | {"another_run": "Another run …"}) == ["Another run …"]


def test_a_run_s_name_holds_while_it_lives(utils: ModuleType) -> None:
    name = utils.process_name()
    assert utils.is_alive(name)
    node, number, started = name.split(":")
    assert not utils.is_alive(f"{node}:{number}:{int(started) - 60}")
    assert not utils.is_alive(f"elsewhere:{number}:{started}")
    for bad in ("", "a:b:c", "::", node):
        assert not utils.is_alive(bad)


def test_the_major_version_is_the_volume_s_unless_it_is_asked_for(filters: ModuleType) -> None:
    volumes = found("s_postgres_data")
    observed = {"volumes": volumes, "current": FIRST}
    assert filters.postgres_major(observed, "", 16) == 16
    volumes["s_postgres_data"]["labels"]["dev-stack.postgres-major"] = "18"
    assert filters.postgres_major(observed, "", 16) == 18
    assert filters.postgres_major(observed, "17", 16) == 17
    assert filters.postgres_major({"volumes": {}, "current": FIRST}, "", 16) == 16


@pytest.mark.parametrize(
    ("replaced", "returns", "told"),
    [
        ([], False, ["lost", "unclear", "unreadable"]),
        ([], True, ["unclear", "unreadable"]),
        (["redis"], False, ["lost", "unreadable"]),
        (["postgres", "redis"], False, []),
    ],
)
def test_what_has_to_be_known_of_the_volumes(
    filters: ModuleType, replaced: list[str], returns: bool, told: list[str]
) -> None:
    problems = [
        {"service": "postgres", "message": "lost", "gone": True},
        {"service": "redis", "message": "unclear", "gone": False},
        {"service": "", "message": "unreadable", "gone": False},
    ]
    observed = {"volume_problems": problems, "current": FIRST}
    assert filters.volume_problems(observed, replaced, returns) == told


def test_the_way_back_stays_where_the_volume_in_use_was_lost(filters: ModuleType) -> None:
    before = {
        "current": {"postgres": "p3", "redis": "r1"},
        "previous": {"postgres": "p2", "pgadmin": "a1"},
    }
    to = {"postgres": "p4", "redis": "r2"}
    assert filters.kept_before(before, to, ["r1"]) == {
        "postgres": "p2",
        "redis": "r1",
        "pgadmin": "a1",
    }
    assert filters.kept_before(before, to, ["p3", "r1"])["postgres"] == "p3"


def test_a_reset_that_could_not_back_up_is_in_doubt(filters: ModuleType) -> None:
    """The volume in use is gone or unknown, and there are others."""
    observed: dict[str, Any] = {
        "current": {"postgres": "s_postgres_data_3", "redis": "s_redis_data"},
        "volumes": found("s_redis_data"),
        "kept": found("s_postgres_data_2"),
        "volume_problems": [],
    }
    both = ["postgres", "redis"]
    assert filters.services_in_doubt(observed, both) == ["postgres"]
    unclear = observed | {"volume_problems": [{"service": "redis"}]}
    assert filters.services_in_doubt(unclear, both) == both
    assert filters.services_in_doubt(observed | {"kept": {}}, both) == []


def test_names_of_jobs_that_somebody_else_has_are_refused(filters: ModuleType) -> None:
    message = "There is a container named s_redis_job already, and it is not this stack's"
    taken = [{"kind": "container", "service": "redis", "message": message}]
    foreign = ["s_postgres_data_check", "s_else"]
    observed = {"foreign_volumes": foreign, "taken": taken}
    lines = filters.in_the_way(observed, ["s_redis_job"], FIRST)
    assert len(lines) == 2 and "s_postgres_data_check" in lines[0] and lines[1] == message


def test_a_backup_of_a_newer_server_is_not_restored(filters: ModuleType) -> None:
    manifest = {"services": {"postgres": {"major": 18, "databases": []}}, "files": {}}
    (line,) = filters.restore_problems(manifest, 16, None)
    assert "./dev upgrade --to 18" in line
    assert filters.restore_problems(manifest, 18, None) == []


def test_a_backup_that_does_not_fit_is_not_restored(filters: ModuleType) -> None:
    databases = [{"size": 3_000_000_000}, {"size": 1_000_000_000}]
    manifest = {"services": {"postgres": {"major": 16, "databases": databases}}, "files": {}}
    (line,) = filters.restore_problems(manifest, 16, 2_000_000_000)
    assert "4.0 GB" in line and "2.0 GB free" in line
    assert filters.restore_problems(manifest, 16, 5_000_000_000) == []
