"""What the services answer, to real clients with the connection strings of the env file."""

from __future__ import annotations

import re

import httpx
import psycopg
import pytest
import redis
from stack import NAME, PORTS, Stack


def test_env_file_names_everything(stack: Stack) -> None:
    env = stack.env()
    assert set(env) == {
        "DATABASE_URL",
        "DIRECT_URL",
        "REDIS_URL",
        "AGENTOS_URL",
        "PGADMIN_URL",
        "BETTER_AUTH_SECRET",
    }
    assert len(env["BETTER_AUTH_SECRET"]) >= 32


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DIRECT_URL"])
def test_postgres(stack: Stack, variable: str) -> None:
    with psycopg.connect(stack.env()[variable]) as connection:
        row = connection.execute(
            "SELECT current_database(), current_user, current_setting('server_version_num')::int,"
            " current_setting('data_checksums'), pg_encoding_to_char(encoding), datcollate"
            " FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    assert row[:2] == ("hyvve", "postgres")
    assert 160000 <= row[2] < 170000
    # C.UTF-8 sorts alike with every C library: a volume may move between image builds.
    assert row[3:] == ("on", "UTF8", "C.UTF-8")


def test_postgres_refuses_a_wrong_password(stack: Stack) -> None:
    url = re.sub(r":[^:@/]+@", ":wrong@", stack.env()["DATABASE_URL"])
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


@pytest.mark.parametrize("extension", ["pgcrypto", "citext", "uuid-ossp", "pg_trgm", "hstore"])
def test_postgres_has_the_extensions_that_prisma_projects_use(stack: Stack, extension: str) -> None:
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        connection.execute(f'CREATE EXTENSION "{extension}"')
        connection.rollback()


def test_redis(stack: Stack) -> None:
    with redis.Redis.from_url(stack.env()["REDIS_URL"]) as client:
        info = client.info()
        assert str(info["redis_version"]).startswith("7.")
        assert info["aof_enabled"] == 1
        # Queues lose jobs when keys are evicted.
        assert info["maxmemory_policy"] == "noeviction"
        assert 0 < info["maxmemory"] < 512 * 1024**2


@pytest.mark.parametrize("password", ["", ":wrong@"])
def test_redis_refuses_without_the_password(password: str) -> None:
    url = f"redis://{password}localhost:{PORTS['redis']}"
    with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_agentos(stack: Stack) -> None:
    url = stack.env()["AGENTOS_URL"]
    assert httpx.get(f"{url}/").status_code == 200
    assert httpx.get(f"{url}/health").status_code == 200
    ready = httpx.get(f"{url}/ready")
    assert ready.status_code == 200, ready.text


def test_agentos_takes_a_token_and_nothing_else(stack: Stack) -> None:
    url = f"{stack.env()['AGENTOS_URL']}/workflows"
    with stack.agentos() as client:
        answer = client.get("/workflows")
    assert answer.status_code == 200, answer.text
    assert "stack-check" in [workflow["id"] for workflow in answer.json()]
    assert httpx.get(url).status_code == 401
    for token in ("x", stack.env()["BETTER_AUTH_SECRET"], stack.token()[:-4] + "AAAA"):
        assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_agentos_refuses_what_a_token_s_scopes_leave_out(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {stack.token('--scopes', 'sessions:read')}"}
    answer = httpx.get(f"{stack.env()['AGENTOS_URL']}/workflows", headers=headers)
    assert answer.status_code == 403, answer.text


def test_a_workflow_runs_and_its_session_is_its_tenant_s_alone(stack: Stack) -> None:
    form = {"message": "molecule", "stream": "false", "session_id": "of-acme"}
    with stack.agentos(tenant="acme") as acme, stack.agentos(tenant="other") as other:
        answer = acme.post("/workflows/stack-check/runs", data=form)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "COMPLETED"
        assert "logged in as agentos" in answer.json()["content"]

        def sessions(client: httpx.Client) -> list[str]:
            found = client.get("/sessions", params={"type": "workflow"})
            assert found.status_code == 200, found.text
            return [session["session_id"] for session in found.json()["data"]]

        assert "of-acme" in sessions(acme)
        assert sessions(other) == []
        one = other.get("/sessions/of-acme", params={"type": "workflow"})
        assert one.status_code == 404


def test_agentos_s_role_may_little(stack: Stack) -> None:
    attributes = stack.sql(
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication"
        " FROM pg_roles WHERE rolname = 'agentos'"
    )
    assert attributes == "f|f|f|f|f"
    rights = stack.sql(
        "SELECT has_database_privilege('agentos', 'hyvve', 'CREATE'),"
        " has_schema_privilege('agentos', 'agentos', 'CREATE'),"
        " has_schema_privilege('agentos', 'public', 'CREATE')"
    )
    assert rights == "f|f|f"
    owned = "SELECT count(*) FROM pg_class WHERE relowner = 'agentos'::regrole"
    assert stack.sql(owned) == "0"
    unguarded = (
        "SELECT count(*) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
        " WHERE relnamespace = 'agentos'::regnamespace AND relkind = 'r'"
        " AND attname = 'tenant_id' AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert stack.sql(unguarded) == "0"


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://localhost:3001"])
def test_agentos_lets_the_platforms_front_and_back_end_in(stack: Stack, origin: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    answer = httpx.options(f"{stack.env()['AGENTOS_URL']}/ready", headers=headers)
    assert answer.headers["access-control-allow-origin"] == origin


def test_pgadmin(stack: Stack) -> None:
    assert httpx.get(f"{stack.env()['PGADMIN_URL']}/misc/ping").text == "PING"


@pytest.mark.parametrize("service", ["AGENTOS_URL", "PGADMIN_URL"])
def test_a_page_elsewhere_cannot_reach_it_under_a_name_of_its_own(
    stack: Stack, service: str
) -> None:
    """DNS rebinding: a foreign name that resolves to 127.0.0.1 arrives as that Host header."""
    path = "/health" if service == "AGENTOS_URL" else "/misc/ping"
    url = stack.env()[service] + path
    for name in ("localhost", "127.0.0.1"):
        assert httpx.get(url, headers={"Host": f"{name}:1234"}).status_code == 200
    for name in ("evil.example", "localhost.evil.example", "evil.example:5050"):
        assert httpx.get(url, headers={"Host": name}).status_code >= 400


def test_pgadmin_reaches_the_database_without_a_prompt(stack: Stack) -> None:
    """As its page does: no login, the server is there, connecting asks for nothing."""
    with httpx.Client(
        base_url=stack.env()["PGADMIN_URL"], follow_redirects=True, timeout=60
    ) as web:
        page = web.get("/browser/")
        assert page.status_code == 200
        assert "login" not in str(page.url)
        script = web.get("/browser/js/utils.js").text
        token = re.search(r"csrf_token'\]\s*=\s*'([^']+)'", script)
        assert token, "no CSRF token found"
        headers = {"X-pgA-CSRFToken": token[1]}
        servers = web.get("/browser/server/nodes/1/", headers=headers).json()["result"]
        assert [s["label"] for s in servers] == [NAME]
        answer = web.post(
            f"/browser/server/connect/1/{servers[0]['_id']}", headers=headers, data={}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["connected"] is True
