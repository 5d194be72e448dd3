"""An agent whose tool is a plain function that blocks its thread."""

import os
import time
import uuid
from pathlib import Path
from typing import Any

from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient

from agentstream import Settings, streaming_app

TIMEOUT_SECONDS = 60


def wait_for_file(path: str) -> str:
    """Leave a note beside the path that waiting has begun, and wait until there is a file."""
    Path(f"{path}.{uuid.uuid4()}").touch()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not Path(path).exists():
        if time.monotonic() > deadline:
            return "there is none"
        time.sleep(0.02)
    return "it is there"


client = OpenAIChatCompletionClient("test-model", api_key="none", base_url=os.environ["OPENAI_BASE_URL"])
app: Any = streaming_app([Agent(client, "Answer.", name="TravelPlanner", tools=[wait_for_file])], Settings.load())
