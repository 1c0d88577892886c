"""The test stack as tests see it: its names, its engine, and the playbooks run as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
sys.path.insert(0, str(PROJECT / "plugins/module_utils"))

from dev_stack import LABEL_STACK, find_engine

# Seconds after which something that has to happen counts as hung. How long it takes is no test's
# concern, unless a promise says so, and a busy machine takes long.
PATIENCE = 300


def patient_client() -> Any:
    """A client of the engine that playbooks find; it waits longer for what runs in a container."""
    client = find_engine()[0]
    if client is not None:
        client.timeout = 6 * PATIENCE
    return client


SERVICES = ("postgres", "redis", "agentos", "pgadmin")
INSIDE = {"postgres": 5432, "redis": 6379, "agentos": 7777, "pgadmin": 5050}
# Two scenarios may run side by side (see `./dev test`); molecule/inventory reads the same variables.
NAME = os.environ.get("TEST_STACK") or "molecule"
OFFSET = int(os.environ.get("TEST_PORT_OFFSET") or 10000)
PORTS = {service: port + OFFSET for service, port in INSIDE.items()}
# On what tests put beside the stack: the end of a scenario removes it.
BESIDE = {"dev-stack.test": NAME}


@dataclass
class Stack:
    """The stack under test, on the engine the playbooks find."""

    name: str = NAME
    client: Any = field(default_factory=patient_client)

    @property
    def state(self) -> Path:
        """Its state folder (see molecule/inventory)."""
        return EPHEMERAL / "state" / self.name

    @property
    def env_file(self) -> Path:
        """What the platform's apps would read."""
        return EPHEMERAL / "env.local"

    def env(self) -> dict[str, str]:
        """The variables in the env file."""
        lines = self.env_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    def secrets(self) -> dict[str, str]:
        """Every secret by name."""
        return {p.name: p.read_text().strip() for p in (self.state / "secrets").iterdir()}

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        data: dict[str, Any] = self.client.inspect_container(f"{self.name}_{service}")
        return data

    def services(self) -> list[str]:
        """The services that have a container, sorted; a look at a volume, which has none, is "look"."""
        only = {"label": f"{LABEL_STACK}={self.name}"}
        labels = [c["Labels"] for c in self.client.containers(all=True, filters=only)]
        return sorted(found.get("dev-stack.service") or found["dev-stack.job"] for found in labels)

    def volumes(self) -> list[str]:
        """Names of its volumes, sorted."""
        only = {"label": f"{LABEL_STACK}={self.name}"}
        return sorted(v["Name"] for v in self.client.volumes(filters=only)["Volumes"] or [])

    def started(self) -> dict[str, str]:
        """When each container was started; unchanged means untouched."""
        return {s: self.inspect(s)["State"]["StartedAt"] for s in self.services()}

    def exec(self, service: str, *argv: str) -> str:
        """Run a program in a container with Docker's own means; its output. Raises on failure."""
        docker = self.client.exec_create(f"{self.name}_{service}", list(argv), stderr=True)
        output: bytes = self.client.exec_start(docker["Id"])
        code = self.client.exec_inspect(docker["Id"])["ExitCode"]
        assert code == 0, f"{argv} ended with {code}: {output.decode()}"
        return output.decode()

    def sql(self, statement: str) -> str:
        """Run a statement in the database and give what psql prints."""
        return self.exec(
            "postgres", "psql", "-U", "postgres", "-d", "hyvve", "-Atqc", statement
        ).strip()

    def token(self, *options: str, tenant: str = "acme", sub: str = "alice") -> str:
        """A token, from the program that ./dev token runs."""
        program = ["python", "-m", "agentos.token", "--tenant", tenant, "--sub", sub, *options]
        return self.exec("agentos", *program).strip()

    def agentos(self, **user: str) -> httpx.Client:
        """A client of AgentOS's published port, with a token of that user, once it serves.

        It answers 503 while PostgreSQL or Redis take longer than it waits, on a busy machine.
        """
        headers = {"Authorization": f"Bearer {self.token(**user)}"}
        url = f"http://127.0.0.1:{PORTS['agentos']}"
        eventually(lambda: httpx.get(f"{url}/ready", timeout=PATIENCE).status_code == 200)
        return httpx.Client(base_url=url, headers=headers, timeout=PATIENCE)

    @contextmanager
    def migrations(self) -> Iterator[list[str]]:
        """What the engine does meanwhile with the container of AgentOS's migration.

        It is followed: asked afterwards, the engine knows only its last 256 events, and each probe
        of a container's health is three.
        """
        only = {"container": f"{self.name}_agentos_migrate"}
        seen: list[str] = []
        events = find_engine()[0].events(decode=True, filters=only)

        def follow() -> None:
            for event in events:
                seen.append(event["Action"])

        threading.Thread(target=follow, daemon=True).start()
        yield seen
        time.sleep(2)  # for those on their way

    def user_environment(self) -> dict[str, str]:
        """The environment of a user who set nothing of the stack's, nor what molecule sets."""
        foreign = ("ANSIBLE_", "POSTGRES_", "REDIS_", "AGENTOS_", "PGADMIN_", "BETTER_AUTH_")
        keys = ("AUTH_", "OPENAI_", "ANTHROPIC_")
        own = {k: v for k, v in os.environ.items() if not k.startswith((*foreign, *keys))}
        return own | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}

    def play(
        self,
        playbook: str,
        *options: str,
        environment: dict[str, str] | None = None,
        checkout: Path = PROJECT,
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook on the test inventory, as molecule does; never raises."""
        inventory = checkout / "molecule/inventory/hosts.yml"
        own = {"ANSIBLE_CONFIG": str(checkout / "ansible.cfg")}
        return subprocess.run(
            ["ansible-playbook", f"--inventory={inventory}", f"playbooks/{playbook}.yml", *options],
            cwd=checkout,
            env=self.user_environment() | own | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=6 * PATIENCE,
        )

    def converge(self, *options: str, **how: Any) -> str:
        """Bring it up; the output. Fails the test when that fails. Takes what `play` takes."""
        result = self.play("dev", *options, **how)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def status(self) -> dict[str, Any]:
        """The document of `status --json`."""
        document: dict[str, Any] = json.loads(
            self.play("status", "-e", "status_format=json").stdout
        )
        return document


def eventually(check: Any, seconds: float = PATIENCE) -> Any:
    """What `check()` gives once it is true. Fails after `seconds`."""
    limit = time.monotonic() + seconds
    while True:
        try:
            value = check()
            if value:
                return value
            error: object = f"last value: {value!r}"
        except Exception as caught:
            error = caught
        assert time.monotonic() < limit, f"not within {seconds} s: {error}"
        time.sleep(0.3)
