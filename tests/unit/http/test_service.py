import asyncio
from typing import Any

from agentstream.http.service import Service
from agentstream.settings import Settings
from agentstream.stream.clients import get_stream_handler
from agentstream.stream.handler import RedisStreamHandler


async def test_all_who_ask_at_the_same_time_how_redis_is_are_told_by_one_ping(
    settings: Settings, handler: RedisStreamHandler, redis: Any
) -> None:
    async def pings() -> int:
        statistics = await redis.info("commandstats")
        return int(statistics.get("cmdstat_ping", {}).get("calls", 0))

    service = Service(settings, [], get_stream_handler, "/api")
    before = await pings()

    answers = await asyncio.gather(*(service.redis_latency_ms() for _ in range(50)))

    assert len(set(answers)) == 1
    assert await pings() == before + 1
