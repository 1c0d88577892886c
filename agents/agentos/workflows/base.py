"""Workflows whose runs end as they should, whatever fails.

Agno's own confirm a run before they have stored it, and of a run that has failed they tell with an
exception, which would be a failure of the request.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import agno.workflow
from agno.exceptions import InputCheckError, OutputCheckError
from agno.run.base import RunStatus
from agno.run.workflow import WorkflowCompletedEvent, WorkflowErrorEvent, WorkflowRunOutput

from agentos import context

_REFUSED = (InputCheckError, OutputCheckError)


class Workflow(agno.workflow.Workflow):
    """A workflow; what it is made of is Agno's."""

    async def _aexecute(self, *args: Any, **kwargs: Any) -> WorkflowRunOutput:
        """Execute a run. One that has failed, and is stored as such, is a result as well."""
        run: WorkflowRunOutput = kwargs["workflow_run_response"]
        try:
            return await super()._aexecute(*args, **kwargs)
        except _REFUSED:
            raise
        except Exception:
            if run.status is not RunStatus.error:
                raise
            return run

    async def _aexecute_stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Execute a run, and give its events; the one that it is completed only once it is stored.

        Whoever listens gets it from here: a stream, a WebSocket, Redis.
        """
        completed: list[Any] = []
        run: WorkflowRunOutput = kwargs["workflow_run_response"]
        try:
            stream: Any = super()._aexecute_stream(*args, **kwargs)
            async with aclosing(stream) as events:
                async for event in events:
                    if completed or _is_end(event, run):
                        completed.append(event)
                    else:
                        yield event
        except _REFUSED:
            raise
        except Exception:
            if run.status is not RunStatus.error:
                raise
        current = context.current()
        if completed and current is not None and current.failure is not None:
            run.status = RunStatus.error
            completed = [
                WorkflowErrorEvent(
                    run_id=run.run_id,
                    workflow_id=run.workflow_id,
                    workflow_name=run.workflow_name,
                    session_id=run.session_id,
                    error=current.failure.message,
                )
            ]
        for event in completed:
            yield event


def _is_end(event: Any, run: WorkflowRunOutput) -> bool:
    return isinstance(event, WorkflowCompletedEvent) and event.run_id == run.run_id
