"""What the followers of a process ask of the durable runtime: once for all of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import azure.durable_functions as df
import pytest
import pytest_asyncio
from pydantic import SecretStr
from redis.asyncio import Redis

from agentstream.model import DurableUnavailableError
from agentstream.runs.committed import CommittedState
from agentstream.runs.recovery import READS_AT_ONCE, RUNS_A_LOOK, Recovery, Sources
from agentstream.settings import Settings
from agentstream.stream.clients import create_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from tests.app import App
from tests.redis_process import RedisProcess, free_port
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

AGENTS = ["TravelPlanner"]


class CountingClient(df.DurableOrchestrationClient):  # type: ignore[misc]
    """The SDK's client of a host's durable runtime, which counts how often it asks for a run."""

    def __init__(self, base_url: str) -> None:
        super().__init__(
            json.dumps(
                {
                    "taskHubName": "",
                    "creationUrls": {},
                    "managementUrls": {},
                    "rpcBaseUrl": f"{base_url}/runtime/webhooks/durabletask/",
                }
            )
        )
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0

    async def get_status(self, instance_id: str, **options: Any) -> Any:
        self.asked.append(instance_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await super().get_status(instance_id, **options)
        finally:
            self.at_once -= 1


@pytest.fixture
def client(app: App) -> CountingClient:
    return CountingClient(app.host.base_url)


@pytest_asyncio.fixture(loop_scope="session")
async def stream(redis: RedisProcess) -> AsyncIterator[RedisStreamHandler]:
    """A Redis of its own, which has nothing of the app's runs."""
    handler = create_stream_handler(Settings(redis_connection_string=SecretStr(redis.url)))
    yield handler
    await handler.aclose()


async def accept_a_minute_ago(
    stream: RedisStreamHandler, redis: RedisProcess, conversation_id: str, count: int
) -> None:
    runs: Any = f"agent-runs:{{agent-stream:{conversation_id}}}"
    async with Redis.from_url(redis.url) as client:
        for number in range(count):
            await stream.accept_run(conversation_id, f"r{number}", "TravelPlanner")
            record = json.loads(await client.hget(runs, f"r{number}") or "")
            await client.hset(runs, f"r{number}", json.dumps(record | {"created": record["created"] - 60_000}))


def both(stream: RedisStreamHandler, client: CountingClient) -> Sources:
    return Sources(stream, CommittedState(client, AGENTS))


async def open_runs(stream: RedisStreamHandler, conversation_id: str) -> int:
    return sum(run.status.is_open for run in (await stream.runs(conversation_id)).values())


async def test_promise_8_bounded_idle_followers_ask_for_open_runs_once_in_an_interval(
    stream: RedisStreamHandler, redis: RedisProcess, client: CountingClient, conversation_id: str
) -> None:
    await accept_a_minute_ago(stream, redis, conversation_id, RUNS_A_LOOK + 5)
    shared = Recovery(interval_seconds=20)

    await asyncio.gather(*(shared.settle(both(stream, client), conversation_id) for _ in range(50)))
    await shared.settle(both(stream, client), conversation_id)

    assert len(client.asked) == len(set(client.asked)) == RUNS_A_LOOK
    assert 1 < client.most_at_once <= READS_AT_ONCE
    assert await open_runs(stream, conversation_id) == 5


async def test_a_look_that_takes_longer_than_the_interval_is_the_only_one(
    stream: RedisStreamHandler, redis: RedisProcess, client: CountingClient, conversation_id: str
) -> None:
    await accept_a_minute_ago(stream, redis, conversation_id, 3)
    shared = Recovery(interval_seconds=0)

    await asyncio.gather(*(shared.settle(both(stream, client), conversation_id) for _ in range(10)))

    assert sorted(client.asked) == ["r0", "r1", "r2"]


async def test_a_look_goes_on_when_the_follower_that_began_it_leaves(
    stream: RedisStreamHandler, redis: RedisProcess, client: CountingClient, conversation_id: str
) -> None:
    await accept_a_minute_ago(stream, redis, conversation_id, 3)
    shared = Recovery(interval_seconds=60)

    leaving = asyncio.create_task(shared.settle(both(stream, client), conversation_id))
    await asyncio.sleep(0)
    leaving.cancel()

    async def has_none_open() -> bool:
        return await open_runs(stream, conversation_id) == 0

    await eventually(has_none_open)


