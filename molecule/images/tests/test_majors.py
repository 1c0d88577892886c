"""More than one major of PostgreSQL on one machine. Leaves the image of 18 to test_postgres.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import NAME, OFFSET, PATIENCE, PROJECT, Stack

EIGHTEEN = f"{NAME}_18"
PLAY = """
- hosts: dev_stack
  gather_facts: false
  tasks:
    - include_role: { name: engine }
    - include_role: { name: images }
      vars: { images_wanted: [postgres, redis] }
    - debug: { msg: "first {{ images_chosen.keys() | sort | join(',') }} {{ images_chosen.postgres.reference }}" }
    - include_role: { name: images }
      vars: { images_wanted: [postgres], images_postgres_major: 18 }
    - debug: { msg: "then {{ images_chosen.keys() | join(',') }} {{ images_chosen.postgres.reference }}" }
"""


@pytest.fixture(scope="module")
def eighteen() -> Iterator[Stack]:
    """A stack of its own; it is removed afterwards."""
    yield Stack(EIGHTEEN)
    remove = [sys.executable, str(PROJECT / "molecule/shared/remove-test-stacks"), EIGHTEEN]
    subprocess.run(remove, check=True, stdout=subprocess.DEVNULL)


def test_two_majors_in_one_run(stack: Stack, tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    play.write_text(PLAY)
    result = subprocess.run(
        [
            "ansible-playbook",
            f"--inventory={PROJECT}/molecule/inventory/hosts.yml",
            "--extra-vars=image_source=packages",
            str(play),
        ],
        cwd=PROJECT,
        env=stack.user_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "first postgres,redis dev-stack/postgres:16." in result.stdout
    assert "then postgres dev-stack/postgres:18." in result.stdout


def test_a_stack_of_another_major_keeps_its_data(eighteen: Stack) -> None:
    """Its volume is where the image has its data: what is in it outlives the container."""
    options = [
        *("-e", "postgres_version=18", "-e", "image_source=packages", "--tags", "postgres"),
        *("-e", f"stack_name={EIGHTEEN}", "-e", f"port_offset={OFFSET + 100}", "-e", "env_file="),
    ]
    eighteen.converge(*options)
    assert eighteen.sql("SHOW server_version").startswith("18.")
    eighteen.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    (volume,) = eighteen.volumes()
    assert eighteen.client.inspect_volume(volume)["Labels"]["dev-stack.postgres-major"] == "18"
    mounted = {m.get("Name", "") for m in eighteen.inspect("postgres")["Mounts"]}
    assert mounted == {volume, ""}, "the image made a volume that nobody knows of"

    eighteen.client.remove_container(f"{EIGHTEEN}_postgres", force=True, v=True)
    eighteen.converge(*options)
    assert eighteen.sql("SELECT answer FROM kept") == "42"
