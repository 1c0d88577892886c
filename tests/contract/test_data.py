"""The data guard: what is read from a volume, and what an image must not be given."""

import io
import json
import sqlite3
import struct
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .project import ROOT, read_yaml

ROOTS = "/v"
MARKED = {"dev-stack.marked": "true", "dev-stack.image-source": "packages"}
LEGACY = {"dev-stack.image-source": "packages"}
CONTROL = struct.pack("<QIII", 77, 1300, 202307071, 6) + bytes(48)


class Answer:
    """What the engine answers: a status, headers, and a stream."""

    def __init__(self, status_code: int, content: bytes = b"", headers: Any = None) -> None:
        self.status_code, self.headers, self.raw = status_code, headers or {}, io.BytesIO(content)

    def raise_for_status(self) -> None:
        assert self.status_code < 400

    def close(self) -> None:
        pass


class Engine:
    """An engine's archive API over a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _url(self, path: str, *values: str) -> str:
        return path.format(*values)

    def _path(self, params: dict[str, str]) -> Path:
        return self.folder / params["path"].lstrip("/")

    def head(self, url: str, params: dict[str, str]) -> Answer:
        import base64

        path = self._path(params)
        if not path.exists():
            return Answer(404)
        stat = json.dumps({"name": path.name, "size": path.stat().st_size}).encode()
        header = {"X-Docker-Container-Path-Stat": base64.b64encode(stat).decode()}
        return Answer(200, headers=header)

    def get(self, url: str, params: dict[str, str], **_: Any) -> Answer:
        path = self._path(params)
        if not path.exists():
            return Answer(404)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(path, arcname=path.name)
        return Answer(200, archive.getvalue())


Tree = dict[str, bytes]


@pytest.fixture
def put(tmp_path: Path, volume_info: ModuleType) -> Any:
    """Write files below the volume's root; what the module then reads by."""

    def write(files: Tree) -> Any:
        (tmp_path / "v").mkdir()
        for name, content in files.items():
            path = tmp_path / "v" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return volume_info.Files(Engine(tmp_path), "container")

    return write


def cluster(*without: str, below: str = "", major: str = "16", marker: Any = None) -> Tree:
    """The files of a cluster that matter."""
    files = {
        "PG_VERSION": f"{major}\n".encode(),
        "base/1/PG_VERSION": f"{major}\n".encode(),
        "global/pg_control": CONTROL,
        "postgresql.conf": b"#\n",
    }
    if marker is not None:
        files["dev-stack.json"] = json.dumps(marker).encode()
    return {below + name: text for name, text in files.items() if name not in without}


# --- PostgreSQL's volume --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "labels", "complete", "lacking"),
    [
        (cluster(marker={"complete": True}), MARKED, True, []),
        (cluster(), MARKED, False, ["dev-stack.json"]),
        # Volumes of old, or loaded from a backup, were promised no marker.
        (cluster(), LEGACY, None, []),
        (cluster(), MARKED | {"dev-stack.made-by": "restore"}, None, []),
        (cluster("global/pg_control"), LEGACY, False, ["global/pg_control"]),
        (cluster("postgresql.conf"), LEGACY, False, ["postgresql.conf"]),
        (cluster("PG_VERSION"), MARKED, False, ["PG_VERSION", "dev-stack.json"]),
        (cluster("PG_VERSION"), LEGACY, False, ["PG_VERSION"]),
        (
            {"global/pg_control": b"", **cluster("global/pg_control")},
            LEGACY,
            False,
            ["global/pg_control"],
        ),
        ({}, MARKED, None, []),
    ],
)
def test_whether_a_cluster_is_whole(
    volume_info: ModuleType,
    put: Any,
    files: Tree,
    labels: dict[str, str],
    complete: bool | None,
    lacking: list[str],
) -> None:
    facts = volume_info.postgres_facts(put(files), ROOTS, labels, "16")
    assert (facts["complete"], facts["lacking"]) == (complete, lacking)
    assert facts["empty"] is (files == {})


