"""A run with the tag network."""

from __future__ import annotations

from stack import NAME, Stack


def test_it_is_a_bridge_of_ours_and_nothing_runs_on_it(stack: Stack) -> None:
    network = stack.client.inspect_network(f"{NAME}_network")
    assert network["Driver"] == "bridge"
    assert network["Labels"] == {"dev-stack.stack": NAME}
    assert stack.services() == []


def test_again_nothing_changes(stack: Stack) -> None:
    before = stack.client.inspect_network(f"{NAME}_network")["Id"]
    for options in ([], ["--check", "--diff"]):
        assert "changed=0" in stack.converge("--tags", "network", *options)
    assert stack.client.inspect_network(f"{NAME}_network")["Id"] == before


def test_a_subnet_can_be_named(stack: Stack) -> None:
    assert stack.play("down").returncode == 0
    stack.converge("--tags", "network", "-e", "network_subnet=10.213.77.0/24")
    ipam = stack.client.inspect_network(f"{NAME}_network")["IPAM"]["Config"]
    assert ipam[0]["Subnet"] == "10.213.77.0/24"


def test_down(stack: Stack) -> None:
    assert stack.play("down").returncode == 0
    assert stack.client.networks(names=[f"{NAME}_network"]) == []
