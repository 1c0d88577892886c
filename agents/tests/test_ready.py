"""/ready while PostgreSQL or Redis is stopped, frozen, or refuses: 503 in time, then recovery."""

import asyncio
import socket
import threading

import psycopg
import pytest
from agentos.environment import normalise_database_url
from agentos.probes import Check, Readiness

from tests.servers import (
    AUTH_SECRET,
    Postgresql,
    RedisServer,
    Server,
    Service,
    assert_at_once,
    serving,
    wait_until,
)


@pytest.fixture(params=["postgresql", "redis"])
def name(request: pytest.FixtureRequest) -> str:
    """Give the name of each server in turn."""
    return str(request.param)


@pytest.fixture
def server(name: str, request: pytest.FixtureRequest) -> Server:
    """Give the server of that name."""
    server = request.getfixturevalue(name)
    assert isinstance(server, Server)
    return server


def not_ready(service: Service, name: str) -> str:
    """Ask /ready, which must say in time and in full that only `name` fails; give the reason."""
    response = service.get("/ready")
    service.assert_in_time(response.elapsed.total_seconds())
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    body = response.json()
    assert body["status"] == "unavailable"
    assert body["error"]["code"] == "not_ready"
    assert [other for other, check in body["checks"].items() if not check["ok"]] == [name]
    reason = body["checks"][name]["reason"]
    assert body["error"]["message"] == f"{name}: {reason}"
    for secret in (Postgresql.password, RedisServer.password, AUTH_SECRET, "://"):
        assert secret not in response.text
    return str(reason)


def is_ready(service: Service) -> bool:
    """Say whether /ready answers 200."""
    return service.get("/ready").status_code == 200


def test_stopped(service: Service, server: Server, name: str) -> None:
    with server.stopped():
        assert not_ready(service, name) == "nothing listens at its address"
        assert service.get("/health").status_code == 200
    wait_until(lambda: is_ready(service))


def test_frozen(service: Service, server: Server, name: str) -> None:
    with server.frozen():
        for _ in range(2):
            assert not_ready(service, name) == "no answer within 1.5 s"
        assert_at_once(service)
    wait_until(lambda: is_ready(service))
    assert f'"message": "{name} does not serve: no answer within 1.5 s"' in service.log()
    assert f'"message": "{name} serves again"' in service.log()


def test_frozen_in_the_middle_of_a_query(postgresql: Postgresql) -> None:
    """The worst case: psycopg, when cancelled, waits for a server that no longer answers."""

    async def query() -> None:
        url = normalise_database_url(postgresql.url())
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("SELECT pg_sleep(30)")

    async def hang() -> None:
        await asyncio.Event().wait()

    async def check() -> dict[str, Check]:
        freezing = threading.Timer(0.5, postgresql.freeze)
        freezing.start()
        try:
            return await Readiness({"postgresql": query}).check()
        finally:
            freezing.join()
            postgresql.thaw()

    found = asyncio.run(check())["postgresql"]
    assert found.reason == "no answer within 1.5 s"
    # A busy machine delays what waits for no server as well.
    delay = asyncio.run(Readiness({"hanging": hang}).check())["hanging"].ms - 1500
    assert found.ms < 2000 + 3 * delay


def test_both_stopped(service: Service, postgresql: Postgresql, redis: RedisServer) -> None:
    with postgresql.stopped(), redis.stopped():
        body = service.get("/ready").json()
        assert body["error"]["message"].count("nothing listens at its address") == 2
    wait_until(lambda: is_ready(service))


@pytest.mark.parametrize(
    ("name", "variable", "change", "reason"),
    [
        ("postgresql", "DATABASE_URL", {"password": "wr0ng-passw0rd"}, "the password is refused"),
        ("redis", "REDIS_URL", {"password": "wr0ng-passw0rd"}, "the password is refused"),
        ("postgresql", "DATABASE_URL", {"database": "nosuch"},
         "the database or the role does not exist"),
        ("redis", "REDIS_URL", {"database": 99}, "the database number is out of range"),
    ],
)  # fmt: skip
def test_refused(
    environment: dict[str, str],
    request: pytest.FixtureRequest,
    name: str,
    variable: str,
    change: dict[str, str],
    reason: str,
) -> None:
    url = request.getfixturevalue(name).url(**change)
    with serving(environment | {variable: url}) as service:
        assert not_ready(service, name) == reason
        assert "wr0ng-passw0rd" not in service.get("/ready").text
        assert "wr0ng-passw0rd" not in service.log()