@pytest.mark.parametrize("image", ["16", "17", "18"])
def test_a_cluster_is_found_in_either_place(volume_info: ModuleType, put: Any, image: str) -> None:
    files = put(cluster(below="18/docker/", major="18", marker={"family": "alpine"}))
    facts = volume_info.postgres_facts(files, ROOTS, MARKED, image)
    assert (facts["major"], facts["complete"]) == ("18", True)
    assert facts["marker"] == {"family": "alpine"}
    assert facts["control"] == {"state": "in production", "system_identifier": "77"}


def test_a_marker_that_cannot_be_read_was_written_all_the_same(
    volume_info: ModuleType, put: Any
) -> None:
    files = put({**cluster(), "dev-stack.json": b""})
    facts = volume_info.postgres_facts(files, ROOTS, MARKED, "16")
    assert (facts["marker"], facts["complete"]) == ({}, True)


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"\xff" * 8192, CONTROL[:20]])
def test_what_is_no_pg_control(volume_info: ModuleType, content: bytes) -> None:
    assert volume_info.control_facts(content) is None


def test_pg_control_of_another_byte_order(volume_info: ModuleType) -> None:
    control = struct.pack(">QIII", 77, 1800, 202506291, 1) + bytes(48)
    assert volume_info.control_facts(control)["state"] == "shut down"


# --- Redis's volume -----------------------------------------------------------------------------

MANIFEST = (
    b"file appendonly.aof.2.base.rdb seq 2 type b\n"
    b"file appendonly.aof.1.incr.aof seq 1 type h\n"
    b"file appendonly.aof.2.incr.aof seq 2 type i\n"
)
AOF = {
    "appendonlydir/appendonly.aof.manifest": MANIFEST,
    "appendonlydir/appendonly.aof.2.base.rdb": b"REDIS0010\xfa...",
    "appendonlydir/appendonly.aof.2.incr.aof": b"*1\r\n",
}


def without(files: Tree, name: str) -> Tree:
    return {path: text for path, text in files.items() if not path.endswith(name)}


@pytest.mark.parametrize(
    ("files", "readable", "missing", "base"),
    [
        (AOF, True, [], 10),  # what is history may be gone
        (without(AOF, "2.incr.aof"), True, ["appendonly.aof.2.incr.aof"], 10),
        (without(AOF, "base.rdb"), True, ["appendonly.aof.2.base.rdb"], None),
        (AOF | {"appendonlydir/appendonly.aof.2.base.rdb": b"*2\r\n$6\r\n"}, True, [], None),
    ],
)
def test_append_only_file(
    volume_info: ModuleType,
    put: Any,
    files: Tree,
    readable: bool,
    missing: list[str],
    base: int | None,
) -> None:
    aof = volume_info.redis_facts(put(files), ROOTS)["aof"]
    assert (aof["readable"], aof["missing"], aof["base_rdb"]) == (readable, missing, base)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\0\0\0\0",
        b"file a seq 1",
        b"file a seq x type b",
        b"file a seq 1 type z",
        b"file a seq",
    ],
)
def test_a_manifest_that_cannot_be_read(volume_info: ModuleType, put: Any, manifest: bytes) -> None:
    files = put(AOF | {"appendonlydir/appendonly.aof.manifest": manifest})
    assert volume_info.redis_facts(files, ROOTS)["aof"]["readable"] is False


def test_files_without_a_manifest_are_not_taken_for_none(volume_info: ModuleType, put: Any) -> None:
    files = put(without(AOF, ".manifest"))
    assert volume_info.redis_facts(files, ROOTS)["aof"]["readable"] is False


def test_a_name_in_quotes(volume_info: ModuleType) -> None:
    listed = volume_info.manifest_files('file "with space.rdb" seq 1 type b\n')
    assert listed == [{"file": "with space.rdb", "type": "b"}]


def test_a_snapshot_tells_its_version(volume_info: ModuleType, put: Any) -> None:
    facts = volume_info.redis_facts(put({"dump.rdb": b"REDIS0012\xfa\x09redis-ver"}), ROOTS)
    assert (facts["rdb"], facts["aof"], facts["foreign"]) == (12, None, None)


