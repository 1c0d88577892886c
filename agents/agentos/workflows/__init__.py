"""The workflows that AgentOS serves. A new one is a module here, and a line in `create`."""

from agentos.settings import Settings
from agentos.workflows import stack_check
from agentos.workflows.base import Workflow


def create(settings: Settings) -> list[Workflow]:
    """Make the workflows.

    Args:
        settings: the service's.

    Returns:
        The workflows; AgentOS gives them its storage.
    """
    return [stack_check.create(settings)]
