"""What is said of one Redis is said of a cluster too: every test that needs one runs with both."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from agentstream.settings import Settings


@pytest.fixture(params=["server", "cluster"])
def settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that ``Settings.load`` gives in this test."""
    is_cluster = request.param == "cluster"
    url = request.getfixturevalue("cluster").url if is_cluster else request.getfixturevalue("redis_url")
    monkeypatch.setenv("REDIS_CONNECTION_STRING", url)
    monkeypatch.setenv("REDIS_CLUSTER", str(is_cluster))
    return Settings.load()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Any]:
    """A client of redis-py's, whose types leave open what a command answers."""
    kind: Any = RedisCluster if settings.redis_cluster else Redis
    client = kind.from_url(settings.redis_connection_string.get_secret_value(), decode_responses=True)
    yield client
    await client.aclose()
