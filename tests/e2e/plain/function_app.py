"""The callback on its own: a plain ``AgentFunctionApp``, without this project's orchestration and routes."""

import os
from typing import Any

from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient
from agent_framework_azurefunctions import AgentFunctionApp

from callbacks import RedisStreamCallback

client = OpenAIChatCompletionClient("test-model", api_key="none", base_url=os.environ["OPENAI_BASE_URL"])
app: Any = AgentFunctionApp(
    agents=[Agent(client, "Answer.", name="Plain")],
    default_callback=RedisStreamCallback(completes_stream=True),
)
