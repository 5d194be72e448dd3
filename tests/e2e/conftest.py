"""The real app on the embedded host, with a real Valkey and a model service on loopback."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.app import App, running_app
from tests.model_server import ModelServer
from tests.redis_process import RedisProcess
from tests.scripts import scripted_reply


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model() -> AsyncIterator[ModelServer]:
    """A model whose reply is told in the message (``tests.scripts``)."""
    async with ModelServer(scripted_reply) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def app(model: ModelServer, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """One app for all tests that do not harm it."""
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "OPENAI_BASE_URL": model.base_url,
        "HEARTBEAT_SECONDS": "1",
        "WAIT_FOR_RESPONSE_SECONDS": "5",
        "MAX_MESSAGE_BYTES": "2000",
    }
    async with running_app(tmp_path_factory.mktemp("state"), env) as app:
        yield app


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis of a module's own, to be harmed by its tests; each leaves it running."""
    with RedisProcess(tmp_path_factory.mktemp("redis") / "data") as redis:
        yield redis


@pytest.fixture(scope="module")
def durable_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The durable state of the host that the tests of a module share."""
    return tmp_path_factory.mktemp("durable")
