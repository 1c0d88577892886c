"""The other verbs, and the way back. Last, because it ends with the stack gone."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from stack import EPHEMERAL, NAME, PROJECT, SERVICES, Stack


def test_status(stack: Stack) -> None:
    result = stack.play("status")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 1 + len(SERVICES)
    document = stack.status()
    assert document["schema"] == 1
    assert document["healthy"] is True
    assert {s["service"]: s["health"] for s in document["services"]} == dict.fromkeys(
        SERVICES, "healthy"
    )
    assert all(s["drift"] == [] for s in document["services"])


def test_env_prints_what_the_file_holds(stack: Stack) -> None:
    assert json.loads(stack.play("env", "-e", "env_format=json").stdout) == stack.env()
    lines = stack.play("env").stdout.splitlines()
    assert dict(line.split("=", 1) for line in lines) == stack.env()


def test_logs(stack: Stack) -> None:
    text = stack.play("logs", "--tags", "redis", "-e", "logs_tail=5").stdout
    assert text
    assert all(line.startswith("redis | ") for line in text.splitlines())


def test_check_mode_has_nothing_to_say(stack: Stack) -> None:
    before = stack.started()
    output = stack.converge("--check", "--diff")
    assert "changed=0" in output
    assert "---" not in output
    assert stack.started() == before


def test_a_second_run_touches_nothing(stack: Stack) -> None:
    before = stack.started()
    assert "changed=0" in stack.converge()
    assert stack.started() == before


def test_no_secret_in_ansibles_output_at_any_verbosity(stack: Stack) -> None:
    given = {
        "REDIS_PASSWORD": "a given password, with spaces",
        "AGENTOS_DB_PASSWORD": "p@ss: /wörd'\"\\%",
        "OPENAI_API_KEY": "sk-of-a-test-1",
        "ANTHROPIC_API_KEY": "sk-ant-of-a-test-2",
    }
    output = stack.converge("-vvvv", "--diff", environment=given)
    # Again, and with the migration, which holds two of them.
    stack.client.stop(f"{NAME}_agentos", timeout=20)
    output += stack.converge("-vvvv", "--diff", "--tags", "agentos")
    assert "changed=" in output
    assert "agentos.migrate" in output
    for name, value in stack.secrets().items():
        assert value not in output, name
    for variable, value in given.items():
        assert stack.secrets()[variable.lower()] == value


def test_a_key_that_was_given_is_kept_and_removed_when_it_is_empty(stack: Stack) -> None:
    """After the test above, which gives them."""
    keys = ("openai_api_key", "anthropic_api_key")
    listed = stack.exec("agentos", "ls", "/run/secrets").split()
    data = json.dumps(stack.inspect("agentos"))
    top = json.dumps(stack.client.top(f"{NAME}_agentos", "-eo pid,args"))
    for name in keys:
        assert name in listed
        assert f"{name.upper()}_FILE=/run/secrets/{name}" in data
        assert stack.secrets()[name] not in data + top
    before = stack.started()
    assert "changed=0" in stack.converge()
    assert stack.started() == before
    stack.converge(environment={"OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": ""})
    listed = stack.exec("agentos", "ls", "/run/secrets").split()
    for name in keys:
        assert name not in listed
        assert name not in stack.secrets()
        assert not (stack.state / "agentos" / name).exists()
        assert name.upper() not in json.dumps(stack.inspect("agentos"))
    assert {s: t for s, t in stack.started().items() if s != "agentos"} == {
        s: t for s, t in before.items() if s != "agentos"
    }


def test_a_run_that_would_lock_the_owner_out_is_refused(stack: Stack, tmp_path: Path) -> None:
    """Another user on this engine, or a state folder that was moved: it has other secrets."""
    before = stack.started()
    for verb in (["dev"], ["down"], ["reset", "-e", "reset_confirmed=true"]):
        result = stack.play(*verb, "-e", f"state_dir={tmp_path}/other")
        assert result.returncode != 0
        assert str(stack.state) in result.stderr
    assert stack.started() == before
    assert not (tmp_path / "other").exists()


def test_lines_a_person_added_to_the_env_file_survive(stack: Stack) -> None:
    own = "# my own\nOPENAI_API_KEY='sk-test'\n\nREDIS_URL=stale\nexport LAST=1\n"
    wanted = stack.env()
    stack.env_file.write_text(own)
    stack.converge("--tags", "network")
    lines = stack.env_file.read_text().splitlines()
    assert [line for line in lines if line in own.splitlines()] == [
        "# my own", "OPENAI_API_KEY='sk-test'", "", "export LAST=1",
    ]  # fmt: skip
    assert f"REDIS_URL={wanted['REDIS_URL']}" in lines
    assert sum(line.startswith("REDIS_URL=") for line in lines) == 1


def test_down_keeps_the_volumes(stack: Stack) -> None:
    before = stack.volumes()
    assert stack.play("down").returncode == 0
    assert stack.services() == []
    assert stack.client.networks(names=[f"{NAME}_network"]) == []
    assert stack.volumes() == before
    assert stack.play("status").returncode != 0
    again = stack.play("down")
    assert again.returncode == 0
    assert "changed=0" in again.stdout


def test_neighbours_were_left_alone(stack: Stack) -> None:
    """Another stack, and a container that is nobody's, are as they were before the run."""
    neighbours = runpy.run_path(str(PROJECT / "molecule/shared/neighbours"))["neighbours"]
    before = json.loads((EPHEMERAL / "neighbours.json").read_text())
    name = f"{NAME}_bystander"
    containers = {f"/{name}_redis", f"/{name}_foreign"}
    assert set(before) == containers | {f"{name}_network", f"{name}_redis_data"}
    assert neighbours(stack.client) == before
