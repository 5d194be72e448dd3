import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

import stream_watcher
from redis_stream_handler import Chunk, RedisStreamHandler, create_stream_handler
from settings import Settings
from tests.redis_process import RedisProcess
from tests.waiting import eventually


async def begin(handler: RedisStreamHandler, conversation_id: str) -> int:
    await handler.accept_run(conversation_id, "run", "TravelPlanner")
    return (await handler.begin_attempt(conversation_id, "run"))[1]


async def write(handler: RedisStreamHandler, conversation_id: str, attempt: int, texts: range) -> None:
    chunks = [Chunk(str(number), 0) for number in texts]
    await handler.append(conversation_id, "run", attempt, texts.start, chunks)


async def follow(handler: RedisStreamHandler, conversation_id: str, received: list[str]) -> None:
    async for batch in handler.read_stream(conversation_id, silence_seconds=5):
        received += [event.text for event in batch]


async def connections(redis_url: str) -> list[dict[str, str]]:
    client: Any = Redis.from_url(redis_url, decode_responses=True)
    async with client:
        clients: list[dict[str, str]] = await client.client_list()
        return clients


async def test_promise_8_bounded_one_connection_reads_for_all_followers(tmp_path: Path, conversation_id: str) -> None:
    with RedisProcess(tmp_path / "redis") as redis:
        handler = create_stream_handler(Settings(redis_connection_string=SecretStr(redis.url)))
        names = [f"{conversation_id}-{number}" for number in range(10)]
        attempts = {name: await begin(handler, name) for name in names}
        received: list[tuple[str, list[str]]] = [(name, []) for name in names * 20]
        following = [asyncio.create_task(follow(handler, name, texts)) for name, texts in received]

        async def all_watch() -> bool:
            return sum(map(len, handler._watcher._subscriptions.values())) == len(received)

        await eventually(all_watch)
        for start in range(0, 100, 10):
            for name in names:
                await write(handler, name, attempts[name], range(start, start + 10))
        clients = await connections(redis.url)
        for name in names:
            await handler.write_completion(name, correlation_id="run")
        await asyncio.gather(*following)
        await handler.aclose()

    assert all(texts == [*map(str, range(100)), "[DONE]"] for _, texts in received)
    assert len([client for client in clients if client["cmd"] == "xread"]) == 1
    assert len(clients) <= 8


async def test_a_slow_follower_misses_nothing_and_holds_up_nobody(
    handler: RedisStreamHandler, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_watcher, "MAX_BUFFERED_ENTRIES", 10)
    attempt = await begin(handler, conversation_id)
    slow = handler.read_stream(conversation_id, silence_seconds=5)
    assert await anext(slow) == []
    waiting = asyncio.ensure_future(anext(slow))
    fast: list[str] = []
    following = asyncio.create_task(follow(handler, conversation_id, fast))

    async def both_watch() -> bool:
        return sum(map(len, handler._watcher._subscriptions.values())) == 2

    await eventually(both_watch)
    for start in range(0, 200, 5):
        await write(handler, conversation_id, attempt, range(start, start + 5))

        async def fast_has_it(end: int = start + 5) -> bool:
            return len(fast) >= end

        await eventually(fast_has_it)
    await handler.write_completion(conversation_id, correlation_id="run")
    await following

    received = [event.text for event in await waiting]
    received += [event.text async for batch in slow for event in batch]
    assert received == fast == [*map(str, range(200)), "[DONE]"]


async def test_followers_come_and_go_a_thousand_times_and_none_misses_anything(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    rng = random.Random(1)
    names = [f"{conversation_id}-{number}" for number in range(5)]
    attempts = {name: await begin(handler, name) for name in names}

    async def keep_writing(name: str) -> None:
        for number in range(300):
            await write(handler, name, attempts[name], range(number, number + 1))
            await asyncio.sleep(0)

    async def look_in(name: str, batches: int) -> None:
        texts: list[str] = []
        async for batch in handler.read_stream(name, silence_seconds=0.01):
            texts += [event.text for event in batch]
            batches -= 1
            if batches < 0:
                break
        assert texts == [*map(str, range(len(texts)))]

    writing = [asyncio.create_task(keep_writing(name)) for name in names]
    for _ in range(50):
        await asyncio.gather(*(look_in(rng.choice(names), rng.randint(0, 3)) for _ in range(20)))
    await asyncio.gather(*writing)

    assert handler._watcher._subscriptions == {}
    assert handler._watcher._watching is None


async def test_two_hundred_followers_outlast_a_restart_of_redis(tmp_path: Path, conversation_id: str) -> None:
    with RedisProcess(tmp_path / "redis") as redis:
        handler = create_stream_handler(Settings(redis_connection_string=SecretStr(redis.url)))
        attempt = await begin(handler, conversation_id)
        await write(handler, conversation_id, attempt, range(10))
        received: list[list[str]] = [[] for _ in range(200)]

        async def persist(texts: list[str]) -> None:
            cursor = "0-0"
            while "[DONE]" not in texts:
                try:
                    async for batch in handler.read_stream(conversation_id, cursor):
                        texts += [event.text for event in batch]
                        cursor = batch[-1].id if batch else cursor
                except RedisError:
                    await asyncio.sleep(0.05)

        following = [asyncio.create_task(persist(texts)) for texts in received]

        async def all_have_ten() -> bool:
            return all(len(texts) == 10 for texts in received)

        await eventually(all_have_ten)
        await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)
        await write(handler, conversation_id, attempt, range(10, 20))
        await handler.write_completion(conversation_id, correlation_id="run")
        async with asyncio.timeout(20):
            await asyncio.gather(*following)
        await handler.aclose()

    assert all(texts == [*map(str, range(20)), "[DONE]"] for texts in received)


async def test_a_new_stream_is_read_at_once_while_the_read_is_blocked_on_others(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    await begin(handler, conversation_id)
    idle = handler.read_stream(conversation_id, silence_seconds=60)
    assert await anext(idle) == []
    waiting = asyncio.ensure_future(anext(idle))
    other = f"{conversation_id}-other"
    attempt = await begin(handler, other)
    live = handler.read_stream(other, silence_seconds=60)
    assert await anext(live) == []
    news = asyncio.ensure_future(anext(live))

    async def both_watch() -> bool:
        return len(handler._watcher._subscriptions) == 2

    await eventually(both_watch)
    await write(handler, other, attempt, range(1))

    async with asyncio.timeout(stream_watcher.BLOCK_SECONDS / 2):
        assert [event.text for event in await news] == ["0"]
    waiting.cancel()
