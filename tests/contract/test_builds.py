"""plugins/modules/image_builds.py: in which order images are built, and how a failure is told."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .project import load_plugin


@pytest.fixture
def image_builds() -> ModuleType:
    """plugins/modules/image_builds.py."""
    return load_plugin("modules", "image_builds")


class Engine:
    """Stands in for docker's client: tells what is built when, and fails where it is told to."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.together: dict[str, threading.Barrier] = {}
        self.fails: dict[str, dict[str, Any]] = {}
        self.args: dict[str, dict[str, str]] = {}

    def build(self, path: str, tag: str, buildargs: dict[str, str], **_: Any) -> Iterator[Any]:
        self.events.append(f"begin {tag}")
        self.args[tag] = buildargs
        yield {"stream": "Step 1/2 : FROM base\n"}
        if tag in self.together:
            self.together[tag].wait(10)
        yield {"stream": "not this\n"}
        yield {"stream": "Step 2/2 : RUN make\n"}
        yield {"stream": "".join(f"line {number}\n" for number in range(20))}
        if tag in self.fails:
            yield self.fails[tag]
        self.events.append(f"end {tag}")


def image(name: str, base: str = "", **more: Any) -> dict[str, Any]:
    """One of the module's images."""
    return {
        "name": name,
        "reference": name,
        "base": base,
        "path": "/",
        "args": {},
        "command": [],
    } | more


@pytest.fixture
def engine(image_builds: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine that the module talks to."""
    engine = Engine()
    monkeypatch.setattr(image_builds, "connect", lambda *_, **__: engine)
    monkeypatch.delenv("DEV_STACK_RUN", raising=False)
    return engine


def test_side_by_side_once_the_base_is_there(image_builds: ModuleType, engine: Engine) -> None:
    # Each of the two passes the barrier only while the other is being built.
    engine.together = dict.fromkeys(["redis", "postgres"], threading.Barrier(2))
    images = [image("redis", "debian"), image("debian"), image("postgres", "debian")]
    builds = image_builds.Builds("x", images, 5)
    assert builds.run() == ""
    assert engine.events[:2] == ["begin debian", "end debian"]
    assert set(builds.seconds) == {"debian", "redis", "postgres"}
    assert engine.args == {
        "debian": {},
        "redis": {"BASE_IMAGE": "debian"},
        "postgres": {"BASE_IMAGE": "debian"},
    }


def test_a_base_that_is_not_built_here_is_not_waited_for(
    image_builds: ModuleType, engine: Engine
) -> None:
    assert image_builds.Builds("x", [image("agentos", "python:3.12-slim")], 5).run() == ""
    assert engine.args["agentos"] == {"BASE_IMAGE": "python:3.12-slim"}


def test_a_failure_names_the_image_the_step_and_its_last_lines(
    image_builds: ModuleType, engine: Engine
) -> None:
    said = "The command '/bin/sh -c very long' returned a non-zero code: 7"
    engine.fails["debian"] = {"error": said, "errorDetail": {"code": 7, "message": said}}
    builds = image_builds.Builds("x", [image("debian"), image("redis", "debian")], 5)
    first, *lines = builds.run().splitlines()
    assert first == "The image debian could not be built: its step 2/2 ended with 7."
    assert lines == [f"line {number}" for number in range(12, 20)]
    assert "begin redis" not in engine.events


def test_a_failure_of_the_engine_is_told_in_its_words(
    image_builds: ModuleType, engine: Engine
) -> None:
    engine.fails["debian"] = {"error": "no space left on device"}
    failure = image_builds.Builds("x", [image("debian")], 5).run()
    assert failure.startswith("The image debian could not be built: no space left on device\n")


def test_the_command_runs_first_in_the_context(
    image_builds: ModuleType, engine: Engine, tmp_path: Path
) -> None:
    command = ["sh", "-c", "echo made > rootfs.tar"]
    one = image("debian", path=str(tmp_path), command=command)
    assert image_builds.Builds("x", [one], 5).run() == ""
    assert (tmp_path / "rootfs.tar").read_text() == "made\n"

    one["command"] = ["sh", "-c", "echo no such suite >&2; exit 25"]
    engine.events.clear()
    failure = image_builds.Builds("x", [one], 5).run()
    assert failure == "The image debian could not be built: sh ended with 25.\nno such suite"
    assert engine.events == []


def test_a_failure_ends_the_commands_of_the_others(
    image_builds: ModuleType, engine: Engine, tmp_path: Path
) -> None:
    mark = tmp_path / "ended"
    slow = f"trap 'touch {mark}; exit 143' TERM; touch {tmp_path}/begun; sleep 30 & wait"
    wait = f"while [ ! -e {tmp_path}/begun ]; do sleep 0.05; done; exit 1"
    images = [
        image("python", command=["sh", "-c", slow]),
        image("debian", command=["sh", "-c", wait]),
    ]
    failure = image_builds.Builds("x", images, 5).run()
    assert failure.startswith("The image debian could not be built")
    assert mark.exists()


def test_the_builds_end_with_the_run(
    image_builds: ModuleType, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.together["debian"] = threading.Barrier(2)  # nobody else comes
    monkeypatch.setenv("DEV_STACK_RUN", "nowhere:1:1")
    assert image_builds.Builds("x", [image("debian")], 5).run() == "The run that waited has ended."
    engine.together["debian"].abort()
