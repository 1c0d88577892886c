"""The process: how it starts, reloads, stops, and is probed by Docker."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.servers import AGENTS, PATIENCE_S, Service, closed_port, serving, wait_until
from tests.trial_app import PROGRAM

STOP_LIMIT_S = 8  # Docker kills a container after 10


def test_stops_at_once_when_idle(environment: dict[str, str]) -> None:
    with serving(environment) as service:
        assert service.stop() < STOP_LIMIT_S
        assert service.process.returncode == 0
        assert "ERROR" not in service.log()


def test_stops_with_an_open_keep_alive_connection(environment: dict[str, str]) -> None:
    with serving(environment) as service, httpx.Client(timeout=PATIENCE_S) as client:
        assert client.get(service.url + "/health").status_code == 200
        assert service.stop() < STOP_LIMIT_S
        assert service.process.returncode == 0


@pytest.mark.parametrize("path", ["/slow", "/blocked"])
def test_stops_during_a_slow_request(environment: dict[str, str], path: str) -> None:
    with serving(environment, program=PROGRAM) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            service.get("/health")
            assert service.stop() < STOP_LIMIT_S
        assert service.process.returncode == 0


def test_lets_a_request_finish(environment: dict[str, str], request: pytest.FixtureRequest) -> None:
    """A request that takes 1.5 s, because Redis is frozen, is answered although SIGTERM came."""
    redis = request.getfixturevalue("redis")
    answers: list[int] = []
    with serving(environment) as service, redis.frozen():
        asking = threading.Thread(target=lambda: answers.append(service.get("/ready").status_code))
        asking.start()
        arrived = 'agentos_requests_in_progress{type="http"} 2'  # the other asks for this
        wait_until(lambda: arrived in service.get("/metrics").text or not asking.is_alive())
        assert service.stop() < STOP_LIMIT_S
        asking.join()
    assert answers == [503]


def test_stops_on_ctrl_c(environment: dict[str, str]) -> None:
    with serving(environment) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(STOP_LIMIT_S) == 0
        assert "Traceback" not in service.log()


@pytest.mark.parametrize("reload", ["false", "true"])
def test_port_in_use_is_told_in_one_line(environment: dict[str, str], reload: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "agentos"],
            env=environment | {"AGENTOS_PORT": str(port), "AGENTOS_RELOAD": reload},
            cwd=AGENTS,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == (
        f"agentos: cannot listen on 127.0.0.1 port {port} (AGENTOS_HOST, AGENTOS_PORT):"
        f" {os.strerror(errno.EADDRINUSE)}\n"
    )


def test_reloads_on_save(environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(AGENTS / "agentos", tmp_path / "agentos")
    source = tmp_path / "agentos" / "__init__.py"

    def version(service: Service) -> str | None:
        try:
            return str(httpx.get(service.url, timeout=10).json()["version"])
        except httpx.TransportError:
            return None

    with serving(environment | {"AGENTOS_RELOAD": "true"}, cwd=tmp_path) as service:
        source.write_text('__version__ = "reloaded"\n')
        wait_until(lambda: version(service) == "reloaded")
        source.write_text("def\n")
        wait_until(lambda: "SyntaxError" in service.log())
        source.write_text('__version__ = "repaired"\n')
        wait_until(lambda: version(service) == "repaired")
        assert service.stop() < STOP_LIMIT_S
        assert service.process.returncode == 0


def healthcheck(port: int) -> subprocess.CompletedProcess[str]:
    """Run Docker's health check, as the Dockerfile does."""
    return subprocess.run(
        [sys.executable, "-IS", "agentos/healthcheck.py"],
        env={"AGENTOS_PORT": str(port)},
        cwd=AGENTS,
        capture_output=True,
        text=True,
        check=False,
    )


def test_healthcheck(service: Service) -> None:
    result = healthcheck(service.port)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_healthcheck_of_nothing() -> None:
    with closed_port() as port:
        result = healthcheck(port)
    assert result.returncode == 1
    assert result.stdout.startswith("agentos: /ready does not answer: ")
    assert result.stderr == ""


def test_healthcheck_of_a_service_that_is_not_ready(environment: dict[str, str]) -> None:
    with closed_port() as port:
        nothing = {"REDIS_URL": f"redis://127.0.0.1:{port}"}
        with serving(environment | nothing) as service:
            result = healthcheck(service.port)
    assert result.returncode == 1
    assert result.stdout == "agentos: redis: nothing listens at its address\n"
