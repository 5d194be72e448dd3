"""The composition root: settings, agents, the function app, its routes."""

import gc
from pathlib import Path

import azure.durable_functions as df

from agent_entity import create_agent_entities
from http_api import create_http_api
from run_orchestration import create_run_functions
from settings import check_function_timeout, load_settings
from travel_planner import create_agents

settings = load_settings()
check_function_timeout(settings, Path(__file__).parent)
agents = create_agents(settings)

app = df.DFApp()
app.register_functions(create_agent_entities(agents, fallback=settings.non_streaming_fallback))
app.register_functions(create_run_functions())
app.register_functions(create_http_api(settings, [str(agent.name) for agent in agents]))

# What the imports made is never garbage, and to look through it at every full collection holds up all followers.
gc.freeze()
