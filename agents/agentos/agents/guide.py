"""The agent `stack-guide`: answers questions about this stack. It is the example to copy."""

from agno.agent import Agent
from agno.models.base import Model

INSTRUCTIONS = """\
You help developers with the local stack that they work on: PostgreSQL, Redis, pgAdmin and AgentOS
in containers on one network. Answer briefly. Use the tool for ports and names; if you do not know,
say so.
"""

_SERVICES = {
    "postgres": "PostgreSQL 16, port 5432 on the host, postgres:5432 on the network; ./dev psql",
    "redis": "Redis 7, port 6379 on the host, redis:6379 on the network; ./dev redis-cli",
    "agentos": "AgentOS, http://localhost:7777; ./dev token makes a token for it",
    "pgadmin": "pgAdmin, http://localhost:5050, without a login",
}


def describe_service(name: str) -> str:
    """Say where a service of the stack is found.

    Args:
        name: postgres, redis, agentos or pgadmin.

    Returns:
        A line about it, or the names that there are.
    """
    return _SERVICES.get(name, f"There is no such service. There are: {', '.join(_SERVICES)}")


def create(model: Model) -> Agent:
    """Make the agent.

    Args:
        model: answers.

    Returns:
        The agent.
    """
    return Agent(
        id="stack-guide",
        name="Stack guide",
        description="Answers questions about the local stack.",
        model=model,
        instructions=INSTRUCTIONS,
        tools=[describe_service],
        add_history_to_context=True,
        telemetry=False,
    )
