"""The function app: the sample agent, streamed."""

from pathlib import Path

from agentstream import Settings, streaming_app
from travel_planner import create_agents

FOLDER = Path(__file__).parent

settings = Settings.load(FOLDER / "host.json")
app = streaming_app(create_agents(settings), settings, web=FOLDER / "web")
