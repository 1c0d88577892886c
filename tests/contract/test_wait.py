"""plugins/modules/stack_wait.py: when a wait ends."""

from types import ModuleType
from typing import Any

import pytest

from .project import load_plugin


@pytest.fixture(scope="module")
def stack_wait() -> ModuleType:
    """plugins/modules/stack_wait.py."""
    return load_plugin("modules", "stack_wait")


def state(health: str | None = None, **other: Any) -> dict[str, Any]:
    """The State of a running container whose last health probe began at "t1"."""
    found: dict[str, Any] = {"Running": True, "Status": "running", "ExitCode": 0, **other}
    if health:
        found["Health"] = {"Status": health, "Log": [{"Start": "t1", "Output": "a\nrefused\n"}]}
    return found


STOPPED: dict[str, Any] = {"Running": False, "Status": "exited", "ExitCode": 3}


@pytest.mark.parametrize(
    ("seen", "restarts", "known_probe", "expected"),
    [
        (state(), 0, None, (True, "")),
        (state("healthy"), 0, "t1", (True, "")),
        (state("starting"), 0, None, (False, "")),
        # What was found before the wait began is not held against it.
        (state("unhealthy"), 0, "t1", (False, "")),
        (state("unhealthy"), 0, "t0", (False, "its health check fails: refused")),
        (state("unhealthy"), 0, None, (False, "its health check fails: refused")),
        (state(**STOPPED), 0, None, (False, "it exited with status 3")),
        (state(**STOPPED), 2, None, (False, "it keeps exiting with status 3")),
        (state(**STOPPED | {"Status": "created"}), 0, None, (False, "")),
    ],
)
def test_verdict(
    stack_wait: ModuleType,
    seen: dict[str, Any],
    restarts: int,
    known_probe: str | None,
    expected: tuple[bool, str],
) -> None:
    assert stack_wait.verdict(seen, restarts, known_probe) == expected
