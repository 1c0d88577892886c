"""Data of docker compose projects: plugins/modules/compose_info.py and the filters about adoption."""

from __future__ import annotations

import tarfile
from types import ModuleType
from typing import Any

import pytest

from .project import load_plugin

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-03T00:00:00.123456789Z"
MANIFEST = (
    b"file appendonly.aof.1.base.rdb seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n"
)
RDB = b"REDIS0010\xfa\x09redis-ver\x067.0.15\xfa\x0aredis-bits"


@pytest.fixture(scope="module")
def compose_info() -> ModuleType:
    """plugins/modules/compose_info.py."""
    return load_plugin("modules", "compose_info")


class Files:
    """Files of a volume: {path: (content, mtime)}."""

    def __init__(self, files: dict[str, tuple[bytes, str]]) -> None:
        self.files = {f"/dev-stack-look/{path}": file for path, file in files.items()}

    def stat(self, path: str) -> dict[str, Any] | None:
        return {"mtime": self.files[path][1]} if path in self.files else None

    def read(self, path: str, limit: int) -> tuple[bytes, tarfile.TarInfo] | None:
        entry = tarfile.TarInfo(path)
        entry.uid, entry.gid = 70, 71
        return (self.files[path][0][:limit], entry) if path in self.files else None


def volume(name: str, kind: str = "postgres", version: str = "16", **more: Any) -> dict[str, Any]:
    """An entry as compose_info returns it."""
    return {
        "project": "shop",
        "volume": f"shop_{name}",
        "short": name,
        "kind": kind,
        "version": version,
        "anonymous": False,
        "bytes": 1_000_000,
        "containers": [],
        "running": [],
        "project_running": [],
        "services": [name],
        "reads": "aof",
        "image": {},
    } | more


EMPTY: dict[str, Any] = {
    "current": {"postgres": "s_postgres_data", "redis": "s_redis_data"},
    "volumes": {},
    "kept": {},
    "foreign_volumes": [],
    "taken": [],
}


def problems(filters: ModuleType, found: list[Any], *names: str, **more: Any) -> list[str]:
    project = more.pop("project", "shop")
    wanted = more.pop("postgres_version", "")
    lines: list[str] = filters.adoption_problems(
        found, project, list(names), EMPTY | more, "s", wanted
    )
    return lines


@pytest.mark.parametrize("folder", ["", "data/", "pgdata/", "18/docker/", "odd/place/"])
def test_a_cluster_is_known_by_its_version_file(compose_info: ModuleType, folder: str) -> None:
    facts = compose_info.postgres_facts(
        Files({f"{folder}PG_VERSION": (b"16\n", EARLY)}), ["odd/place"]
    )
    assert facts == {"version": "16", "folder": folder.rstrip("/"), "uid": 70, "gid": 71}


def test_other_files_are_no_data(compose_info: ModuleType) -> None:
    files = Files({"PG_VERSION": (b"hello", EARLY), "dump.rdb": (b"text", EARLY)})
    assert compose_info.postgres_facts(files, []) is None
    assert compose_info.redis_facts(files, None) is None


@pytest.mark.parametrize(
    ("aof", "rdb", "told", "reads"),
    [
        (EARLY, None, None, "aof"),
        (None, EARLY, None, "rdb"),
        (LATE, EARLY, None, "aof"),
        (EARLY, "2026-01-01T00:10:00Z", None, "aof"),
        (EARLY, LATE, None, "rdb"),  # the append-only file was given up long before
        (EARLY, LATE, True, "aof"),
        (LATE, EARLY, False, "rdb"),
    ],
)
def test_redis_is_read_from_what_its_server_would_read(
    compose_info: ModuleType, aof: str | None, rdb: str | None, told: bool | None, reads: str
) -> None:
    files = {}
    if aof:
        files["appendonlydir/appendonly.aof.manifest"] = (MANIFEST, EARLY)
        files["appendonlydir/appendonly.aof.1.base.rdb"] = (RDB, EARLY)
        files["appendonlydir/appendonly.aof.1.incr.aof"] = (b"*1", aof)
    if rdb:
        files["dump.rdb"] = (RDB, rdb)
    facts = compose_info.redis_facts(Files(files), told)
    assert (facts["version"], facts["reads"]) == ("7.0.15", reads)


def test_a_command_tells_of_the_append_only_file(compose_info: ModuleType) -> None:
    assert compose_info.appends([["sh", "-c", "redis-server --appendonly 'yes'"]]) is True
    assert compose_info.appends([["redis-server", "--appendonly", "no"]]) is False
    assert compose_info.appends([["redis-server"]]) is None


