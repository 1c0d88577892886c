"""The contract of the official postgres:16, :17 and :18 images (Alpine variant)."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import HARDENED, Box, environment_of, find_image, wait_until

IMAGE = "postgres"
MAJORS = ("16", "17", "18")
PARENT = "/var/lib/postgresql"
PASSWORD = "trial pass'word"
INIT = "/docker-entrypoint-initdb.d"
# INSERTs take their turn in one table; the last file of all counts them.
STEP = "INSERT INTO step (name) VALUES ('{}');\n"
ENVIRONMENT = {"POSTGRES_PASSWORD": "x"}
NO_SYNC = {"POSTGRES_PASSWORD": "x", "POSTGRES_INITDB_ARGS": "--no-sync"}


def query(
    box: Box, sql: str, user: str = "postgres", database: str = "postgres", *options: str
) -> str:
    return box.ok(
        "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, *options, "-c", sql
    )


def ready(box: Box, user: str = "postgres") -> Box:
    """Wait until the real server answers (the temporary one has no TCP)."""
    wait_until(
        lambda: (
            box.running()
            and box.run(
                "psql", "-XAtq", "-h", "127.0.0.1", "-U", user, "-d", "postgres", "-c", "SELECT 1"
            )[1]
            == "1"
        ),
        what="SELECT 1",
    )
    return box


def zstd(text: str) -> bytes:
    # One frame with one raw block: a valid file without a library for it.
    data = text.encode()
    assert len(data) < 256
    header = b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)])
    return header + (len(data) << 3 | 1).to_bytes(3, "little") + data


@pytest.fixture(scope="module", params=MAJORS)
def image(request: pytest.FixtureRequest, engine):
    """The image of each major."""
    return find_image(engine, IMAGE, request.param)


@pytest.fixture(scope="module")
def major(image) -> int:
    return int(environment_of(image)["PG_MAJOR"])


@pytest.fixture(scope="module")
def data(major: int) -> str:
    """Where the image keeps its data."""
    return f"{PARENT}/data" if major < 18 else f"{PARENT}/{major}/docker"


@pytest.fixture(scope="module")
def mount(major: int) -> str:
    """Where a volume for it belongs."""
    return f"{PARENT}/data" if major < 18 else PARENT


@pytest.fixture(scope="module")
def volume_of_server(module_volume, image) -> str:
    """One for each image."""
    return module_volume()


@pytest.fixture(scope="module")
def server(module_box, image, volume_of_server: str, mount: str) -> Box:
    """A server as a service runs it, with every kind of init file."""
    psql = 'psql -XAtq -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB"'
    files = {
        "/run/secret": (PASSWORD + "\n", 0o600, 0),
        f"{INIT}/10-sourced.sh": (
            f"sourced=1\n{psql} -c 'CREATE TABLE step (id serial, name text)' -c \"{STEP.format('sourced')}\"\n",
            0o644,
            0,
        ),
        f"{INIT}/20.sql": (STEP.format("sql"), 0o644, 0),
        f"{INIT}/30.sql.gz": (gzip.compress(STEP.format("gz").encode()), 0o644, 0),
        f"{INIT}/40.sql.xz": (lzma.compress(STEP.format("xz").encode()), 0o644, 0),
        f"{INIT}/50.sql.zst": (zstd(STEP.format("zst")), 0o644, 0),
        f"{INIT}/60-executed.sh": (
            "#!/bin/sh\nset -eu\n"
            "if pg_isready -q -h 127.0.0.1; then tcp=tcp; else tcp=no-tcp; fi\n"
            f'{psql} -c "{STEP.format("executed")}" -c "INSERT INTO step (name) VALUES (\'$tcp\')"\n',
            0o755,
            0,
        ),
        f"{INIT}/70-notes.txt": ("ignored\n", 0o644, 0),
    }
    return ready(
        module_box(
            image,
            ["-c", "max_connections=42", "-c", "cluster_name=trial"],
            files=files,
            environment={
                "POSTGRES_PASSWORD_FILE": "/run/secret",
                "POSTGRES_USER": "owner",
                "POSTGRES_DB": "hyvve",
                "POSTGRES_INITDB_ARGS": "--data-checksums --locale-provider=icu --icu-locale='en-US' --no-sync",
            },
            volumes={volume_of_server: {"bind": mount, "mode": "rw"}},
            shm_size="96m",
            **HARDENED,
        ),
        "owner",
    )


def test_image_configuration(image, major: int, data: str, mount: str) -> None:
    config = image.attrs["Config"]
    env = environment_of(image)
    assert config["Cmd"] == ["postgres"]
    assert config["StopSignal"] == "SIGINT"
    assert list(config["Volumes"]) == [mount] and env["PGDATA"] == data
    assert "5432/tcp" in config["ExposedPorts"]
    assert env["PG_VERSION"].startswith(f"{major}.") and env["LANG"] == "en_US.utf8"
    assert not config.get("User") and not config.get("Healthcheck")


def test_programs(server: Box, image, major: int) -> None:
    version = query(server, "SHOW server_version", "owner").split()[0]
    assert version == environment_of(image)["PG_VERSION"]
    for program in ("postgres", "initdb", "pg_ctl"):
        assert f" {version}" in server.ok(program, "--version")
    # Built from packages, 17 has the client programs of 18.
    borrowed = major == 17 and "dev-stack.built-from" in image.labels
    for program in [
        "psql",
        "pg_dump",
        "pg_dumpall",
        "pg_restore",
        "pg_isready",
        "pg_basebackup",
        "pg_amcheck",
        "pgbench",
        "createdb",
        "createuser",
        "dropdb",
        "reindexdb",
        "vacuumdb",
    ]:
        assert f" {'18.' if borrowed else version}" in server.ok(program, "--version")
    # These can do nothing with a cluster of another major, and are left out then.
    for program in ("pg_controldata", "pg_checksums", "pg_resetwal", "pg_waldump"):
        code, output = server.run("sh", "-c", f"command -v {program} && {program} --version")
        assert code == 127 if borrowed else f" {version}" in output


def test_user_and_rights(server: Box, data: str) -> None:
    assert server.ok("sh", "-c", "id -u postgres; id -g postgres").split() == ["70", "70"]
    assert server.ok("stat", "-c", "%u:%a", data) == "70:700"
    status = server.ok("cat", "/proc/1/status")
    assert "Uid:\t70\t70\t70\t70" in status and "Gid:\t70\t70\t70\t70" in status
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status


def test_init_files_ran_in_order_without_tcp(server: Box) -> None:
    steps = query(server, "SELECT string_agg(name, ' ' ORDER BY id) FROM step", "owner", "hyvve")
    assert steps == "sourced sql gz xz zst executed no-tcp"


def test_owner_and_database(server: Box) -> None:
    assert query(server, "SELECT rolname FROM pg_roles WHERE rolsuper", "owner") == "owner"
    assert query(server, "SELECT count(*) FROM pg_database WHERE datname = 'hyvve'", "owner") == "1"


def test_initdb_arguments(server: Box, major: int) -> None:
    assert query(server, "SHOW data_checksums", "owner") == "on"
    locale = "daticulocale" if major < 17 else "datlocale"
    row = f"SELECT datlocprovider, {locale}, datcollate FROM pg_database WHERE datname = 'hyvve'"
    assert query(server, row, "owner") == "i|en-US|en_US.utf8"
    words = "SELECT string_agg(w, ' ' ORDER BY w COLLATE \"und-x-icu\") FROM unnest('{Zebra,apple,Éclair}'::text[]) w"
    assert query(server, words, "owner") == "apple Éclair Zebra"


def test_arguments_and_network(server: Box) -> None:
    assert query(server, "SHOW max_connections", "owner") == "42"
    assert query(server, "SHOW listen_addresses", "owner") == "*"
    assert query(server, "SHOW unix_socket_directories", "owner") == "/var/run/postgresql"
    assert query(server, "SHOW password_encryption", "owner") == "scram-sha-256"
    assert server.ok("stat", "-c", "%u", "/var/run/postgresql/.s.PGSQL.5432") == "70"


def test_socket_and_loopback_trust(server: Box) -> None:
    for options in ((), ("-h", "127.0.0.1"), ("-h", "localhost")):
        env = {"PGPASSWORD": "wrong"}
        assert (
            server.ok(
                "psql", "-XAtq", "-U", "owner", "-d", "hyvve", *options, "-c", "SELECT 1", env=env
            )
            == "1"
        )


def test_other_hosts_need_the_password(server: Box, box: Callable[..., Box], image) -> None:
    client = box(image, ["sleep", "600"], init=True)

    def login(password: str) -> tuple[int, str]:
        return client.run(
            "psql",
            "-XAtq",
            "-w",
            "-h",
            server.ip(),
            "-U",
            "owner",
            "-d",
            "hyvve",
            "-c",
            "SELECT 1",
            env={"PGPASSWORD": password},
        )

    assert login(PASSWORD) == (0, "1")
    for wrong in ("wrong", ""):
        code, output = login(wrong)
        assert code == 2 and "password" in output
    hba = query(server, "SELECT auth_method FROM pg_hba_file_rules WHERE address = 'all'", "owner")
    assert hba == "scram-sha-256"


@pytest.mark.built
def test_password_is_not_in_the_server_s_environment(server: Box) -> None:
    assert PASSWORD not in server.ok("cat", "/proc/1/environ", user="70:70")
    assert PASSWORD not in server.ok("sh", "-c", "cat /proc/[0-9]*/cmdline || :")
    assert PASSWORD not in server.logs()


def test_every_extension_can_be_created(server: Box) -> None:
    query(server, "CREATE DATABASE extensions", "owner")
    names = query(server, "SELECT name FROM pg_available_extensions ORDER BY name", "owner").split()
    assert {
        "pgcrypto",
        "pg_trgm",
        "uuid-ossp",
        "citext",
        "hstore",
        "pg_stat_statements",
        "unaccent",
        "xml2",
        "postgres_fdw",
    } <= set(names)
    sql = "".join(f'CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE;' for name in names)
    query(server, sql, "owner", "extensions")
    assert query(server, "SELECT length(crypt('a', gen_salt('bf')))", "owner", "extensions") == "60"
    assert query(server, "SELECT xpath_string('<a>b</a>', '/a')", "owner", "extensions") == "b"


def test_dump_and_restore(server: Box) -> None:
    server.ok("createdb", "-U", "owner", "copy")
    server.ok("pg_dump", "-U", "owner", "-Fc", "-Z", "6", "-f", "/tmp/hyvve.dump", "hyvve")
    server.ok("pg_restore", "-U", "owner", "-d", "copy", "--exit-on-error", "/tmp/hyvve.dump")
    assert query(server, "SELECT count(*) FROM step", "owner", "copy") == "7"
    assert "CREATE ROLE owner" in server.ok("pg_dumpall", "-U", "owner", "--globals-only")
    server.ok("pgbench", "-U", "owner", "-q", "-i", "-s", "1", "copy")
    server.ok("pg_basebackup", "-U", "owner", "-D", "/tmp/base", "-c", "fast")
    server.ok("pg_amcheck", "-U", "owner", "--install-missing", "-d", "copy")


def test_shared_memory_is_as_given(server: Box) -> None:
    assert server.ok("sh", "-c", "df -m --output=size /dev/shm | tail -1") == "96"
    assert query(server, "SHOW dynamic_shared_memory_type", "owner") == "posix"


def test_stops_fast_and_keeps_its_data(
    server: Box, box: Callable[..., Box], volume_of_server: str, image, data: str, mount: str
) -> None:
    """Last with this server: it stops, and another takes over the volume."""
    server.container.exec_run(
        ["psql", "-U", "owner", "-d", "hyvve", "-c", "SELECT pg_sleep(60)"], detach=True
    )
    wait_until(
        lambda: (
            query(
                server,
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'",
                "owner",
            )
            != "0"
        ),
        what="a client",
    )
    start = time.monotonic()
    server.container.stop(timeout=50)
    # A client is at work for a minute: not waited for, and nothing had to be killed.
    assert time.monotonic() - start < 40
    assert server.state()["ExitCode"] == 0
    assert "database system is shut down" in server.logs()

    # The variables do nothing to a cluster that exists, wrong ones neither.
    other = ready(
        box(
            image,
            environment={
                "POSTGRES_USER": "other",
                "POSTGRES_DB": "other",
                "POSTGRES_PASSWORD": "other",
            },
            volumes={volume_of_server: {"bind": mount, "mode": "rw"}},
        ),
        "owner",
    )
    assert "automatic recovery" not in other.logs()
    assert query(other, "SELECT count(*) FROM step", "owner", "hyvve") == "7"
    assert query(other, "SELECT count(*) FROM pg_roles WHERE rolname = 'other'", "owner") == "0"
    other.container.stop(timeout=30)

    # A cluster whose settings say nothing of the socket, as official ones do.
    subject = box(
        image,
        [
            "bash",
            "-c",
            f"sed -i 's/^unix_socket_directories/#&/' {data}/postgresql.conf && exec docker-entrypoint.sh postgres",
        ],
        volumes={volume_of_server: {"bind": mount, "mode": "rw"}},
    )
    ready(subject, "owner")
    assert query(subject, "SHOW unix_socket_directories", "owner") == "/var/run/postgresql"


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no password": ({}, "POSTGRES_PASSWORD"),
    "empty password": ({"POSTGRES_PASSWORD": ""}, "POSTGRES_PASSWORD"),
    "both": (
        {"POSTGRES_PASSWORD": "x", "POSTGRES_PASSWORD_FILE": "/etc/hostname"},
        "POSTGRES_PASSWORD_FILE",
    ),
    "both, user": (
        {**ENVIRONMENT, "POSTGRES_USER": "x", "POSTGRES_USER_FILE": "/etc/hostname"},
        "POSTGRES_USER_FILE",
    ),
    "both, database": (
        {**ENVIRONMENT, "POSTGRES_DB": "x", "POSTGRES_DB_FILE": "/etc/hostname"},
        "POSTGRES_DB_FILE",
    ),
    "both, arguments": (
        {**ENVIRONMENT, "POSTGRES_INITDB_ARGS": "-k", "POSTGRES_INITDB_ARGS_FILE": "/etc/hostname"},
        "POSTGRES_INITDB_ARGS_FILE",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_to_start(case: str, box: Callable[..., Box], image) -> None:
    environment, named = REFUSED[case]
    code, logs = box(image, environment=environment).exit()
    assert code == 1
    assert named in logs


@pytest.mark.built
def test_refuses_an_unreadable_password_file(box: Callable[..., Box], image) -> None:
    code, logs = box(image, environment={"POSTGRES_PASSWORD_FILE": "/nowhere"}).exit()
    assert code == 1
    assert "/nowhere" in logs and "POSTGRES_PASSWORD_FILE" in logs


def test_a_failing_init_file_stops_the_start(box: Callable[..., Box], image) -> None:
    files = {
        f"{INIT}/1.sql": ("SELECT 1/0;\nCREATE TABLE after_the_error ();\n", 0o644, 0),
        f"{INIT}/2.sql": ("CREATE TABLE after_the_file ();\n", 0o644, 0),
    }
    code, logs = box(image, files=files, environment=NO_SYNC).exit()
    assert code == 3
    assert "division by zero" in logs and "2.sql" not in logs


def test_files_for_every_setting(box: Callable[..., Box], image) -> None:
    files = {
        "/s/password": ("secret\n", 0o644, 0),
        "/s/user": ("filed\n", 0o644, 0),
        "/s/db": ("filed-db\n", 0o644, 0),
        "/s/args": ("--encoding=UTF8 --locale=C.UTF-8 --no-sync\n", 0o644, 0),
    }
    names = {"PASSWORD": "password", "USER": "user", "DB": "db", "INITDB_ARGS": "args"}
    environment = {f"POSTGRES_{name}_FILE": f"/s/{file}" for name, file in names.items()}
    server = ready(box(image, files=files, environment=environment), "filed")
    row = "SELECT datcollate, datctype, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'filed-db'"
    assert query(server, row, "filed") == "C.UTF-8|C.UTF-8|UTF8"


def test_trust_and_wal_directory(box: Callable[..., Box], image, data: str) -> None:
    """Also the default locale, and the order of code points that Alpine has."""
    environment = {
        "POSTGRES_HOST_AUTH_METHOD": "trust",
        "POSTGRES_INITDB_WALDIR": "/var/lib/postgresql/wal",
        "POSTGRES_INITDB_ARGS": "--no-sync",
    }
    server = ready(box(image, environment=environment, **HARDENED))
    assert server.ok("readlink", f"{data}/pg_wal") == "/var/lib/postgresql/wal"
    client = box(image, ["psql", "-XAtqw", "-h", server.ip(), "-U", "postgres", "-c", "SELECT 7"])
    assert client.exit() == (0, "7\n")
    assert (
        query(server, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'")
        == "en_US.utf8"
    )
    assert query(server, "SHOW default_text_search_config") == "pg_catalog.english"
    words = "SELECT string_agg(w, ' ' ORDER BY w) FROM unnest('{b,a,B,A,é}'::text[]) w"
    assert query(server, words) == "A B a b é"
    # Without a password in initdb, the superuser has none.
    assert (
        query(server, "SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'postgres'") == "t"
    )


@pytest.mark.parametrize(("user", "below"), [("70:70", ""), ("4321:4321", "/own")])
def test_runs_as_a_given_user(
    user: str, below: str, box: Callable[..., Box], image, data: str
) -> None:
    """Another than 70 needs a directory that it owns, or, as here, may make."""
    data += below
    server = ready(box(image, user=user, environment={**NO_SYNC, "PGDATA": data}, cap_drop=["ALL"]))
    assert server.ok("stat", "-c", "%u:%g", "/proc/1", f"{data}/PG_VERSION").split() == [user] * 2


def test_read_only_root(
    box: Callable[..., Box], volume: Callable[[], str], image, mount: str
) -> None:
    options: dict[str, Any] = {
        "volumes": {volume(): {"bind": mount, "mode": "rw"}},
        "tmpfs": {"/var/run/postgresql": "", "/tmp": ""},
        "read_only": True,
        **HARDENED,
    }
    server = ready(box(image, environment=NO_SYNC, **options))
    server.container.restart(timeout=30)
    assert query(ready(server), "SELECT 1") == "1"


@pytest.mark.parametrize("place", [PARENT, f"{PARENT}/data", f"{PARENT}/15/docker"])
def test_no_empty_database_beside_an_older_cluster(
    place: str, box: Callable[..., Box], image, major: int
) -> None:
    """From 18 on; before, initdb wants an empty directory."""
    if major < 18:
        pytest.skip("PGDATA is the volume itself")
    files = {f"{place}/PG_VERSION": ("15\n", 0o600, 70)}
    code, logs = box(image, files=files, environment=NO_SYNC).exit()
    assert code == 1 and place in logs


def test_no_mount_that_keeps_nothing(
    box: Callable[..., Box], volume: Callable[[], str], image, major: int
) -> None:
    if major < 18:
        pytest.skip("it is the right one")
    volumes = {volume(): {"bind": f"{PARENT}/data", "mode": "rw"}}
    code, logs = box(image, environment=NO_SYNC, volumes=volumes).exit()
    assert code == 1 and f"{PARENT}/data" in logs


def test_other_commands_run_as_they_are(box: Callable[..., Box], image, major: int) -> None:
    assert f"PostgreSQL) {major}." in box(image, ["postgres", "--version"]).exit()[1]
    assert "Usage:" in box(image, ["--help"]).exit()[1]
    assert box(image, ["sh", "-c", "id -u"]).exit() == (0, "0\n")


def test_interactive_terminal(server_or_new: Box) -> None:
    """psql with readline finds its description of the terminal."""
    output = server_or_new.container.exec_run(
        ["sh", "-c", "echo 'SELECT 40 + 2;' | psql -XAtq -U postgres"],
        tty=True,
        environment={"TERM": "xterm"},
    ).output.decode()
    assert "42" in output and "terminal" not in output


@pytest.fixture
def server_or_new(box: Callable[..., Box], image) -> Box:
    return ready(box(image, environment=NO_SYNC))


def test_published_port(box: Callable[..., Box], image) -> None:
    psycopg = pytest.importorskip("psycopg")
    server = ready(box(image, environment=NO_SYNC, ports={"5432/tcp": ("127.0.0.1", None)}))
    with psycopg.connect(
        host="127.0.0.1", port=server.port(5432), user="postgres", password="x", dbname="postgres"
    ) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_entrypoint_has_no_known_mistakes() -> None:
    """If shellcheck is there."""
    from pathlib import Path

    files = Path(__file__).parents[3] / "roles/images/files"
    scripts = [
        files / "postgres/docker-entrypoint.sh",
        files / "redis/docker-entrypoint.sh",
        files / "pgadmin/entrypoint.sh",
        files / "rootfs/rootfs",
    ]
    try:
        result = subprocess.run(
            ["shellcheck", *scripts], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("shellcheck is not installed")
    assert result.returncode == 0, result.stdout
