"""The composition root: settings, agents, the function app, its routes."""

import gc
from typing import Any

from agent_framework_azurefunctions import AgentFunctionApp

from callbacks import RedisStreamCallback
from http_api import create_http_api
from run_orchestration import create_run_functions
from settings import load_settings
from streaming_agent import StreamingAgent
from travel_planner import create_agents

settings = load_settings()
agents = create_agents(settings)

# The agent app's own routes have the classic types, which cannot be mixed with those that stream.
app: Any = AgentFunctionApp(
    agents=[StreamingAgent(agent, fallback=settings.non_streaming_fallback) for agent in agents],
    default_callback=RedisStreamCallback(),
    enable_http_endpoints=False,
    enable_health_check=False,
)
app.register_functions(create_run_functions())
app.register_functions(create_http_api(settings, [str(agent.name) for agent in agents]))

# What the imports made is never garbage, and to look through it at every full collection holds up all followers.
gc.freeze()
