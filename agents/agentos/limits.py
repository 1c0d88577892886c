"""A limit in time that holds, whatever is waited for."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_R = TypeVar("_R")

# asyncio keeps only weak references to tasks: those given up must not vanish while they end.
_given_up: set[asyncio.Future[object]] = set()


async def limited(awaitable: Awaitable[_R], seconds: float) -> _R:
    """Wait for something, but no longer than a limit.

    Not asyncio.wait_for: it waits until the cancelled task has ended, and psycopg, when cancelled,
    first asks the server to cancel the query. A frozen server never answers.

    Args:
        awaitable: to wait for; it is cancelled when it is given up, or when the caller is.
        seconds: the limit.

    Returns:
        Its result.

    Raises:
        TimeoutError: there was none within the limit.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _give_up(task)
        raise
    if not task.done():
        _give_up(task)
        raise TimeoutError
    return task.result()


def _give_up(task: asyncio.Future[_R]) -> None:
    task.cancel()
    _given_up.add(task)  # type: ignore[arg-type]
    task.add_done_callback(_forget)


def _forget(task: asyncio.Future[_R]) -> None:
    """Drop a task that was given up, and fetch its error, which asyncio would else log."""
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()
