"""An app of five lines on the installed package, with an agent and a route prefix of its own."""

from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient

from agentstream import Settings, streaming_app

settings = Settings.load()
client = OpenAIChatCompletionClient("test-model", api_key="none", base_url=str(settings.openai_base_url))
app = streaming_app([Agent(client, "Answer.", name="Mine")], settings, route_prefix="v1/agents-api")