def test_one_volume_of_each_is_adopted(filters: ModuleType) -> None:
    found = [volume("db"), volume("cache", "redis", "7.0.15")]
    assert problems(filters, found) == []
    assert {k: v["volume"] for k, v in filters.adopted_volumes(found, "shop", []).items()} == {
        "postgres": "shop_db",
        "redis": "shop_cache",
    }


def test_a_project_that_is_not_there(filters: ModuleType) -> None:
    (line,) = problems(filters, [volume("db")], project="shp")
    assert "Did you mean shop?" in line


def test_two_databases_have_to_be_chosen_from(filters: ModuleType) -> None:
    found = [volume("db"), volume("old"), volume("cache", "redis")]
    lines = problems(filters, found)
    assert "./dev adopt shop --volume shop_old --volume shop_cache" in "\n".join(lines)
    assert problems(filters, found, "old,cache") == []
    assert list(filters.adopted_volumes(found, "shop", ["shop_db"])) == ["postgres"]
    (unknown,) = problems(filters, found, "nope")
    assert "no volume nope" in unknown


def test_data_that_is_there_stays(filters: ModuleType) -> None:
    (line,) = problems(filters, [volume("db")], volumes={"s_postgres_data": {"labels": {}}})
    assert "s_postgres_data" in line and "STACK_NAME=<name>" in line and "./dev reset" in line


def test_what_runs_has_to_be_stopped(filters: ModuleType) -> None:
    (line,) = problems(filters, [volume("db", project_running=["shop-web-1"])])
    assert "docker compose -p shop stop" in line
    (line,) = problems(filters, [volume("db", running=["other"])])
    assert "docker stop other" in line


def test_other_majors_are_refused_with_a_way(filters: ModuleType) -> None:
    (line,) = problems(filters, [volume("db", version="14")])
    assert "PostgreSQL 14" in line and "pg_dumpall" in line and "./dev psql < all.sql" in line
    (line,) = problems(filters, [volume("db")], postgres_version=17)
    assert "./dev upgrade --to 17" in line


def test_names_of_volumes_are_no_obstacle_and_containers_are(filters: ModuleType) -> None:
    kinds = ("volume", "container")
    taken = [{"service": "postgres", "kind": kind, "message": f"a {kind}"} for kind in kinds]
    chosen = {"postgres": volume("db", anonymous=True, containers=["s_postgres"])}
    first, rename = filters.adoption_conflicts(EMPTY | {"taken": taken}, ["postgres"], chosen)
    assert first == "a container"
    assert "docker rename s_postgres s_postgres_old" in rename


def test_a_new_volume_s_name_is_nobody_else_s(filters: ModuleType) -> None:
    first = {"postgres": "s_postgres_data"}
    observed = EMPTY | {"foreign_volumes": ["s_postgres_data", "s_postgres_data_2"]}
    assert filters.next_volume("postgres", observed, first) == "s_postgres_data_3"
    assert filters.nameless(observed, ["postgres", "redis"]) == ["postgres"]


def test_the_report_names_what_changed_and_how_to_use_it(filters: ModuleType) -> None:
    databases = [{"name": "shop", "tables": 2, "rows": 10, "size": 1}]
    manifest = {
        "services": {
            "postgres": {"version": "16.14", "databases": databases},
            "redis": {
                "summary": {
                    "redis": "7.0.15",
                    "keys db0 5 expiring": "1",
                    "keys db3 2 expiring": "0",
                }
            },
        }
    }
    copied = {
        "superuser": "admin",
        "resorted": [{"name": "shop", "sorted_by": "de_DE.utf8", "now": "C.UTF-8"}],
    }
    chosen = {"postgres": volume("db"), "redis": volume("cache", "redis")}
    text = filters.adoption_report(chosen, manifest, copied, "hyvve", "postgres")
    for part in (
        "shop: 2 tables, 10 rows",
        "de_DE.utf8",
        "superuser admin",
        "POSTGRES_DB=shop ./dev up",
        "7 keys",
    ):
        assert part in text


def test_the_table_names_the_command(filters: ModuleType) -> None:
    text = filters.adoption_table([volume("db"), volume("cache", "redis", project_running=["x"])])
    assert "PostgreSQL 16" in text and "./dev adopt shop\n" in text
    assert "docker compose -p shop stop" in text
    assert "No volume" in filters.adoption_table([])
