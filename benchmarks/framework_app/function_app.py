"""The framework's own app: its entity function holds a thread for as long as the model takes."""

import os
from typing import Any

from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient
from agent_framework_azurefunctions import AgentFunctionApp

client = OpenAIChatCompletionClient("test-model", api_key="none", base_url=os.environ["OPENAI_BASE_URL"])
app: Any = AgentFunctionApp(agents=[Agent(client, "Answer.", name="TravelPlanner")])
