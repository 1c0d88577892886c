"""Run AgentOS: `python -m agentos`.

Exit status: 0 after SIGTERM or SIGINT, 78 if a setting is missing or bad, 1 if it cannot listen.
"""

import os
import signal
import sys
from types import FrameType


def run(app: str = "agentos.app:create_app") -> int:
    """Serve until told to stop.

    Args:
        app: the application's factory, as `module:function`.

    Returns:
        The exit status; a signal ends the process without returning.
    """
    # Process 1 of a container has no default action for a signal: before uvicorn sets its own
    # handlers, SIGTERM would be ignored, so these come before all that is slow to import. After
    # uvicorn has stopped, it raises the signal again, and the process ends without waiting for
    # threads that a cancelled request left behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)

    from agentos.server import serve

    return serve(app)


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    sys.exit(run())
