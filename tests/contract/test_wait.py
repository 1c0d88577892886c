"""plugins/modules/stack_wait.py: when a wait ends."""

from types import ModuleType
from typing import Any

import pytest

from .project import load_plugin


@pytest.fixture(scope="module")
def stack_wait() -> ModuleType:
    """plugins/modules/stack_wait.py."""
    return load_plugin("modules", "stack_wait")


STARTED = "2026-11-28T02:41:28.747001122Z"


def state(
    health: str | None = None, failing: int = 0, last: int = 5, **other: Any
) -> dict[str, Any]:
    """The State of a running container whose last health probe began at "t5", or as said."""
    found: dict[str, Any] = {"Running": True, "Status": "running", "ExitCode": 0}
    found |= {"StartedAt": STARTED, **other}
    if health:
        log = [{"Start": f"t{n}", "Output": "a\nrefused\n"} for n in range(last - 4, last + 1)]
        found["Health"] = {"Status": health, "FailingStreak": failing, "Log": log}
    return found


STOPPED: dict[str, Any] = {"Running": False, "Status": "exited", "ExitCode": 3}


def restarting(ended: str) -> dict[str, Any]:
    """The State of one that the engine is about to restart; it was started at STARTED."""
    return state(Restarting=True, Status="restarting", ExitCode=3, FinishedAt=ended)


SOON, LATE = restarting("2026-11-28T02:41:38.5Z"), restarting("2026-11-28T02:41:38.8Z")


@pytest.mark.parametrize(
    ("seen", "restarts", "known_restarts", "known_probe", "expected"),
    [
        (state(), 0, 0, None, (True, "")),
        (state("healthy"), 0, 0, "t5", (True, "")),
        (state("starting"), 0, 0, None, (False, "")),
        # Its last probe failed; the next one tells.
        (state("healthy", failing=1), 0, 0, "t5", (False, "")),
        # What was found before the wait began is not held against it, nor what may have begun then.
        (state("unhealthy"), 0, 0, "t5", (False, "")),
        (state("unhealthy"), 0, 0, "t4", (False, "")),
        (state("unhealthy"), 0, 0, "t3", (False, "its health check fails: refused")),
        (state("unhealthy"), 0, 0, "t0", (False, "its health check fails: refused")),
        (state("unhealthy"), 0, 0, None, (False, "its health check fails: refused")),
        (state(**STOPPED), 0, 0, None, (False, "it exited with status 3")),
        (state(**STOPPED), 2, 2, None, (False, "it keeps exiting with status 3")),
        (state(**STOPPED | {"Status": "created"}), 0, 0, None, (False, "")),
        # Restarted once: a server that was told to end, or killed for its memory.
        (LATE, 1, 1, None, (False, "")),
        (LATE, 2, 2, None, (False, "")),
        (LATE, 1, 0, None, (False, "")),
        (SOON, 1, 1, None, (False, "")),
        # Again and again.
        (SOON, 1, 0, None, (False, "it keeps exiting with status 3")),
        (SOON, 2, 2, None, (False, "it keeps exiting with status 3")),
        (LATE, 3, 1, None, (False, "it keeps exiting with status 3")),
        (state("starting"), 5, 1, None, (False, "it keeps exiting")),
        (state("starting"), 4, 1, None, (False, "")),
        (state("healthy"), 5, 1, None, (True, "")),
        (state("healthy", Paused=True), 0, 0, "t5", (False, "it is paused")),
    ],
)
def test_verdict(
    stack_wait: ModuleType,
    seen: dict[str, Any],
    restarts: int,
    known_restarts: int,
    known_probe: str | None,
    expected: tuple[bool, str],
) -> None:
    assert stack_wait.verdict(seen, restarts, known_restarts, known_probe) == expected


class Containers:
    """Stands in for docker's client: each look sees what comes next, and then the last once more."""

    def __init__(self, **seen: list[dict[str, Any]]) -> None:
        self.seen = seen

    def inspect_container(self, name: str) -> dict[str, Any]:
        """What the engine says of a container. Raises KeyError."""
        states = self.seen[name]
        return {"State": states.pop(0) if len(states) > 1 else states[0], "RestartCount": 0}


GOOD = [state("healthy")]
STARTING = [state("starting")]
BAD = [state("unhealthy", last=n) for n in range(5, 15)]
REFUSED = ("its health check fails: refused", STARTED)


@pytest.mark.parametrize(
    ("needed", "redis", "agentos", "failures"),
    [
        (["redis"], GOOD, GOOD, {}),
        # AgentOS is unhealthy for want of Redis, however long that takes, and for a moment more.
        (["redis"], STARTING * 5 + GOOD, BAD[:6] + GOOD, {}),
        (["redis"], STARTING * 5 + GOOD, BAD, {"agentos": REFUSED}),
        ([], STARTING * 5 + GOOD, BAD[:6] + GOOD, {"agentos": REFUSED}),
        (["redis"], BAD, GOOD, {"redis": REFUSED}),
        # That it ended is told at once, whatever the other does.
        (
            ["redis"],
            STARTING,
            [state(**STOPPED)],
            {"agentos": ("it exited with status 3", STARTED)},
        ),
        (["redis"], STARTING, GOOD, {"redis": ("it was not healthy after 1 s", STARTED)}),
    ],
)
def test_wait(
    stack_wait: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    needed: list[str],
    redis: list[dict[str, Any]],
    agentos: list[dict[str, Any]],
    failures: dict[str, tuple[str, str]],
) -> None:
    monkeypatch.setattr(stack_wait.time, "sleep", lambda _: None)
    engine = Containers(redis=[*redis], agentos=[*agentos])
    assert stack_wait.wait(engine, ["redis", "agentos"], needed, 1) == failures


def test_wait_for_one_that_is_gone(stack_wait: ModuleType) -> None:
    assert stack_wait.wait(Containers(), ["redis"], [], 1) == {
        "redis": ("it is gone ('redis')", "")
    }


class Engine:
    """Stands in for docker's client: a container that ended twice and said the same each time."""

    def __init__(self) -> None:
        self.asked: list[float | None] = []

    def logs(self, _: str, tail: int, since: float | None = None) -> bytes:
        """The log, or what was said since the last start."""
        assert tail > 1
        self.asked.append(since)
        return b"refused\nrefused\n" if since is None else b"refused\n"


@pytest.mark.parametrize(
    ("started", "since", "shown"),
    [
        ("2026-11-23T08:00:00.5Z", 1795420800.5, "    refused"),
        ("2026-11-23T08:00:00.123456789Z", 1795420800.123456, "    refused"),
        ("2026-11-23T08:00:00Z", 1795420800.0, "    refused"),
        ("", None, "    refused\n    refused"),
    ],
)
def test_last_words_are_those_since_the_last_start(
    stack_wait: ModuleType, started: str, since: float | None, shown: str
) -> None:
    engine = Engine()
    assert stack_wait.last_lines(engine, "s_agentos", started) == shown
    assert engine.asked == [since]
