"""Volumes that an image could not open, each made for real: refused, with the reason and the way."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from stack import NAME, Stack, eventually

DATA = "/var/lib/postgresql/data"
TAGS = "--tags=postgres,redis"
# What an image says of itself is all that differs in these.
IMAGES = {
    "18": "ENV PG_MAJOR=18 PG_VERSION=18.1",
    "debian": "ENV PG_VERSION=16.14-1.pgdg13+1",
    "broken": "RUN printf 'false\\n' > /docker-entrypoint-initdb.d/10-broken.sh",
}


@pytest.fixture(scope="session")
def images(stack: Stack) -> Iterator[dict[str, str]]:
    """Images derived from the PostgreSQL in use, by name."""
    base = stack.inspect("postgres")["Config"]["Image"]
    made = {}
    for name, line in IMAGES.items():
        made[name] = f"dev-stack-test/guard:{name}"
        dockerfile = io.BytesIO(f"FROM {base}\n{line}\n".encode())
        list(stack.client.build(fileobj=dockerfile, tag=made[name], rm=True))
    yield made
    for tag in made.values():
        stack.client.remove_image(tag, force=True)


@contextmanager
def untouched(stack: Stack) -> Iterator[None]:
    """Whatever the run says, the containers are the same ones and were not restarted."""

    def state() -> dict[str, Any]:
        found = {s: stack.inspect(s) for s in stack.services()}
        parts = {s: (d["Id"], d["State"]) for s, d in found.items()}
        return {s: (i, state["StartedAt"], state["Status"]) for s, (i, state) in parts.items()}

    before, volumes = state(), stack.volumes()
    yield
    assert state() == before
    assert stack.volumes() == volumes
    # Nor is anything left of the look.
    own = {"label": [f"dev-stack.stack={NAME}", "dev-stack.job=look"]}
    assert stack.client.containers(all=True, filters=own) == []


def with_postgres(stack: Stack, image: str) -> str:
    """The option that puts another image in PostgreSQL's place; the others stay as they are."""
    own = {s: stack.inspect(s)["Config"]["Image"] for s in stack.services()}
    chosen = {
        "redis": "redis:7-alpine",
        "pgadmin": "dpage/pgadmin4:9.18",
        "python": "python:3.12-slim",
    }
    images = chosen | own | {"postgres": image}
    return "-e" + json.dumps({"image_source": "registry", "registry_images": images})


def refused(stack: Stack, *options: str) -> list[str]:
    """The lines with which a run is refused."""
    with untouched(stack):
        result = stack.play("dev", TAGS, *options)
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert "changed:" not in result.stdout
    assert result.stderr.startswith("Error: ")
    lines = result.stderr.removeprefix("Error: ").splitlines()
    return [line.strip() for line in lines if line.strip()]


@contextmanager
def stopped(stack: Stack, service: str) -> Iterator[str]:
    """A service's container, stopped while the files on its volume are changed."""
    container = f"{stack.name}_{service}"
    stack.client.stop(container, timeout=60)
    yield container
    stack.client.start(container)
    eventually(lambda: stack.inspect(service)["State"]["Health"]["Status"] == "healthy")


