"""The sample agent. A new agent is one file beside it and one line in ``create_agents``."""

from agent_framework import SupportsAgentRun

from agentstream.settings import Settings
from travel_planner.agent import create_travel_planner
from travel_planner.chat_client import create_chat_client


def create_agents(settings: Settings) -> list[SupportsAgentRun]:
    """Return the agents, each under the name that its routes have."""
    chat_client = create_chat_client(settings)
    return [
        create_travel_planner(chat_client),
    ]
