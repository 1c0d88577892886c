"""A project as docker compose leaves it, with its labels: what adopt makes of it, and what stays."""

from __future__ import annotations

import os
from typing import Any

import docker
import pytest
from faults import begin, job_began, kill_when
from stack import BESIDE, NAME, Stack, eventually

PROJECT = "bystandershop"
VOLUMES = {"db": f"{PROJECT}_pgdata", "cache": f"{PROJECT}_cache", "jobs": f"{PROJECT}_jobs"}
SKIP = ("--skip-tags", "pgadmin,agentos")
ADOPT = ("-e", f"adopt_project={PROJECT}", *SKIP)
CHOSEN = ("-e", '{"adopt_volumes": ["pgdata", "cache"]}')
SUM = "cd /v && { find . -type f -exec sha256sum {} +; find . -printf '%p %u %g %m %T@\\n'; } | sort | sha256sum"


class Shop:
    """The project: a PostgreSQL with a superuser and a database of its own, two Redis."""

    def __init__(self, stack: Stack) -> None:
        self.client = stack.client
        tags = [t for i in self.client.images() for t in i.get("RepoTags") or []]
        self.postgres = next(t for t in tags if t.startswith("dev-stack/postgres:16"))
        self.redis = next(t for t in tags if t.startswith("dev-stack/redis:"))

    def labels(self, **more: str) -> dict[str, str]:
        """Docker compose's, and the one by which the scenario cleans up."""
        own = {f"com.docker.compose.{key}": value for key, value in more.items()}
        return BESIDE | {"com.docker.compose.project": PROJECT} | own

    def run(self, service: str, image: str, target: str, **options: Any) -> None:
        """Start a container of the project on its volume, as compose would."""
        volume = VOLUMES[service]
        short = volume.removeprefix(f"{PROJECT}_")
        self.client.create_volume(volume, labels=self.labels(volume=short))
        mount = docker.types.Mount(target, volume)
        one = self.client.create_container(
            image,
            name=f"{PROJECT}-{service}-1",
            labels=self.labels(service=service),
            host_config=self.client.create_host_config(mounts=[mount], network_mode="none"),
            **options,
        )
        self.client.start(one["Id"])

    def exec(self, service: str, *argv: str) -> str:
        """Run a program in one of its containers; its output."""
        made = self.client.exec_create(f"{PROJECT}-{service}-1", list(argv))
        output: bytes = self.client.exec_start(made["Id"])
        assert self.client.exec_inspect(made["Id"])["ExitCode"] == 0, output.decode()
        return output.decode().strip()

    def sql(self, statement: str) -> str:
        """Run a statement in its database."""
        argv = ("psql", "-h", "127.0.0.1", "-U", "owner", "-d", "shop", "-Atqc", statement)
        return self.exec("db", *argv)

    def stop(self) -> None:
        """docker compose stop"""
        for service in VOLUMES:
            self.client.stop(f"{PROJECT}-{service}-1", timeout=30)

    def sums(self) -> dict[str, str]:
        """A checksum of each volume: contents, owners, rights and times of all files."""
        result = {}
        for service, volume in VOLUMES.items():
            mount = docker.types.Mount("/v", volume, read_only=True)
            host = self.client.create_host_config(mounts=[mount], network_mode="none")
            one = self.client.create_container(
                self.postgres,
                entrypoint=["sh", "-c", SUM],
                labels=BESIDE,
                host_config=host,
            )
            self.client.start(one["Id"])
            assert self.client.wait(one["Id"])["StatusCode"] == 0
            result[service] = self.client.logs(one["Id"]).decode()
            self.client.remove_container(one["Id"], v=True)
        return result


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Shop:
    project = Shop(stack)
    env = {"POSTGRES_USER": "owner", "POSTGRES_PASSWORD": "theirs", "POSTGRES_DB": "shop"}
    project.run("db", project.postgres, "/var/lib/postgresql/data", environment=env)
    project.run("cache", project.redis, "/data", command=["redis-server", "--appendonly", "yes"])
    project.run("jobs", project.redis, "/data", command=["redis-server"])
    eventually(lambda: project.sql("SELECT 1") == "1")
    project.exec("db", "pgbench", "-U", "owner", "-i", "-q", "-s", "2", "shop")
    project.sql("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    # As a database would be that another C library made.
    project.sql("CREATE DATABASE swiss TEMPLATE template0")
    project.sql("UPDATE pg_database SET datcollate = 'de_CH.utf8' WHERE datname = 'swiss'")
    fill = "for i = 1, tonumber(ARGV[1]) do redis.call('set', 'k:' .. i, i) end return 1"
    project.exec("cache", "redis-cli", "eval", fill, "0", "20000")
    project.exec("jobs", "redis-cli", "eval", fill, "0", "300")
    project.exec("jobs", "redis-cli", "save")  # until then it keeps nothing on its volume
    return project


def test_what_there_is_is_shown(stack: Stack, shop: Shop) -> None:
    result = stack.play("adopt", *SKIP)
    assert result.returncode == 0, result.stderr
    for part in (*VOLUMES.values(), "PostgreSQL 16", "Redis 7.0", f"./dev adopt {PROJECT}"):
        assert part in result.stdout
    assert stack.volumes() == [] and stack.services() == []


def test_a_running_project_is_refused(stack: Stack, shop: Shop) -> None:
    result = stack.play("adopt", *ADOPT, *CHOSEN)
    assert result.returncode != 0
    assert f"docker compose -p {PROJECT} stop" in result.stderr
    shop.stop()


def test_two_of_a_kind_are_refused(stack: Stack, shop: Shop) -> None:
    result = stack.play("adopt", *ADOPT)
    assert result.returncode != 0
    assert f"--volume {VOLUMES['jobs']} --volume {VOLUMES['db']}" in result.stderr
    assert stack.volumes() == []


@pytest.mark.parametrize("job", ["copy", "dump", "load"])
def test_a_run_that_is_killed_harms_nothing(stack: Stack, shop: Shop, job: str) -> None:
    before = shop.sums()
    kill_when(begin(stack, "adopt", *ADOPT, *CHOSEN), job_began(stack, "postgres", job))
    assert shop.sums() == before
    assert not os.path.exists(stack.state / "volumes.json")


def test_the_data_is_adopted_and_the_originals_stay(stack: Stack, shop: Shop) -> None:
    before = shop.sums()
    result = stack.play("adopt", *ADOPT, *CHOSEN)
    assert result.returncode == 0, result.stdout + result.stderr
    assert shop.sums() == before
    for part in (
        "database shop: 4 tables, 200022 rows",
        "superuser owner",
        "20000 keys",
        "de_CH.utf8",
        "POSTGRES_DB=shop",
    ):
        assert part in result.stdout
    query = ("psql", "-U", "postgres", "-d", "shop", "-Atqc")
    assert (
        stack.exec("postgres", *query, "SELECT count(*) FROM pgbench_accounts").strip() == "200000"
    )
    roles = "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolsuper OR rolname = 'guest'"
    assert stack.exec("postgres", *query, roles).strip() == "guest owner postgres"
    cli = 'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" redis-cli dbsize'
    assert stack.exec("redis", "sh", "-c", cli).strip() == "20000"
    assert stack.volumes() == [f"{NAME}_postgres_data_2", f"{NAME}_redis_data_2"]
    assert "changed=0" in stack.converge(*SKIP)


def test_a_stack_with_data_is_refused(stack: Stack, shop: Shop) -> None:
    volumes = stack.volumes()
    result = stack.play("adopt", *ADOPT, *CHOSEN)
    assert result.returncode != 0
    assert "has data already" in result.stderr and "STACK_NAME=" in result.stderr
    assert stack.volumes() == volumes


def test_a_project_may_have_the_stack_s_names(stack: Stack, shop: Shop) -> None:
    """Its volumes have the plain names, and are none of ours."""
    assert stack.play("down").returncode == 0
    for volume in stack.volumes():
        stack.client.remove_volume(volume)
    (stack.state / "volumes.json").unlink()
    stack.client.create_volume(f"{NAME}_postgres_data", labels=shop.labels(volume="postgres_data"))
    refused = stack.play("dev", *SKIP)
    assert refused.returncode != 0
    assert f"./dev adopt {PROJECT}" in refused.stderr
    named = ("-e", '{"adopt_volumes": ["jobs"]}')
    result = stack.play("adopt", *ADOPT, *named)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "300 keys" in result.stdout
    assert f"{NAME}_postgres_data_2" in stack.volumes()
    assert "changed=0" in stack.converge(*SKIP)
