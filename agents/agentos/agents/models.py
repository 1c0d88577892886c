"""The model that the settings describe."""

from typing import Any

from agno.models.base import Model

from agentos.agents.discreet import keep_out_of_log
from agentos.settings import Settings

# How long a model may be silent, and how often a request to it is sent again.
TIMEOUT_S = 60.0
RETRIES = 1


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