def test_not_migrated(environment: dict[str, str], postgresql: Postgresql) -> None:
    """An empty database, then one of which the tables are gone, then a migrated one."""
    not_migrated = "the database is not migrated; ./dev up does it"
    postgresql.query("CREATE DATABASE empty")
    with serving(environment | {"DATABASE_URL": postgresql.role_url("empty")}) as service:
        assert not_ready(service, "postgresql") == not_migrated
        postgresql.migrate("empty")
        wait_until(lambda: is_ready(service))
        postgresql.query("UPDATE agentos.alembic_version SET version_num = '0000'", "empty")
        assert not_ready(service, "postgresql") == not_migrated
        postgresql.query("UPDATE agentos.alembic_version SET version_num = '9999'", "empty")
        assert is_ready(service)
        postgresql.query("DROP SCHEMA agentos CASCADE", "empty")
        assert not_ready(service, "postgresql") == not_migrated


@pytest.mark.parametrize(
    ("name", "variable", "url", "reason"),
    [
        ("postgresql", "DATABASE_URL", "postgresql://postgres@127.0.0.1:{postgresql}/postgres",
         "a password is needed and the URL has none"),
        ("redis", "REDIS_URL", "redis://127.0.0.1:{redis}",
         "a password is needed and the URL has none"),
        ("postgresql", "DATABASE_URL", "postgresql://u:p@host.invalid/d",
         "its host name does not resolve"),
        ("redis", "REDIS_URL", "redis://host.invalid", "its host name does not resolve"),
    ],
)  # fmt: skip
def test_wrong_url(
    environment: dict[str, str],
    postgresql: Postgresql,
    redis: RedisServer,
    name: str,
    variable: str,
    url: str,
    reason: str,
) -> None:
    url = url.format(postgresql=postgresql.port, redis=redis.port)
    # The name server may be slow, or away.
    resolver = {"RES_OPTIONS": "timeout:1 attempts:1"}
    with serving(environment | resolver | {variable: url}) as service:
        wait_until(lambda: not_ready(service, name) == reason)


def test_starts_before_its_servers_and_finds_them(
    environment: dict[str, str], postgresql: Postgresql
) -> None:
    with postgresql.stopped(), serving(environment) as service:
        assert not_ready(service, "postgresql") == "nothing listens at its address"
        postgresql.start()
        wait_until(lambda: is_ready(service))
        postgresql.stop()


def test_an_unforeseen_failure_is_told_by_its_kind_alone() -> None:
    async def probe() -> None:
        raise RuntimeError("postgresql://user:secret@host")

    checks = asyncio.run(Readiness({"postgresql": probe}).check())
    assert checks["postgresql"].reason == "RuntimeError"


def test_callers_share_a_round() -> None:
    rounds = 0

    async def probe() -> None:
        nonlocal rounds
        rounds += 1
        await asyncio.sleep(0.05)

    async def check_often() -> None:
        readiness = Readiness({"redis": probe})
        await asyncio.gather(*(readiness.check() for _ in range(50)))
        await readiness.check()

    asyncio.run(check_often())
    assert rounds == 2


def test_a_port_that_accepts_and_never_answers(environment: dict[str, str]) -> None:
    """Docker's proxy accepts connections to a published port even if nothing answers behind it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        with serving(environment | {"REDIS_URL": url}) as service:
            assert not_ready(service, "redis") == "no answer within 1.5 s"


def test_a_server_that_is_not_needed_is_not_waited_for() -> None:
    async def good() -> None: ...

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def ask() -> None:
        readiness = Readiness({"postgresql": good, "redis": hangs})
        async with asyncio.timeout(1):
            for _ in range(3):
                assert (await readiness.recent(["postgresql"]))["postgresql"].ok
        assert not (await readiness.recent(["postgresql", "redis"]))["redis"].ok
        async with asyncio.timeout(1):
            assert (await readiness.recent(["postgresql"]))["postgresql"].ok

    asyncio.run(ask())


def test_a_result_is_relied_upon_for_a_while_only_if_it_is_good() -> None:
    asked: list[str] = []

    async def good() -> None:
        asked.append("good")

    async def bad() -> None:
        asked.append("bad")
        raise OSError

    async def ask() -> None:
        readiness = Readiness({"good": good, "bad": bad})
        for _ in range(3):
            await readiness.recent(["good", "bad"])

    asyncio.run(ask())
    assert sorted(asked) == ["bad", "bad", "bad", "good"]
