"""The app that the clients talk to, as in the end-to-end tests, and one that has bad days."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.app import App, running_app
from tests.e2e.conftest import app, model
from tests.model_server import ModelServer

__all__ = ["app", "model"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def brief(model: ModelServer, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """One app for all tests that restart it, or that its brief responses and streams are for."""
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "OPENAI_BASE_URL": model.base_url,
        "HEARTBEAT_SECONDS": "1",
        "STREAM_MAX_SECONDS": "1",
        "REDIS_STREAM_TTL_MINUTES": "0.05",
    }
    async with running_app(tmp_path_factory.mktemp("brief"), env) as brief:
        yield brief
