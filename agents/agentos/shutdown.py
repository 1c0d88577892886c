"""The end of runs that go on in the background when the service stops."""

import asyncio

import agno.run.background
import agno.workflow.workflow


async def end_runs(patience_s: float, store_s: float) -> None:
    """Let runs end, then cancel those that have not; each then stores that it was cancelled.

    Args:
        patience_s: how long runs may go on.
        store_s: how long they may then take to store how they ended.
    """
    if running := _running():
        await asyncio.wait(running, timeout=patience_s)
    running = _running()
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=store_s)


def _running() -> set[asyncio.Task[object]]:
    sets = (
        vars(agno.run.background)["_background_tasks"],  # of agents and teams
        vars(agno.workflow.workflow)["_workflow_background_tasks"],
    )
    return {task for tasks in sets for task in tasks if not task.done()}
