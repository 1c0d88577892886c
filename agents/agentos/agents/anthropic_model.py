"""Models of Anthropic's."""

from agno.models.anthropic import Claude

from agentos.agents.discreet import Discreet


class Anthropic(Discreet, Claude):
    """A model of Anthropic's."""
