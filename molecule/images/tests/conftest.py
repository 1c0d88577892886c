"""Fixtures for the contract tests of the images built from packages.

The image under test is the newest local one labelled dev-stack.image=NAME, or
what IMAGE_NAME (IMAGE_POSTGRES, …) names; an official image may be named, too,
and must pass all but the tests marked "built". PostgreSQL's tests run for each
major of which there is an image, or for that of IMAGE_POSTGRES.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from docker.models.images import Image

# Seconds after which something counts as hung: a busy machine takes long.
PATIENCE = 300
LABEL = {"dev-stack.test": "images"}

# What a hardened service may keep of root's capabilities.
HARDENED: dict[str, Any] = {
    "cap_drop": ["ALL"],
    "cap_add": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"],
    "security_opt": ["no-new-privileges"],
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "built: of images built from packages only")


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE, what: str = "") -> Any:
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what or condition}")
        time.sleep(0.1)


class Box:
    """A container under test."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def run(
        self, *command: str, user: str = "", env: dict[str, str] | None = None
    ) -> tuple[int, str]:
        code, output = self.container.exec_run(list(command), user=user, environment=env or {})
        return code, output.decode(errors="replace").strip()

    def ok(self, *command: str, user: str = "", env: dict[str, str] | None = None) -> str:
        code, output = self.run(*command, user=user, env=env)
        assert code == 0, f"{command}: exit {code}: {output}\n{self.logs()}"
        return output

    def logs(self) -> str:
        return self.container.logs().decode(errors="replace")

    def state(self) -> dict[str, Any]:
        self.container.reload()
        return self.container.attrs["State"]

    def ip(self) -> str:
        self.container.reload()
        networks = self.container.attrs["NetworkSettings"]["Networks"]
        return next(iter(networks.values()))["IPAddress"]

    def port(self, inside: int) -> int:
        self.container.reload()
        return int(self.container.ports[f"{inside}/tcp"][0]["HostPort"])

    def exit(self, seconds: float = PATIENCE) -> tuple[int, str]:
        result = self.container.wait(timeout=seconds)
        return result["StatusCode"], self.logs()

    def running(self) -> bool:
        state = self.state()
        if state["Status"] == "exited":
            pytest.fail(f"the container exited with {state['ExitCode']}:\n{self.logs()}")
        return bool(state["Running"])


def archive(files: dict[str, tuple[str | bytes, int, int]]) -> bytes:
    """A tar of {path: (content, mode, uid)}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, (content, mode, uid) in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode, info.uid = len(data), mode, uid
            info.mtime = int(time.time())
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    try:
        client = docker.from_env(timeout=PATIENCE)
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker Engine answers: {error}")
    yield client
    client.close()


def environment_of(image: Image) -> dict[str, str]:
    """The environment that the image sets."""
    return dict(line.split("=", 1) for line in image.attrs["Config"]["Env"])


def find_image(client: docker.DockerClient, name: str, major: str = "") -> Image:
    """The image to test; of that major of PostgreSQL, if one is given."""
    named = os.environ.get(f"IMAGE_{name.upper()}")
    if named:
        images = [client.images.get(named)]
    else:
        images = client.images.list(filters={"label": f"dev-stack.image={name}"})
    images = [
        image
        for image in images
        # An image derived from ours has the label, too.
        if (named or any(f"dev-stack/{name}:" in tag for tag in image.tags))
        and environment_of(image).get("PG_MAJOR", "").startswith(major)
    ]
    if not images:
        pytest.skip(
            f"no image labelled dev-stack.image={name} {major}; build one, or set IMAGE_{name.upper()}"
        )
    return max(images, key=lambda image: image.attrs["Created"])


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest, engine: docker.DockerClient) -> Image:
    """The image that the test module names in IMAGE."""
    return find_image(engine, request.module.IMAGE)


@pytest.fixture(autouse=True)
def _built(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("built"):
        image = request.getfixturevalue("image")
        if not image.labels.get("dev-stack.built-from"):
            pytest.skip("an image not built from packages")


@contextlib.contextmanager
def boxes(engine: docker.DockerClient) -> Iterator[Callable[..., Box]]:
    made: list[Container] = []

    def make(
        image: Image,
        command: list[str] | None = None,
        files: dict[str, tuple[str | bytes, int, int]] | None = None,
        **options: Any,
    ) -> Box:
        container = engine.containers.create(
            image.id,
            command,
            name=f"dev-stack-test-{uuid.uuid4().hex[:10]}",
            labels=LABEL,
            **options,
        )
        made.append(container)
        if options.get("read_only"):
            # Only what is mounted can be written then.
            for path, file in (files or {}).items():
                directory, _, name = path.rpartition("/")
                container.put_archive(directory, archive({name: file}))
        elif files:
            container.put_archive("/", archive(files))
        container.start()
        return Box(container)

    try:
        yield make
    finally:
        for container in made:
            with contextlib.suppress(docker.errors.APIError):
                container.remove(force=True, v=True)


@contextlib.contextmanager
def volumes(engine: docker.DockerClient) -> Iterator[Callable[[], str]]:
    made = []

    def make() -> str:
        made.append(engine.volumes.create(f"dev-stack-test-{uuid.uuid4().hex[:10]}", labels=LABEL))
        return made[-1].name

    try:
        yield make
    finally:
        for volume in made:
            with contextlib.suppress(docker.errors.APIError):
                volume.remove(force=True)


@pytest.fixture(scope="module")
def module_volume(engine: docker.DockerClient) -> Iterator[Callable[[], str]]:
    with volumes(engine) as make:
        yield make


@pytest.fixture(scope="module")
def module_box(
    engine: docker.DockerClient, module_volume: Callable[[], str]
) -> Iterator[Callable[..., Box]]:
    with boxes(engine) as make:
        yield make


@pytest.fixture
def volume(engine: docker.DockerClient) -> Iterator[Callable[[], str]]:
    with volumes(engine) as make:
        yield make


@pytest.fixture
def box(engine: docker.DockerClient, volume: Callable[[], str]) -> Iterator[Callable[..., Box]]:
    with boxes(engine) as make:
        yield make
