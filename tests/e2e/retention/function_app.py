"""Two agents, which may be asked in one conversation."""

import os
from typing import Any

from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient

from agentstream import Settings, streaming_app

client = OpenAIChatCompletionClient("test-model", api_key="none", base_url=os.environ["OPENAI_BASE_URL"])
agents = [Agent(client, "Answer.", name=name) for name in ("TravelPlanner", "Guide")]
app: Any = streaming_app(agents, Settings.load())
