"""Steps that fail as they should.

Agno skips a step that raises, completes the run, and puts the exception's text into the answer.
"""

import functools
import logging
from collections.abc import Awaitable, Callable

from agno.workflow import HumanReview, OnError, Step, StepInput, StepOutput

logger = logging.getLogger(__name__)


class StepFailedError(Exception):
    """A step has failed; the message is for the client."""


def step(name: str, run: Callable[[StepInput], Awaitable[str]]) -> Step:
    """Make a step that ends the run as failed if it raises.

    Args:
        name: the step's.
        run: does the work, and gives the step's text. The text of a StepFailedError is shown to
            the client; that of any other exception, which may hold secrets, goes to the log alone.

    Returns:
        The step.
    """

    @functools.wraps(run)
    async def execute(step_input: StepInput) -> StepOutput:
        try:
            return StepOutput(content=await run(step_input))
        except StepFailedError:
            raise
        except Exception:
            logger.exception("The step %s has failed", name)
            raise StepFailedError(f"The step {name} has failed; the log says why.") from None

    return Step(
        name=name,
        executor=execute,
        max_retries=0,
        human_review=HumanReview(on_error=OnError.fail),
    )