def read(stack: Stack, container: str, path: str) -> bytes:
    """A file's content, through the engine."""
    stream, _ = stack.client.get_archive(container, path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        file = archive.extractfile(archive.getmembers()[0])
        assert file is not None
        return file.read()


def write(stack: Stack, container: str, path: str, content: bytes | None, user: int = 0) -> None:
    """Put a file into a container through the engine, or make it a folder of that name (None)."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(Path(path).name)
        entry.uid = entry.gid = user
        entry.mode = 0o600
        if content is None:
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
        entry.size = len(content or b"")
        tar.addfile(entry, io.BytesIO(content or b""))
    assert stack.client.put_archive(container, str(Path(path).parent), archive.getvalue())


@contextmanager
def holder(stack: Stack, volume: str, image: str, **options: Any) -> Iterator[str]:
    """A container with a volume at PGDATA, removed in the end with what it declared."""
    host = stack.client.create_host_config(binds=[f"{volume}:{DATA}"])
    container = stack.client.create_container(image, host_config=host, **options)["Id"]
    try:
        yield container
    finally:
        stack.client.remove_container(container, force=True, v=True)


# --- major versions, Redis ----------------------------------------------------------------------


def test_an_image_of_a_newer_major_version(stack: Stack, images: dict[str, str]) -> None:
    [line] = refused(stack, with_postgres(stack, images["18"]))
    assert f"{NAME}_postgres_data holds the data of PostgreSQL 16" in line
    assert "./dev upgrade --to 18" in line


def test_a_newer_cluster_and_a_redis_file_that_is_gone(stack: Stack) -> None:
    with stopped(stack, "redis") as redis, stopped(stack, "postgres") as postgres:
        manifest = "/data/appendonlydir/appendonly.aof.manifest"
        version, before = f"{DATA}/PG_VERSION", read(stack, redis, manifest)
        write(stack, postgres, version, b"18\n", user=70)
        lost = before + b"file appendonly.aof.7.incr.aof seq 7 type i\n"
        write(stack, redis, manifest, lost, user=999)
        try:
            first, second = refused(stack)
        finally:
            write(stack, postgres, version, b"16\n", user=70)
            write(stack, redis, manifest, before, user=999)
    assert "holds the data of PostgreSQL 18" in first
    assert "postgres_version back to 18" in first
    assert "appendonly.aof.7.incr.aof, which is missing" in second
    assert "./dev restore latest" in second
    assert "./dev reset redis" in second


def test_a_newer_redis(stack: Stack) -> None:
    with stopped(stack, "redis") as redis:
        base = "/data/appendonlydir/appendonly.aof.1.base.rdb"
        before = read(stack, redis, base)
        assert before.startswith(b"REDIS00")
        write(stack, redis, base, b"REDIS0099" + before[9:], user=999)
        try:
            [line] = refused(stack)
        finally:
            write(stack, redis, base, before, user=999)
    assert "RDB version 99" in line
    assert "image_source=registry" in line


# --- sort orders --------------------------------------------------------------------------------


def test_code_points_sort_alike_everywhere(stack: Stack, images: dict[str, str]) -> None:
    with untouched(stack):
        result = stack.play("dev", TAGS, "--check", with_postgres(stack, images["debian"]))
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Start the container {NAME}_postgres" in result.stdout


def test_a_database_that_another_library_would_sort_differently(
    stack: Stack, images: dict[str, str]
) -> None:
    # Made after the marker was written: the server itself is asked.
    stack.sql("CREATE DATABASE shop TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'")
    stack.sql('CREATE TABLE names (name text COLLATE "sv-x-icu", other text COLLATE "C")')
    [line] = refused(stack, "--check", with_postgres(stack, images["debian"]))
    for words in (
        "database shop (de-DE)",
        "columns with the collation sv-x-icu in hyvve",
        "./dev up -- -e image_source=packages",
        "./dev upgrade --to 16",
    ):
        assert words in line
    assert "postgres (C" not in line


def test_what_it_is_like_is_noted_on_the_way_down(stack: Stack, images: dict[str, str]) -> None:
    option = with_postgres(stack, images["debian"])
    assert stack.play("down", TAGS).returncode == 0
    [line] = refused(stack, option)
    assert "database shop (de-DE)" in line
    assert stack.services() == []
    # A run that was killed in the middle of a look leaves its container, which is in nobody's way.
    left = stack.client.create_container(
        images["18"], labels={"dev-stack.stack": stack.name, "dev-stack.job": "look"}
    )
    stack.converge(TAGS)
    assert stack.sql("SELECT count(*) FROM pg_database WHERE datname = 'shop'") == "1"
    stack.client.remove_container(left["Id"], v=True)


# --- what was never finished --------------------------------------------------------------------


def fresh(stack: Stack) -> str:
    """Put an empty volume in the place of PostgreSQL's, with the labels that the role gave it."""
    volume = f"{stack.name}_postgres_data"
    stack.client.remove_container(f"{stack.name}_postgres", force=True, v=True)
    labels = stack.client.inspect_volume(volume)["Labels"]
    stack.client.remove_volume(volume)
    stack.client.create_volume(volume, labels=labels)
    return volume


def test_an_initialisation_that_was_killed(stack: Stack) -> None:
    image = stack.inspect("postgres")["Config"]["Image"]
    volume = fresh(stack)
    password = {"POSTGRES_PASSWORD": "x"}
    with holder(stack, volume, image, environment=password) as container:
        stack.client.start(container)
        eventually(lambda: read(stack, container, f"{DATA}/PG_VERSION") == b"16\n")
        stack.client.kill(container)
    [line] = refused(stack)
    assert "holds a half-made PostgreSQL cluster" in line
    assert "dev-stack.json" in line
    assert "./dev reset postgres" in line
    assert "postgres" not in stack.services()
    # The command that it names.
    result = stack.play("reset", "--tags=postgres", "-ereset_confirmed=true", "-ereset_backup=no")
    assert result.returncode == 0, result.stdout + result.stderr
    assert stack.sql("SELECT 1") == "1"


def test_a_run_that_was_interrupted_is_completed_by_the_next(stack: Stack) -> None:
    found = stack.inspect("postgres")
    fresh(stack)
    # A container as the role made it, as if the run had been killed the moment it was started.
    host = stack.client.create_host_config(mounts=found["HostConfig"]["Mounts"])
    name = found["Name"].lstrip("/")
    stack.client.create_container(
        found["Config"]["Image"],
        name=name,
        host_config=host,
        environment=[one for one in found["Config"]["Env"] if one.startswith("POSTGRES_")],
        labels=found["Config"]["Labels"],
    )
    stack.client.start(name)
    stack.converge("--tags=postgres")
    assert stack.inspect("postgres")["Id"] != found["Id"]
    assert "databases" in json.loads(stack.exec("postgres", "cat", f"{DATA}/dev-stack.json"))


def test_an_init_script_that_failed(stack: Stack, images: dict[str, str]) -> None:
    option = with_postgres(stack, images["broken"])
    fresh(stack)
    first = stack.play("dev", "--tags=postgres", option)
    assert first.returncode != 0
    # Docker has started it again, and it serves as if nothing had been.
    eventually(lambda: stack.sql("SELECT 1") == "1")
    [line] = refused(stack, option)
    assert "half-made" in line
    assert "./dev reset postgres" in line


# --- pgAdmin ------------------------------------------------------------------------------------


def test_settings_of_a_newer_pgadmin(stack: Stack, tmp_path: Path) -> None:
    database = tmp_path / "pgadmin4.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE version (name TEXT, value INT)")
        connection.execute("INSERT INTO version VALUES ('ConfigDB', 9999)")
    image = stack.inspect("postgres")["Config"]["Image"]
    volume = f"{NAME}_pgadmin_data"
    labels = stack.client.inspect_volume(f"{NAME}_postgres_data")["Labels"]
    labels = {k: v for k, v in labels.items() if k != "dev-stack.marked"}
    stack.client.create_volume(volume, labels=labels | {"dev-stack.service": "pgadmin"})
    try:
        with holder(stack, volume, image) as container:
            write(stack, container, f"{DATA}/pgadmin4.db", database.read_bytes())
        with untouched(stack):
            result = stack.play("dev", "--tags=pgadmin")
        assert result.returncode != 0
        assert "settings of a newer pgAdmin (schema 9999)" in result.stderr
        assert "./dev reset pgadmin" in result.stderr
    finally:
        stack.client.remove_volume(volume)
