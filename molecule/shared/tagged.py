"""What every run of a single service has to hold."""

from __future__ import annotations

import os

from stack import NAME, PORTS, Stack


def check_only(stack: Stack, service: str, expected: list[str]) -> None:
    """The service and what it needs run; nothing else was made."""
    assert stack.services() == sorted(expected)
    for name in expected:
        health = stack.inspect(name)["State"]["Health"]["Status"]
        assert health == "healthy", name
    assert len(stack.client.networks(names=[f"{NAME}_network"])) == 1
    for name in set(PORTS) - set(expected):
        assert f":{PORTS[name]}" not in os.popen("ss -Hltn").read(), name


def check_again(stack: Stack, service: str) -> None:
    """A second run, one that compares all, and one with --check --diff, change nothing."""
    before = stack.started()
    for options in ([], ["-e", "compare_all=true"], ["--check", "--diff"]):
        output = stack.converge("--tags", service, *options)
        assert "changed=0" in output, output
    assert stack.started() == before


def check_repair(stack: Stack, service: str) -> None:
    """What somebody did to the container by hand is put right."""
    name = f"{NAME}_{service}"
    stack.client.stop(name, timeout=20)
    stack.converge("--tags", service)
    stack.client.disconnect_container_from_network(name, f"{NAME}_network")
    stack.converge("--tags", service)
    networks = stack.inspect(service)["NetworkSettings"]["Networks"]
    assert service in networks[f"{NAME}_network"]["Aliases"]
    stack.client.remove_container(name, force=True)
    stack.converge("--tags", service)
    assert stack.inspect(service)["State"]["Health"]["Status"] == "healthy"


def check_down(stack: Stack, service: str, left: list[str]) -> None:
    """`down` with the tag takes it alone, keeps its volume, and does nothing the second time."""
    volumes = stack.volumes()
    would = stack.play("down", "--tags", service, "--check")
    assert would.returncode == 0, would.stderr
    assert service in stack.services()
    assert "changed=0" not in would.stdout
    assert stack.play("down", "--tags", service).returncode == 0
    assert stack.services() == sorted(left)
    assert stack.volumes() == volumes
    again = stack.play("down", "--tags", service)
    assert "changed=0" in again.stdout, again.stdout
