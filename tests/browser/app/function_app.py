"""The app with two agents: the sample one, and one whose model thinks aloud."""

from pathlib import Path
from typing import Any

from agent_framework import Agent, Content
from agent_framework.openai import OpenAIChatCompletionClient

from agentstream import Settings, streaming_app
from devhost.testing import REPOSITORY
from travel_planner import create_agents

settings = Settings.load(Path(__file__).parent / "host.json")


def _surface_reasoning(message: Any, contents: Any) -> list[Content]:
    """Pass on the reasoning that OpenAI's own protocol does not know."""
    text = getattr(message, "reasoning_content", None)
    return [*([Content.from_text_reasoning(text=text)] if text else []), *contents]


thinking = OpenAIChatCompletionClient(
    "test-model", api_key="none", base_url=str(settings.openai_base_url), response_parser=_surface_reasoning
)
agents = [*create_agents(settings), Agent(thinking, "Think.", name="Thinker")]
app = streaming_app(agents, settings, web=REPOSITORY / "web")
