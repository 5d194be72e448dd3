"""The function app: the sample agent, streamed."""

from pathlib import Path

from agentstream import Settings, streaming_app
from travel_planner import create_agents

settings = Settings.load(Path(__file__).parent / "host.json")
app = streaming_app(create_agents(settings), settings)
