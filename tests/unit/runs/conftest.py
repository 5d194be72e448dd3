import json

import azure.durable_functions as df
import pytest

from agentstream.runs.committed import CommittedState
from agentstream.runs.recovery import Sources
from agentstream.stream.handler import RedisStreamHandler
from tests.redis_process import free_port


@pytest.fixture
def both(handler: RedisStreamHandler) -> Sources:
    """Redis, and a durable runtime that does not answer: nothing listens there."""
    address = {
        "rpcBaseUrl": f"http://127.0.0.1:{free_port()}/",
        "taskHubName": "",
        "creationUrls": {},
        "managementUrls": {},
    }
    return Sources(handler, CommittedState(df.DurableOrchestrationClient(json.dumps(address)), ["TravelPlanner"]))
