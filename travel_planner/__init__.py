"""The agents of the app. A new agent is one file in this folder and one line in ``create_agents``.

Nothing here may import ``azure.durable_functions``: it looks for OpenAI's package of the same name, and so imports this
one while it is itself being imported.
"""

from agent_framework import SupportsAgentRun

from agents.chat_client import create_chat_client
from agents.travel_planner import create_travel_planner
from settings import Settings


def create_agents(settings: Settings) -> list[SupportsAgentRun]:
    """Return the agents, each under the name that its routes have."""
    chat_client = create_chat_client(settings)
    return [
        create_travel_planner(chat_client),
    ]
