"""./dev test: which steps it runs, and how it reports them."""

import importlib.machinery
import importlib.util
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkout import LIMIT, PROJECT, Checkout, wait_until

LINT = ["ruff", "ruff", "mypy", "yamllint", "ansible-lint"]
UNIT = ["pytest", "pytest", "pytest"]


@pytest.fixture
def scenarios(ready: Checkout) -> Iterator[Checkout]:
    """Give the prepared checkout with four molecule scenarios and a folder that is none."""
    for name in ("redis", "default", "engine-restart", "postgres"):
        (ready.path / "molecule" / name).mkdir(parents=True)
        (ready.path / "molecule" / name / "molecule.yml").touch()
    (ready.path / "molecule" / "shared").mkdir()
    yield ready
    shutil.rmtree(ready.path / "molecule")


def molecule_scenarios(checkout: Checkout) -> list[str]:
    """Return the scenarios that were run, in order."""
    return [call["argv"][2] for call in checkout.calls() if call["name"] == "molecule"]


def test_all_steps_run_and_the_last_line_counts_them(scenarios: Checkout) -> None:
    result = scenarios.run("test")
    calls = scenarios.calls()
    scenarios_run = [call["argv"] for call in calls if call["name"] == "molecule"]
    # Those that need the engine run beside the others; each kind keeps its order.
    assert [call["name"] for call in calls if call["name"] != "molecule"] == [*LINT, *UNIT]
    assert scenarios_run == [["test", "-s", name] for name in ("default", "postgres", "redis")]
    table = [line.split()[0] for line in result.stdout.splitlines() if " passed " in line]
    assert table[:2] == ["ruff", "format"] and table[-3:] == ["default", "postgres", "redis"]
    assert result.stdout.splitlines()[-1] == "11 passed, 0 failed"
    assert result.returncode == 0
    assert "./dev test engine-restart" in result.stderr


def test_two_scenarios_that_run_side_by_side_have_stacks_of_their_own(
    scenarios: Checkout,
) -> None:
    process = scenarios.start("test", "default", "postgres", "redis", "ruff", STUB_SLEEPS="2")
    process.communicate(timeout=LIMIT)
    by_name = {call["argv"][-1]: call["env"] for call in scenarios.calls()}
    stack = {
        name: (env.get("TEST_STACK"), env.get("TEST_PORT_OFFSET")) for name, env in by_name.items()
    }
    assert stack["."] == (None, None)
    assert {stack["postgres"], stack["redis"]} == {("molecule", "10000"), ("molecule_b", "20000")}


