"""plugins/modules/stack_wait.py: when a wait ends."""

from types import ModuleType
from typing import Any

import pytest

from .project import load_plugin


@pytest.fixture(scope="module")
def stack_wait() -> ModuleType:
    """plugins/modules/stack_wait.py."""
    return load_plugin("modules", "stack_wait")


def state(health: str | None = None, failing: int = 0, **other: Any) -> dict[str, Any]:
    """The State of a running container whose last health probe began at "t1"."""
    found: dict[str, Any] = {"Running": True, "Status": "running", "ExitCode": 0, **other}
    if health:
        log = [{"Start": "t1", "Output": "a\nrefused\n"}]
        found["Health"] = {"Status": health, "FailingStreak": failing, "Log": log}
    return found


STOPPED: dict[str, Any] = {"Running": False, "Status": "exited", "ExitCode": 3}
STARTED = "2026-11-28T02:41:28.747001122Z"


def restarting(ended: str) -> dict[str, Any]:
    """The State of one that the engine is about to restart; it was started at STARTED."""
    return state(
        Restarting=True, Status="restarting", ExitCode=3, StartedAt=STARTED, FinishedAt=ended
    )


SOON, LATE = restarting("2026-11-28T02:41:38.5Z"), restarting("2026-11-28T02:41:38.8Z")


@pytest.mark.parametrize(
    ("seen", "restarts", "known_restarts", "known_probe", "expected"),
    [
        (state(), 0, 0, None, (True, "")),
        (state("healthy"), 0, 0, "t1", (True, "")),
        (state("starting"), 0, 0, None, (False, "")),
        # Its last probe failed; the next one tells.
        (state("healthy", failing=1), 0, 0, "t1", (False, "")),
        # What was found before the wait began is not held against it.
        (state("unhealthy"), 0, 0, "t1", (False, "")),
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
        (state("starting"), 3, 1, None, (False, "it keeps exiting")),
        (state("starting"), 2, 1, None, (False, "")),
        (state("healthy"), 3, 1, None, (True, "")),
        (state("healthy", Paused=True), 0, 0, "t1", (False, "it is paused")),
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


class Engine:
    """Stands in for docker's client: a container that ended twice and said the same each time."""

    def __init__(self, started: str) -> None:
        self.started = started
        self.asked: list[float | None] = []

    def inspect_container(self, _: str) -> dict[str, Any]:
        """What the engine says of any container."""
        return {"State": {"StartedAt": self.started}}

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
        ("never", None, "    refused\n    refused"),
    ],
)
def test_last_words_are_those_since_the_last_start(
    stack_wait: ModuleType, started: str, since: float | None, shown: str
) -> None:
    engine = Engine(started)
    assert stack_wait.last_lines(engine, "s_agentos") == shown
    assert engine.asked == [since]
