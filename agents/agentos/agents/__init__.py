"""The agents that AgentOS serves, once a model is configured.

A new one is a module here, and a line in `create`.
"""

import logging
from typing import Any

from agno.agent import Agent
from agno.models.base import Model

from agentos.agents import guide
from agentos.agents.discreet import RETRIES, TIMEOUT_S, keep_out_of_log
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


def create_model(settings: Settings) -> Model | None:
    """Make the model that the settings describe.

    A server of one's own comes before OpenAI, and OpenAI before Anthropic, unless AGENTOS_MODEL
    names one of Anthropic's.

    Args:
        settings: the service's.

    Returns:
        The model, or None. Its library is imported only here: it takes most of a second.
    """
    name: dict[str, Any] = {"id": settings.agentos_model} if settings.agentos_model else {}
    openai, anthropic = settings.openai_api_key, settings.anthropic_api_key
    for key in (openai, anthropic):
        if key is not None:
            keep_out_of_log(key.get_secret_value())
    if settings.agentos_model_url:
        from agentos.agents.openai_model import OwnServer

        return OwnServer(
            base_url=settings.agentos_model_url,
            # Most such servers ask for none, but the library does.
            api_key=openai.get_secret_value() if openai else "none",
            timeout=TIMEOUT_S,
            max_retries=RETRIES,
            **name,
        )
    if anthropic and (openai is None or settings.agentos_model.startswith("claude")):
        from agentos.agents.anthropic_model import Anthropic

        return Anthropic(
            api_key=anthropic.get_secret_value(),
            timeout=TIMEOUT_S,
            client_params={"max_retries": RETRIES},
            **name,
        )
    if openai:
        from agentos.agents.openai_model import OpenAI

        return OpenAI(
            api_key=openai.get_secret_value(), timeout=TIMEOUT_S, max_retries=RETRIES, **name
        )
    return None