# --- pgAdmin's volume, images -------------------------------------------------------------------


def test_pgadmin_s_schema(volume_info: ModuleType, put: Any, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "made")) as connection, connection:
        connection.execute("CREATE TABLE version (name TEXT, value INT)")
        connection.execute("INSERT INTO version VALUES ('ConfigDB', 48)")
    files = put({"pgadmin4.db": (tmp_path / "made").read_bytes()})
    assert volume_info.pgadmin_facts(files, ROOTS)["schema"] == 48
    assert volume_info.schema_version(b"no database") is None


@pytest.mark.parametrize(
    ("env", "labels", "expected"),
    [
        (["PG_MAJOR=16", "PG_VERSION=16.10"], {}, ("16", "alpine", None)),
        (["PG_MAJOR=16", "PG_VERSION=16.14"], {"dev-stack.built-from": "packages"}, ("16", "packages", None)),
        (["PG_MAJOR=17", "PG_VERSION=17.6-1.pgdg13+1"], {}, ("17", "debian 13", None)),
        (["PG_MAJOR=16", "PG_VERSION=16.3-1.pgdg120+1"], {}, ("16", "debian 12", None)),
        (["REDIS_VERSION=7.0.15"], {}, (None, None, "7.0.15")),
        (
            ["REDIS_DOWNLOAD_URL=https://example.com/redis/archive/refs/tags/7.4.6.tar.gz"],
            {},
            (None, None, "7.4.6"),
        ),
        ([], {}, (None, None, None)),
    ],
)  # fmt: skip
def test_what_an_image_says_of_itself(
    volume_info: ModuleType, env: list[str], labels: dict[str, str], expected: Any
) -> None:
    facts = volume_info.image_facts({"Env": env, "Labels": labels})
    assert (facts["major"], facts["family"], facts["redis"]) == expected


class Recorder:
    """An engine that makes and removes containers, and fails where it is told to."""

    def __init__(self, folder: Path, containers: list[dict[str, Any]]) -> None:
        self.archive = Engine(folder)
        self.there = containers
        self.removed: list[tuple[str, bool]] = []
        self.made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.archive, name)

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return self.there

    def inspect_image(self, _: str) -> dict[str, Any]:
        return {"Config": {"Env": ["REDIS_VERSION=7.0.15"]}}

    def create_host_config(self, **options: Any) -> dict[str, Any]:
        return options

    def create_container(self, image: str, **options: Any) -> dict[str, str]:
        self.made = options
        return {"Id": "helper"}

    def remove_container(self, container: str, v: bool, force: bool) -> None:
        self.removed.append((container, v))


@contextmanager
def raising(broken: bool) -> Iterator[None]:
    if broken:
        with pytest.raises(AssertionError):
            yield
    else:
        yield


