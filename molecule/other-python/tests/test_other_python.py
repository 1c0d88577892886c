"""The stack, brought up by the launcher under the other line of Python and Ansible."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stack import PATIENCE, PROJECT, SERVICES, Stack


def other_python() -> str | None:
    """An interpreter of the other line that runs; version managers' shims exist and fail."""
    minors = (13, 12) if sys.version_info < (3, 12) else (11,)
    versions = Path.home() / ".pyenv/versions"
    for minor in minors:
        kept = sorted(versions.glob(f"3.{minor}.*/bin/python3.{minor}"))
        for path in filter(None, [shutil.which(f"python3.{minor}"), *map(str, kept)]):
            if subprocess.run([path, "-c", "import venv"], capture_output=True).returncode == 0:
                return path
    return None


PYTHON = other_python()
pytestmark = pytest.mark.skipif(PYTHON is None, reason="no interpreter of the other line here")


def dev(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher with that interpreter and an environment of its own."""
    inventory = f"--inventory={PROJECT}/molecule/inventory/hosts.yml"
    own = {"DEV_VENV": str(PROJECT / ".cache/other-python")}
    return subprocess.run(
        [str(PYTHON), str(PROJECT / "dev"), *words, "--", inventory],
        env=stack.user_environment() | own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE,
    )


def test_up_again_status_down(stack: Stack) -> None:
    first = dev(stack, "up")
    assert first.returncode == 0, first.stdout + first.stderr
    assert stack.services() == sorted(SERVICES)
    before = stack.started()
    again = dev(stack, "up")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "changed=0" in again.stdout, again.stdout
    assert again.stderr == "", "deprecations, most likely"
    assert stack.started() == before
    status = dev(stack, "status")
    assert status.returncode == 0, status.stderr
    down = dev(stack, "down")
    assert down.returncode == 0, down.stderr
    assert stack.services() == []


def test_an_error_is_one_line(stack: Stack) -> None:
    refused = dev(stack, "up", "--help")
    assert refused.returncode == 0
    result = subprocess.run(
        [str(PYTHON), str(PROJECT / "dev"), "up", "--", f"--inventory={PROJECT}/molecule/inventory/hosts.yml", "-e", "redis_port=0"],
        env=stack.user_environment() | {"DEV_VENV": str(PROJECT / ".cache/other-python")},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert result.returncode != 0
    assert result.stderr.startswith("Error: redis_port is")
    assert len(result.stderr.splitlines()) == 1
