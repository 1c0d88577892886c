"""plugins/modules/stack_remove.py: what is asked of the engine, and what its answers mean."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, NotFound  # type: ignore[import-untyped]

from .project import load_plugin


@pytest.fixture(scope="module")
def stack_remove() -> ModuleType:
    """plugins/modules/stack_remove.py."""
    return load_plugin("modules", "stack_remove")


class Engine:
    """Stands in for docker's client: a container in some state, and what an answer raises."""

    def __init__(self, state: dict[str, bool] | None, failures: dict[str, Exception]) -> None:
        self.state, self.failures = state, failures
        self.asked: list[str] = []

    def inspect_container(self, name: str) -> dict[str, Any]:
        if self.state is None:
            raise NotFound("none")
        return {"State": {"Running": False, "Paused": False, **self.state}}

    def __getattr__(self, verb: str) -> Any:
        def ask(name: str, **options: Any) -> None:
            words = [verb, *(f"{key}={value}" for key, value in options.items())]
            self.asked.append(" ".join(words))
            if verb in self.failures:
                raise self.failures[verb]

        return ask if verb != "close" else lambda: None


REMOVE = "remove_container v=True"
RUNNING = {"Running": True}
BUSY = APIError("removal of container c is already in progress")


@pytest.mark.parametrize(
    ("state", "failures", "expected", "asked"),
    [
        (None, {}, False, []),
        (RUNNING, {}, True, ["stop", REMOVE]),
        (RUNNING | {"Paused": True}, {}, True, ["unpause", "stop", REMOVE]),
        ({}, {}, True, [REMOVE]),  # made, and never started
        (RUNNING, {"stop": NotFound("gone")}, True, ["stop"]),
        ({}, {"remove_container": NotFound("gone")}, True, [REMOVE]),
        ({}, {"remove_container": BUSY}, True, [REMOVE, "wait condition=removed"]),
        (
            {},
            {"remove_container": BUSY, "wait": NotFound("gone")},
            True,
            [REMOVE, "wait condition=removed"],
        ),
    ],
)
def test_remove(
    stack_remove: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, bool] | None,
    failures: dict[str, Exception],
    expected: bool,
    asked: list[str],
) -> None:
    engine = Engine(state, failures)
    monkeypatch.setattr(stack_remove, "connect", lambda host, timeout: engine)
    assert stack_remove.remove("unix:///any", "c", check_mode=False) is expected
    assert engine.asked == asked


def test_check_mode_only_looks(stack_remove: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(RUNNING, {})
    monkeypatch.setattr(stack_remove, "connect", lambda host, timeout: engine)
    assert stack_remove.remove("unix:///any", "c", check_mode=True)
    assert engine.asked == []


def test_the_next_group_stays_when_one_cannot_be_removed(
    stack_remove: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a group are tried, and every failure is told."""
    tried: list[str] = []

    def remove(host: str, name: str, check_mode: bool) -> bool:
        tried.append(name)
        if name in ("one", "three"):
            raise APIError(f"{name} is stuck")
        return True

    def fail(**result: Any) -> None:
        raise SystemExit(str(result))

    groups = [["one", "two", "three"], ["four"]]
    module = SimpleNamespace(
        params={"docker_host": "any", "groups": groups}, check_mode=False, fail_json=fail
    )
    monkeypatch.setattr(stack_remove, "remove", remove)
    monkeypatch.setattr(stack_remove, "AnsibleModule", lambda **_: module)
    with pytest.raises(SystemExit) as ended:
        stack_remove.main()
    assert sorted(tried) == ["one", "three", "two"]
    assert "one is stuck" in str(ended.value) and "three is stuck" in str(ended.value)
    assert "'changed': True" in str(ended.value)