@pytest.mark.parametrize("broken", [False, True])
def test_the_container_of_a_look_is_removed(
    volume_info: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    import time

    now = time.time()
    left = [{"Id": "old", "Created": now - 3600}, {"Id": "another run's", "Created": now - 1}]
    engine = Recorder(tmp_path, left)
    if broken:
        monkeypatch.setattr(engine.archive, "get", lambda *_, **__: Answer(500))
    options = {"stack": "s", "run": "", "volumes": {"redis": "v"}, "images": {"redis": "redis:7"}}
    with raising(broken):
        found = volume_info.look(engine, options)
        assert found["volumes"]["redis"]["empty"] is True
    assert engine.removed == [("old", True), ("helper", True)]
    [mount] = engine.made["host_config"]["mounts"]
    assert (mount["ReadOnly"], mount["VolumeOptions"]["NoCopy"]) == (True, True)
    assert engine.made["labels"]["dev-stack.stack"] == "s"
    assert engine.made["labels"]["dev-stack.job"] == "look"
    assert "dev-stack.service" not in engine.made["labels"]


# --- which volumes are looked at ----------------------------------------------------------------

VOLUMES = {"postgres": "s_postgres_data", "redis": "s_redis_data"}
PLAN = {name: {"source": "registry", "reference": f"{name}:16"} for name in VOLUMES}
HEALTHY = {
    "health": "healthy",
    "image": "postgres:16",
    "volume": "s_postgres_data",
    "drift": [],
    "found": "as it is now",
}


@pytest.mark.parametrize(
    ("change", "looked_at"),
    [
        ({}, False),
        ({"drift": ["network"]}, False),
        ({"drift": ["image"]}, True),
        ({"image": "postgres:17"}, True),
        ({"health": "unhealthy"}, True),
        ({"health": None}, True),
        ({"volume": "s_postgres_data_2"}, True),
        ({"health": None, "found": "right"}, True),  # files may have changed since
    ],
)
def test_what_a_healthy_container_proves_is_not_looked_at(
    filters: ModuleType, change: dict[str, Any], looked_at: bool
) -> None:
    observed = {
        "services": {"postgres": HEALTHY | change},
        "volumes": {"s_postgres_data": {}},
        "remembered": {"postgres": {"description": "wanted", "found": "right"}},
    }
    found = filters.volumes_to_look_at(["postgres", "redis"], PLAN, observed, VOLUMES)
    assert found == ({"postgres": "s_postgres_data"} if looked_at else {})


def test_only_services_of_the_run_are_looked_at(filters: ModuleType) -> None:
    volumes: dict[str, Any] = {name: {} for name in VOLUMES.values()}
    observed = {"services": {}, "volumes": volumes}
    assert filters.volumes_to_look_at(["redis"], PLAN, observed, VOLUMES) == {
        "redis": "s_redis_data"
    }
    assert filters.volumes_to_look_at([], {}, observed, VOLUMES) == {}


# --- what is refused ----------------------------------------------------------------------------


def database(name: str, provider: str = "c", locale: str = "C.UTF-8") -> dict[str, Any]:
    return {"name": name, "provider": provider, "locale": locale}


PLAIN = {"family": "alpine", "databases": [database("hyvve")], "collations": []}
OFFICIAL = {"family": "alpine", "databases": [database("hyvve", locale="en_US.utf8")]}
ICU = {"family": "alpine", "databases": [database("shop", "i", "de-DE")], "collations": []}
COLUMN = PLAIN | {
    "collations": [{"database": "hyvve", "name": "sv-x-icu", "provider": "i", "locale": "sv"}]
}
BUILTIN = {"family": "alpine", "databases": [database("hyvve", "b", "C.UTF-8")]}
GOOD = {
    "empty": False,
    "first": "PG_VERSION",
    "major": "16",
    "uid": 70,
    "made_with": "registry",
    "control": {"state": "shut down"},
    "marker": PLAIN,
    "lacking": [],
    "complete": True,
}


def postgres(
    filters: ModuleType,
    change: dict[str, Any],
    family: str = "alpine",
    major: str = "16",
    asked: Any = None,
) -> list[str]:
    look = {
        "volumes": {"postgres": GOOD | change},
        "images": {"postgres": {"major": major, "family": family, "redis": None}},
    }
    lines = filters.unsafe_data(look, asked or {}, {"postgres": "s_postgres_data"}, PLAN)
    assert all("s_postgres_data" in line for line in lines)
    return list(lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"major": "15"}, ["PostgreSQL 15", "./dev upgrade --to 16"]),
        ({"major": "18"}, ["PostgreSQL 18", "postgres_version back to 18", "--rollback"]),
        ({"major": "x"}, ["'x'", "./dev restore latest"]),
        ({"complete": False, "lacking": ["dev-stack.json"]}, ["half-made", "./dev reset postgres"]),
        (
            {"complete": False, "lacking": ["PG_VERSION", "dev-stack.json"], "major": None},
            ["half-made", "never in use", "./dev reset postgres"],
        ),
        (
            {"complete": False, "lacking": ["global/pg_control"]},
            ["incomplete", "global/pg_control is missing", "./dev restore latest"],
        ),
        (
            {"complete": None, "lacking": ["PG_VERSION"], "major": None, "first": "dump.rdb"},
            ["something else", "dump.rdb", "./dev reset postgres"],
        ),
    ],
)
def test_a_cluster_that_cannot_be_opened(
    filters: ModuleType, change: dict[str, Any], words: list[str]
) -> None:
    [line] = postgres(filters, change)
    assert [word for word in words if word not in line] == []


