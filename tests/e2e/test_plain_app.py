"""``RedisStreamCallback`` on its own, in a plain ``AgentFunctionApp``."""

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from agentstream.settings import Settings
from agentstream.stream.clients import create_stream_handler
from tests.app import running_app
from tests.model_server import ModelServer
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_it_streams_and_completes_without_the_orchestration(
    model: ModelServer, redis_url: str, state_dir: Path, conversation_id: str
) -> None:
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url}
    handler = create_stream_handler(Settings(redis_connection_string=SecretStr(redis_url)))
    async with running_app(state_dir, env, Path(__file__).parent / "plain") as app:
        response = await app.client.post(
            "/api/agents/Plain/run",
            json={"message": script(chunks=["Hello ", "world"]), "session_id": conversation_id},
        )
        assert response.status_code == httpx.codes.OK, response.text
    events = [event async for batch in handler.read_stream(conversation_id) for event in batch]
    await handler.aclose()

    assert [(event.kind, event.data) for event in events] == [
        ("message", "Hello "),
        ("message", "world"),
        ("done", "[DONE]"),
    ]
    assert {event.correlation_id for event in events} == {response.json()["correlation_id"]}
