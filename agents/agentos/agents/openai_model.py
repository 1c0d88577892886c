"""Models behind OpenAI's protocol."""

from agno.models.openai import OpenAIChat
from agno.models.openai.like import OpenAILike

from agentos.agents.discreet import Discreet


class OpenAI(Discreet, OpenAIChat):
    """A model of OpenAI's."""


class OwnServer(Discreet, OpenAILike):
    """A model of a server that speaks OpenAI's protocol."""
