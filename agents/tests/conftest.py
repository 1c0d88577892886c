"""Fixtures: PostgreSQL and Redis for the whole run, and AgentOS connected to both."""

from collections.abc import Iterator

import pytest

from tests.servers import AUTH_SECRET, Postgresql, RedisServer, Service, serving


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """Give a running PostgreSQL, migrated."""
    server = Postgresql()
    try:
        server.start()
        server.migrate()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """Give a running Redis."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def environment(postgresql: Postgresql, redis: RedisServer) -> dict[str, str]:
    """Give an environment that connects AgentOS to both servers."""
    return {
        "DATABASE_URL": postgresql.role_url(),
        "REDIS_URL": redis.url(),
        "BETTER_AUTH_SECRET": AUTH_SECRET,
    }


@pytest.fixture(scope="session")
def service(environment: dict[str, str]) -> Iterator[Service]:
    """Give a running AgentOS that no test stops."""
    with serving(environment) as service:
        yield service