async def test_every_open_run_has_its_turn(
    stream: RedisStreamHandler, redis: RedisProcess, client: CountingClient, conversation_id: str
) -> None:
    await accept_a_minute_ago(stream, redis, conversation_id, RUNS_A_LOOK + 5)
    shared = Recovery(interval_seconds=0.05)

    async def has_none_open() -> bool:
        await shared.settle(both(stream, client), conversation_id)
        return await open_runs(stream, conversation_id) == 0

    await eventually(has_none_open)


async def test_runs_that_stay_open_have_their_turn_one_after_another(
    stream: RedisStreamHandler, client: CountingClient, conversation_id: str
) -> None:
    running = {f"r{number}" for number in range(RUNS_A_LOOK + 5)}
    for correlation_id in running:
        # Begun, and so not to be ended however little the durable runtime knows of it.
        await stream.begin_attempt(conversation_id, correlation_id)
    shared = Recovery(interval_seconds=0.05)

    async def have_all_been_asked_for() -> bool:
        await shared.settle(both(stream, client), conversation_id)
        return set(client.asked) == running

    await eventually(have_all_been_asked_for)
    assert await open_runs(stream, conversation_id) == len(running)


async def test_promise_8_bounded_a_conversation_that_nobody_follows_is_forgotten(
    stream: RedisStreamHandler, client: CountingClient, conversation_id: str
) -> None:
    shared = Recovery(interval_seconds=0.02)

    async def only_the_last_is_known() -> bool:
        await shared.settle(both(stream, client), f"{conversation_id}-last")
        return list(shared._looks) == [f"{conversation_id}-last"]

    for number in range(10):
        await shared.settle(both(stream, client), f"{conversation_id}-{number}")
    await eventually(only_the_last_is_known)


async def test_a_runtime_that_does_not_answer_is_told_and_asked_again_in_the_next_interval(
    stream: RedisStreamHandler, redis: RedisProcess, client: CountingClient, conversation_id: str
) -> None:
    await accept_a_minute_ago(stream, redis, conversation_id, 3)
    shared = Recovery(interval_seconds=0.05)

    with pytest.raises(DurableUnavailableError):
        await shared.settle(both(stream, CountingClient(f"http://127.0.0.1:{free_port()}")), conversation_id)

    async def has_none_open() -> bool:
        await shared.settle(both(stream, client), conversation_id)
        return await open_runs(stream, conversation_id) == 0

    await eventually(has_none_open)


async def test_promise_8_bounded_of_many_who_miss_a_conversation_one_restores_it(
    app: App, stream: RedisStreamHandler, client: CountingClient, conversation_id: str
) -> None:
    runs = [await app.start_run(script(chunks=["a"]), conversation_id=conversation_id) for _ in range(12)]
    for run in runs:
        await app.finish(run)
    shared = Recovery(interval_seconds=20)

    asking = [asyncio.create_task(shared.restore(both(stream, client), conversation_id, None)) for _ in range(30)]
    await asyncio.sleep(0)
    asking.pop(0).cancel()

    assert await asyncio.gather(*asking) == [True] * 29
    assert sorted(client.asked) == sorted(run["correlation_id"] for run in runs)
    assert 1 < client.most_at_once <= READS_AT_ONCE
    assert set(await stream.runs(conversation_id)) == {run["correlation_id"] for run in runs}


async def test_followers_with_an_old_cursor_share_what_was_trimmed(
    app: App, stream: RedisStreamHandler, client: CountingClient, conversation_id: str
) -> None:
    run = await app.start_run(script(chunks=["a"]), conversation_id=conversation_id)
    await app.finish(run)
    await stream.accept_run(conversation_id, "kept", "TravelPlanner")
    shared = Recovery(interval_seconds=20)

    answers = await asyncio.gather(*(shared.trimmed_runs(both(stream, client), conversation_id) for _ in range(10)))

    assert [[lost.correlation_id for lost in answer] for answer in answers] == [[run["correlation_id"]]] * 10
    assert client.asked == [run["correlation_id"]]