def test_nothing_of_value_is_only_said_of_what_was_never_used(filters: ModuleType) -> None:
    [line] = postgres(filters, {"complete": False, "lacking": ["postgresql.conf"]})
    assert "nothing of value" not in line
    [line] = postgres(filters, {"complete": False, "lacking": ["dev-stack.json"]})
    assert "nothing of value" in line


@pytest.mark.parametrize("change", [{}, {"empty": True, "major": None}, {"complete": None}])
def test_a_cluster_that_can_be_opened(filters: ModuleType, change: dict[str, Any]) -> None:
    assert postgres(filters, change) == []


def test_a_first_initialisation_is_waited_for(filters: ModuleType) -> None:
    change = {"complete": False, "lacking": ["dev-stack.json"]}
    [line] = postgres(filters, change, asked={"rc": 1, "stdout": ""})
    assert "still initialising" in line
    assert "reset" not in line


@pytest.mark.parametrize(
    ("marker", "family", "differs"),
    [
        (PLAIN, "alpine", []),
        (PLAIN, "packages", []),
        (PLAIN, "debian 13", []),
        # All locales of Alpine's C library sort by code point; so does en_US.utf8 as built here.
        (OFFICIAL, "alpine", []),
        (OFFICIAL, "packages", []),
        (OFFICIAL, "debian 12", ["database hyvve (en_US.utf8)"]),
        (OFFICIAL | {"family": "packages"}, "debian 12", ["database hyvve"]),
        (OFFICIAL | {"family": "debian 12"}, "alpine", ["database hyvve"]),
        (OFFICIAL | {"family": "debian 12"}, "debian 13", ["database hyvve", "registry_images"]),
        (OFFICIAL | {"family": "debian 12"}, "debian 12", []),
        (ICU, "alpine", []),
        (ICU, "packages", ["database shop (de-DE)", "image_source=registry", "upgrade --to 16"]),
        (COLUMN, "packages", ["columns with the collation sv-x-icu in hyvve"]),
        (BUILTIN, "debian 13", []),
    ],
)
def test_what_would_sort_differently(
    filters: ModuleType, marker: dict[str, Any], family: str, differs: list[str]
) -> None:
    lines = postgres(filters, {"marker": marker}, family)
    assert len(lines) == bool(differs)
    assert [word for word in differs if word not in lines[0]] == []


def test_the_server_knows_more_than_the_marker(filters: ModuleType) -> None:
    asked = {"rc": 0, "stdout": json.dumps(ICU)}
    assert "database shop" in postgres(filters, {}, "packages", asked=asked)[0]
    # One that could not be asked leaves the marker.
    for stdout in ("", "psql: error"):
        said = {"rc": 2, "stdout": stdout}
        assert postgres(filters, {"marker": ICU}, "packages", asked=said) != []


@pytest.mark.parametrize("marker", [None, {}, {"complete": True}])
@pytest.mark.parametrize(
    ("made_with", "uid", "family", "source"),
    [
        ("registry", 70, "alpine", None),
        ("registry", 70, "packages", "registry"),
        ("packages", 70, "alpine", "packages"),
        ("packages", 70, "packages", None),
        ("registry", 999, "alpine", "registry"),
        ("registry", 999, "debian 13", None),
        # Nobody knows who made it.
        (None, 70, "packages", None),
    ],
)
def test_without_a_note_only_another_family_is_refused(
    filters: ModuleType,
    marker: Any,
    made_with: str | None,
    uid: int,
    family: str,
    source: str | None,
) -> None:
    change = {"marker": marker, "made_with": made_with, "uid": uid}
    lines = postgres(filters, change, family)
    assert len(lines) == bool(source)
    assert all(f"./dev up -- -e image_source={source}" in line for line in lines)


