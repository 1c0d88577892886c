"""The agents that AgentOS serves, once a model is configured.

A new one is a module here, and a line in `create`.
"""

import logging

from agno.agent import Agent

from agentos.agents import guide
from agentos.agents.models import create_model
from agentos.settings import Settings

logger = logging.getLogger(__name__)


def create(settings: Settings) -> list[Agent]:
    """Make the agents.

    Args:
        settings: say which model, if any.

    Returns:
        The agents; none without a model. AgentOS gives them its storage.
    """
    model = create_model(settings)
    if model is None:
        logger.info(
            "No model is configured, so there are no agents: set OPENAI_API_KEY,"
            " ANTHROPIC_API_KEY, or AGENTOS_MODEL_URL and AGENTOS_MODEL"
        )
        return []
    logger.info("Agents use the model %s of %s", model.id, model.provider)
    return [guide.create(model)]
