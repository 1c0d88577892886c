"""The other source: a real registry, here on loopback, holding images under the official names."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stack import Stack, eventually

ADDRESS = "127.0.0.1:15000"
OFFICIAL = {
    "postgres": "library/postgres:16-alpine",
    "redis": "library/redis:7-alpine",
    "python": "library/python:3.12-slim",
}
CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: {address}}}
"""


def tags(image: dict[str, Any]) -> set[str]:
    """The tags of one entry of the engine's list."""
    return set(image["RepoTags"] or []) - {"<none>:<none>"}


def all_tags(stack: Stack) -> set[str]:
    """Every tag on the engine."""
    return set().union(*map(tags, stack.client.images()))


def image(stack: Stack, name: str) -> str:
    """Id of the newest image of that name that was built from packages; PostgreSQL's of 16."""
    only = {"label": [f"dev-stack.image={name}", "dev-stack.built-from=packages"]}
    version = {"postgres": "16."}.get(name, "")
    found = [
        i
        for i in stack.client.images(filters=only)
        if any(tag.startswith(f"dev-stack/{name}:") for tag in tags(i))
        and i["Labels"]["org.opencontainers.image.version"].startswith(version)
    ]
    newest: str = max(found, key=lambda i: i["Created"])["Id"]
    return newest


@pytest.fixture(scope="module")
def registry(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that has the images; afterwards it is gone and so are their tags here.

    Other tags that are new by then may be somebody else's.
    """
    folder: Path = tmp_path_factory.mktemp("registry")
    before = all_tags(stack)
    (folder / "config.yml").write_text(CONFIG.format(folder=folder / "data", address=ADDRESS))
    with subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")]) as server:
        references = {name: f"{ADDRESS}/{path}" for name, path in OFFICIAL.items()}
        try:
            eventually(
                lambda: urllib.request.urlopen(f"http://{ADDRESS}/v2/", timeout=10).status == 200
            )
            for name, reference in references.items():
                repository, tag = reference.rsplit(":", 1)
                stack.client.tag(image(stack, name), repository, tag)
                for line in stack.client.push(repository, tag, stream=True, decode=True):
                    assert "error" not in line, line
                stack.client.remove_image(reference)
            yield ADDRESS
        finally:
            server.terminate()
            own = {stack.inspect(service)["Config"]["Image"] for service in stack.services()}
            stack.play("down")
            for made in all_tags(stack) - before:
                if made in own or made.startswith(f"{ADDRESS}/"):
                    stack.client.remove_image(made, force=True)


def test_images_come_from_the_registry(stack: Stack, registry: str) -> None:
    options = [
        "-e",
        "image_source=registry",
        "-e",
        f"image_registry={registry}",
        "--skip-tags",
        "pgadmin",
    ]
    output = stack.converge(*options)
    assert "postgres from the registry" in output
    for service in ("postgres", "redis"):
        assert stack.inspect(service)["Config"]["Image"] == f"{registry}/{OFFICIAL[service]}"
    assert "changed=0" in stack.converge(*options)


def test_what_is_present_is_used_when_the_registry_is_gone(stack: Stack, registry: str) -> None:
    options = ["-e", "image_source=registry", "-e", f"image_registry={registry}", "--tags", "redis"]
    before = stack.inspect("redis")["Id"]
    stack.converge(*options)
    assert stack.inspect("redis")["Id"] == before
