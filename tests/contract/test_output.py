"""plugins/callback/dev_stack.py: what a person sees of a run."""

from types import SimpleNamespace
from typing import Any

import pytest

from .project import load_plugin


class Screen:
    """The callback, with its lines kept: those on standard output and those on standard error."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.callback = load_plugin("callback", "dev_stack").CallbackModule()
        self.callback._say = self.keep

    def keep(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        """Stand in for the terminal."""
        (self.err if stderr else self.out).append(text)


@pytest.fixture
def screen() -> Screen:
    """A run without -v."""
    return Screen()


def result(data: dict[str, Any], action: str = "command", host: str = "localhost") -> Any:
    """What Ansible hands to a callback when a task has ended."""
    task = SimpleNamespace(action=action, loop=None, get_name=lambda: "redis : Start it")
    return SimpleNamespace(result=data, task=task, host=SimpleNamespace(get_name=lambda: host))


def begin(screen: Screen) -> None:
    screen.callback.v2_playbook_on_task_start(result({}).task, False)


def test_nothing_is_said_of_what_did_not_change(screen: Screen) -> None:
    begin(screen)
    screen.callback.v2_runner_on_ok(result({"changed": False}))
    screen.callback.v2_runner_on_skipped(result({"skipped": True}))
    assert (screen.out, screen.err) == ([], [])


def test_a_change_is_a_line_with_the_name_of_its_task(screen: Screen) -> None:
    begin(screen)
    screen.callback.v2_runner_on_ok(result({"changed": True}))
    assert (screen.out, screen.err) == (["  changed: Start it"], [])


def test_another_machine_is_named(screen: Screen) -> None:
    begin(screen)
    screen.callback.v2_runner_on_ok(result({"changed": True}, host="far"))
    assert screen.out == ["  changed: [far] Start it"]


def test_a_message_is_printed_as_it_is(screen: Screen) -> None:
    screen.callback.v2_runner_on_ok(result({"msg": "one\n two"}, action="ansible.builtin.debug"))
    assert screen.out == ["one\n two"]


@pytest.mark.parametrize("extra", [{"action": "ansible.builtin.fail"}, {"clear": True}])
def test_an_error_of_ours_is_its_message_and_nothing_else(
    screen: Screen, extra: dict[str, Any]
) -> None:
    begin(screen)
    action = extra.pop("action", "stack_info")
    screen.callback.v2_runner_on_failed(result({"msg": "It is so.\nDo this.", **extra}, action))
    assert (screen.out, screen.err) == ([], ["Error: It is so.", "  Do this."])


def test_a_known_error_of_another_module_gets_its_fix(screen: Screen) -> None:
    begin(screen)
    screen.callback.v2_runner_on_failed(result({"msg": "write /x: no space left on device"}))
    assert screen.err[0] == "Error: Start it: write /x: no space left on device"
    assert "docker system df" in screen.err[-1]


def test_an_unknown_error_ends_with_what_it_said_and_how_to_see_more(screen: Screen) -> None:
    begin(screen)
    stderr = "\n".join(f"line {number}" for number in range(20))
    screen.callback.v2_runner_on_failed(result({"msg": "rc 1", "stderr": stderr}))
    assert screen.err[0] == "Error: Start it: rc 1"
    assert screen.err[1:-1] == [f"  line {number}" for number in range(12, 20)]
    assert "-vvv" in screen.err[-1]


def test_an_error_that_is_ignored_is_not_shown(screen: Screen) -> None:
    begin(screen)
    screen.callback.v2_runner_on_failed(result({"msg": "no"}), ignore_errors=True)
    assert (screen.out, screen.err) == ([], [])


def test_no_progress_is_shown_while_somebody_types(screen: Screen) -> None:
    begin(screen)
    assert screen.callback._title == "Start it"
    pause = SimpleNamespace(action="ansible.builtin.pause", get_name=lambda: "Ask", loop=None)
    screen.callback.v2_playbook_on_task_start(pause, False)
    assert screen.callback._title == ""