GOOD_REDIS: dict[str, Any] = {"empty": False, "foreign": None, "rdb": None, "aof": None}


def aof(**change: Any) -> dict[str, Any]:
    return {"aof": {"readable": True, "files": [], "missing": [], "base_rdb": 10} | change}


@pytest.mark.parametrize(
    ("change", "version", "words"),
    [
        ({}, "7.0.15", None),
        ({"empty": True}, "7.0.15", None),
        (aof(), "7.0.15", None),
        (aof(base_rdb=11), "7.0.15", ["RDB version 11", "up to 10", "image_source=registry"]),
        (aof(base_rdb=11), "7.2.4", None),
        (aof(base_rdb=12), "7.2.4", ["RDB version 12"]),
        (aof(base_rdb=12), "7.4.6", None),
        ({"rdb": 12}, "7.0.15", ["RDB version 12", "./dev reset redis"]),
        # What is not read decides nothing, nor does a Redis that is not known.
        (aof() | {"rdb": 99}, "7.0.15", None),
        ({"rdb": 99}, None, None),
        ({"rdb": 99}, "9.1.0", None),
        (aof(missing=["a.rdb"]), "7.0.15", ["a.rdb, which is missing", "./dev restore latest"]),
        (aof(readable=False), "7.0.15", ["manifest", "./dev restore latest", "./dev reset redis"]),
        ({"foreign": "PG_VERSION"}, "7.0.15", ["something else", "./dev reset redis"]),
    ],
)
def test_redis_s_volume(
    filters: ModuleType, change: dict[str, Any], version: str | None, words: list[str] | None
) -> None:
    look = {"volumes": {"redis": GOOD_REDIS | change}, "images": {"redis": {"redis": version}}}
    lines = filters.unsafe_data(look, {}, {"redis": "s_redis_data"}, PLAN)
    assert len(lines) == (words is not None)
    assert [word for word in words or [] if word not in lines[0]] == []


@pytest.mark.parametrize(
    ("schema", "knows", "refused"), [(52, 52, 0), (48, 52, 0), (53, 52, 1), (None, 52, 0), (53, None, 0)]
)  # fmt: skip
def test_pgadmin_s_volume(
    filters: ModuleType, schema: int | None, knows: int | None, refused: int
) -> None:
    look = {
        "volumes": {"pgadmin": {"empty": False, "foreign": None, "schema": schema}},
        "images": {"pgadmin": {"schema": knows}},
    }
    plan = {"pgadmin": {"reference": "dpage/pgadmin4:9.18"}}
    lines = filters.unsafe_data(look, {}, {"pgadmin": "s_pgadmin_data"}, plan)
    assert len(lines) == refused
    assert all("./dev reset pgadmin" in line for line in lines)


# --- how it is wired ----------------------------------------------------------------------------


def test_the_guard_comes_after_the_images_and_before_any_container() -> None:
    """Where the stack is brought up, the task that follows the images reads the volumes."""
    for path in sorted((ROOT / "playbooks").rglob("*.yml")):
        document = read_yaml(str(path.relative_to(ROOT)))
        entries = [task for play in document for task in play.get("tasks", [play])]
        roles = [(one.get("ansible.builtin.include_role") or {}).get("name") for one in entries]
        if "images" in roles and "network" in roles:
            then = entries[roles.index("images") + 1]
            assert str(then.get("ansible.builtin.include_tasks")).endswith("data.yml")
            return
    pytest.fail("no playbook brings the stack up")


def test_the_last_init_script_writes_what_the_health_check_wants() -> None:
    present = (ROOT / "roles/postgres/tasks/start.yml").read_text(encoding="utf-8")
    assert "/docker-entrypoint-initdb.d/zzz-" in present
    script = (ROOT / "roles/postgres/files/initialised.sh").read_text(encoding="utf-8")
    assert '"$PGDATA/dev-stack.json"' in script
    check = read_yaml("roles/postgres/vars/main.yml")["__postgres_healthcheck"]["test"][1]
    assert '"$PGDATA/dev-stack.json"' in check
