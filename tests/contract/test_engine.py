"""find_engine: which engine is used, and what is said when there is none."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import docker  # type: ignore[import-untyped]
import pytest

from .project import load_plugin

NOBODY = 65534
USUAL = "the usual socket"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter, its path short enough for a socket's name."""
    with TemporaryDirectory(prefix="dev-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@contextmanager
def listening(path: Path, mode: int = 0o666) -> Iterator[str]:
    """A socket that somebody listens on and that never answers; its URL."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(mode)
        yield f"unix://{path}"


def left_over(path: Path) -> str:
    """A socket that nobody listens on any more, as a stopped engine leaves it; its URL."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return f"unix://{path}"


def offer(
    monkeypatch: pytest.MonkeyPatch,
    utils: ModuleType,
    *candidates: tuple[str, str],
    daemon: str | None = None,
) -> None:
    """Let an engine be looked for at these addresses alone, and its program be here or not."""
    monkeypatch.setattr(utils.shutil, "which", lambda *_, **__: daemon)
    monkeypatch.setattr(utils, "engine_candidates", lambda: iter(candidates))


def as_somebody_else(utils: ModuleType) -> tuple[str, dict[str, str]]:
    """The URL and the problem that find_engine gives to a user without root's rights.

    What it imports was imported before, while this user can still read it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            _, url, problem = utils.find_engine()
            os.write(writer, json.dumps([url, problem]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    url, problem = json.loads(text)
    return url, problem


def test_no_engine_anywhere(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    offer(monkeypatch, utils, (f"unix://{folder}/none.sock", USUAL))
    client, url, problem = utils.find_engine()
    assert (client, url) == (None, "")
    assert set(problem) == {"kind", "text", "fix"} and all(problem.values())
    assert problem["kind"] == "absent"


def test_an_engine_that_is_installed_is_stopped_and_not_absent(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    url = f"unix://{folder}/none.sock"
    offer(monkeypatch, utils, (url, USUAL), daemon="/usr/sbin/dockerd")
    assert utils.find_engine()[2]["kind"] == "stopped"
    offer(monkeypatch, utils, (url, "DOCKER_HOST"), daemon="/usr/sbin/dockerd")
    assert utils.find_engine()[2]["kind"] == "elsewhere"


def test_a_socket_that_nobody_listens_on_is_a_stopped_engine(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    url = left_over(folder / "docker.sock")
    offer(monkeypatch, utils, (url, USUAL), (f"unix://{folder}/none.sock", "Colima"))
    _, _, problem = utils.find_engine()
    assert problem["kind"] == "stopped"
    assert url in problem["text"] and USUAL in problem["text"]


@pytest.mark.parametrize(
    ("why", "way_out"),
    [
        ("DOCKER_HOST", "unset DOCKER_HOST"),
        ("docker context far", "docker context use default"),
    ],
)
def test_an_address_that_was_named_is_never_replaced_by_another(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, why: str, way_out: str
) -> None:
    url = left_over(folder / "docker.sock")
    offer(monkeypatch, utils, (url, why))
    _, _, problem = utils.find_engine()
    assert problem["kind"] == "elsewhere"
    assert url in problem["text"] and why in problem["text"]
    assert way_out in problem["fix"]


def test_the_setting_comes_before_all_else(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    offer(monkeypatch, utils, ("unix:///not/asked.sock", USUAL))
    _, _, problem = utils.find_engine(f"unix://{folder}/none.sock")
    assert problem["kind"] == "elsewhere"
    assert "engine_docker_host" in problem["text"] and "settings.yml" in problem["fix"]


def test_a_socket_of_somebody_else_is_denied(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    with listening(folder / "docker.sock", mode=0) as url:
        offer(monkeypatch, utils, (url, USUAL), (f"unix://{folder}/none.sock", "Colima"))
        found, problem = as_somebody_else(utils)
    assert found == ""
    assert problem["kind"] == "denied"
    assert url in problem["text"] and "usermod -aG docker" in problem["fix"]


def test_a_stopped_engine_does_not_hide_that_another_is_denied(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    stopped = left_over(folder / "stopped.sock")
    with listening(folder / "docker.sock", mode=0) as denied:
        for order in ((denied, stopped), (stopped, denied)):
            offer(monkeypatch, utils, *((url, USUAL) for url in order))
            assert as_somebody_else(utils)[1]["kind"] == "denied"


def test_further_sockets_are_tried_after_a_denied_one(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(url: str, timeout: float = 60) -> Any:
        if url == "unix:///denied.sock":
            raise docker.errors.DockerException(
                "Error while fetching server API version: ('Connection aborted.', "
                "PermissionError(13, 'Permission denied'))"
            )
        return f"client of {url}"

    offer(
        monkeypatch, utils, ("unix:///denied.sock", USUAL), ("unix:///mine.sock", "rootless Docker")
    )
    monkeypatch.setattr(utils, "connect", connect)
    assert utils.find_engine() == ("client of unix:///mine.sock", "unix:///mine.sock", {})


def test_docker_host_is_the_only_candidate(
    utils: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    assert list(utils.engine_candidates()) == [("tcp://192.0.2.1:2375", "DOCKER_HOST")]


def test_docker_context_names_the_engine(
    monkeypatch: pytest.MonkeyPatch, utils: ModuleType
) -> None:
    from docker.context import ContextAPI  # type: ignore[import-untyped]

    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    chosen = type("Context", (), {"Name": "far", "Host": "unix:///far.sock"})
    monkeypatch.setattr(ContextAPI, "get_context", lambda name: chosen if name == "far" else None)
    assert list(utils.engine_candidates()) == [("unix:///far.sock", "docker context far")]


def test_an_address_is_taken_or_not_this_machine_s() -> None:
    refusal = load_plugin("modules", "stack_info").bind_refusal
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert refusal("127.0.0.1", port) == errno.EADDRINUSE
    assert refusal("127.0.0.1", port) is None
    assert refusal("192.0.2.1", port) == errno.EADDRNOTAVAIL  # reserved for documentation