def test_what_runs_side_by_side() -> None:
    """Played through: whatever ends first, and with whatever is left out."""
    loader = importlib.machinery.SourceFileLoader("dev", str(PROJECT / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec is not None
    dev = importlib.util.module_from_spec(spec)
    loader.exec_module(dev)
    every = [*dev.CHECKS, *dev.scenario_checks()]
    names = [check.name for check in every if check.engine]
    assert names[: len(dev.FIRST_SCENARIOS)] == [*dev.FIRST_SCENARIOS]
    chance = random.Random(1)
    most = 0
    for _ in range(200):
        waiting = chance.sample(every, k=chance.randint(1, len(every)))
        waiting.sort(key=every.index)
        running: list[Any] = []
        ended: dict[str, Any] = {}
        while waiting or running:
            while check := dev.next_check(waiting, running, ended):
                waiting.remove(check)
                running.append(SimpleNamespace(check=check))
                scenarios = [one.check for one in running if one.check.engine]
                assert len(running) <= 2 and len(running) - len(scenarios) <= 1
                if len(scenarios) == 2:
                    assert not any(one.alone for one in scenarios)
                    assert any(one.check.engine for one in ended.values())
                most = max(most, len(scenarios))
            assert running, f"nothing runs, and {waiting} wait"
            one = running.pop(chance.randrange(len(running)))
            ended[one.check.name] = one
    assert most == 2


def test_failure_stops_nothing_and_is_counted(scenarios: Checkout) -> None:
    result = scenarios.run("test", STUB_EXITS=json.dumps({"ruff": 1, "molecule": 1}))
    assert len(scenarios.calls()) == 11
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[-1] == "6 passed, 5 failed"
    table = [line.split()[:2] for line in lines[lines.index("") :] if line.split()[1:]]
    assert ["ruff", "FAILED"] in table
    assert ["mypy", "passed"] in table
    assert ["default", "FAILED"] in table


def test_scenarios_run_beside_what_needs_no_engine(scenarios: Checkout) -> None:
    process = scenarios.start("test", "agents", "redis", STUB_SLEEPS="900")
    wait_until(
        lambda: (
            scenarios.calls_file.exists()
            and len(scenarios.calls_file.read_text().splitlines()) == 2
        )
    )
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert {call["name"] for call in scenarios.calls()} == {"pytest", "molecule"}


def test_a_step_s_output_stays_together_and_what_failed_is_told_again(scenarios: Checkout) -> None:
    said = "\n".join(["first", *map(str, range(200)), "1 failed, 2 passed in 3.21s", "cleaned up"])
    result = scenarios.run(
        "test", "agents", "redis", STUB_SAYS=said, STUB_EXITS=json.dumps({"molecule": 1})
    )
    assert result.stdout.count(f"{said}\n") == 2
    *_, end = result.stdout.partition("==> redis has failed; from its output:\n")
    lines = end.splitlines()
    # A scenario goes on after its tests, to clean up: that is not the cause.
    assert lines[0] == "121" and lines[79] == "1 failed, 2 passed in 3.21s"
    assert lines[80:82] == ["", "step    result  seconds"]
    assert "agents has failed" not in result.stdout


def test_quick_leaves_out_the_scenarios(scenarios: Checkout) -> None:
    result = scenarios.run("test", "--quick")
    assert [call["name"] for call in scenarios.calls()] == [*LINT, *UNIT]
    assert result.stdout.splitlines()[-1] == "8 passed, 0 failed"


def test_named_steps_only(scenarios: Checkout) -> None:
    result = scenarios.run("test", "redis", "mypy")
    assert sorted(call["name"] for call in scenarios.calls()) == ["molecule", "mypy"]
    assert result.stdout.splitlines()[-1] == "2 passed, 0 failed"


def test_engine_scenarios_run_in_ci_or_by_name(scenarios: Checkout) -> None:
    scenarios.run("test", CI="true")
    assert "engine-restart" in molecule_scenarios(scenarios)
    scenarios.run("test", CI="false")
    assert "engine-restart" not in molecule_scenarios(scenarios)
    scenarios.run("test", "engine-restart")
    assert molecule_scenarios(scenarios) == ["engine-restart"]


def test_state_of_the_tests_is_apart_and_removed(ready: Checkout) -> None:
    ready.run("test", "ruff", "mypy", XDG_STATE_HOME="/mine", ANSIBLE_INVENTORY="/mine")
    places = {call["env"]["XDG_STATE_HOME"] for call in ready.calls()}
    (place,) = places
    assert Path(place).parent == ready.path / ".cache"
    assert not Path(place).exists()
    ready.run("test", "ruff", ANSIBLE_INVENTORY="/mine")
    (call,) = ready.calls()
    assert "ANSIBLE_INVENTORY" not in call["env"]


def test_ctrl_c_ends_the_run(ready: Checkout) -> None:
    process = ready.start("test", STUB_SLEEPS="900")
    wait_until(ready.calls_file.exists)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "mypy" not in output
    assert list((ready.path / ".cache").iterdir()) == []


def test_missing_tool_is_a_failed_step(ready: Checkout) -> None:
    tool = ready.venv / "bin" / "mypy"
    tool.rename(tool.with_name("hidden"))
    try:
        result = ready.run("test", "ruff", "mypy")
    finally:
        tool.with_name("hidden").rename(tool)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "1 passed, 1 failed"
    assert "cannot run mypy" in result.stderr
