"""What dies, and what the promises are worth then."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from redis.asyncio import Redis

from agentstream.model import RunRequest
from agentstream.runs.starter import fingerprint_of, run_of_key
from agentstream.settings import Settings
from agentstream.stream.clients import create_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from devhost.testing import HostProcess
from tests.app import RUN_ROUTE, App, app_of, error_of, running_app, text_of
from tests.model_server import ModelServer
from tests.recording_follower import RecordingFollower, problem_detail
from tests.redis_process import RedisProcess
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def frail(redis: RedisProcess, model: ModelServer, durable_dir: Path) -> AsyncIterator[App]:
    """An app to be harmed; each test leaves it running."""
    env = {
        "REDIS_CONNECTION_STRING": redis.url,
        "OPENAI_BASE_URL": model.base_url,
        "HEARTBEAT_SECONDS": "1",
        "REDIS_STREAM_TTL_MINUTES": "0.05",
    }
    async with running_app(durable_dir, env) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="session")
async def stream(redis: RedisProcess) -> AsyncIterator[RedisStreamHandler]:
    """The app's Redis, to arrange what a fault leaves behind."""
    handler = create_stream_handler(
        Settings(redis_connection_string=SecretStr(redis.url), redis_stream_ttl_minutes=0.05)
    )
    yield handler
    await handler.aclose()


def follower(app: App, run: dict[str, str]) -> RecordingFollower:
    return RecordingFollower(lambda: app.host.base_url, run["stream_url"])


async def assert_told_all(app: App, run: dict[str, str], following: RecordingFollower, text: str) -> None:
    """Check promises 1 to 5 for one run and one follower of it."""
    assert following.events[-1].event == "done"
    assert len({event.id for event in following.events}) == len(following.events)
    assert following.text == text

    async def is_completed() -> bool:
        status = await app.run(run["correlation_id"])
        return (status["status"], status["response"]) == ("completed", text)

    await eventually(is_completed)


async def date_back(redis: RedisProcess, conversation_id: str, correlation_id: str) -> None:
    """Make the run look as if it was accepted a minute earlier."""
    runs: Any = f"agent-runs:{{agent-stream:{conversation_id}}}"
    async with Redis.from_url(redis.url) as client:
        record = json.loads(await client.hget(runs, correlation_id) or "")
        record["created"] -= 60_000
        record["claimed"] -= 60_000
        await client.hset(runs, correlation_id, json.dumps(record))


LONG = [f"{number} " for number in range(40)]


async def follow_long_run(app: App) -> tuple[dict[str, str], RecordingFollower, asyncio.Task[None]]:
    """Start a run, and return it with its follower and the following, in the middle of it."""
    run = await app.start_run(script(chunks=LONG, delay_seconds=0.03))
    following = follower(app, run)
    reading = asyncio.create_task(following.follow())
    await following.received(5)
    return run, following, reading


async def test_the_host_is_killed_in_the_middle_of_a_run(frail: App) -> None:
    run, following, reading = await follow_long_run(frail)

    frail.host.restart()

    await reading
    await assert_told_all(frail, run, following, "".join(LONG))
    [reset] = [json.loads(event.data) for event in following.events if event.event == "reset"]
    assert reset == {"correlation_id": run["correlation_id"], "reason": "attempt"}


async def test_promise_4_done_means_committed(frail: App, durable_dir: Path) -> None:
    run = await frail.start_run(script(chunks=["the ", "answer"], delay_seconds=0.3))
    await anext(frail.follow(run["stream_url"]))
    # Whoever holds the write lock of the durable state keeps the runtime from committing anything.
    durable_state = sqlite3.connect(durable_dir / "durable.sqlite", isolation_level=None)
    durable_state.execute("BEGIN IMMEDIATE")

    async def has_answered() -> bool:
        return f"run {run['correlation_id']}: attempt" in frail.host.log

    await eventually(has_answered)
    uncommitted = await frail.events(run["stream_url"], {"follow": "false"})
    durable_state.execute("ROLLBACK")
    events = await frail.finish(run)
    messages = (await frail.client.get(f"/api/agent/conversations/{run['conversation_id']}")).json()["messages"]

    assert [event.data for event in uncommitted] == ["the ", "answer"]
    assert [event.event for event in events] == ["message", "message", "done"]
    assert messages[-1]["text"] == "the answer"


async def test_redis_is_killed_in_the_middle_of_a_run_and_keeps_its_data(frail: App, redis: RedisProcess) -> None:
    run, following, reading = await follow_long_run(frail)

    redis.kill()
    redis.start()

    await reading
    await assert_told_all(frail, run, following, "".join(LONG))
    assert not [event for event in following.events if event.event == "reset"]


async def test_redis_loses_everything_in_the_middle_of_a_run(frail: App, redis: RedisProcess) -> None:
    run, following, reading = await follow_long_run(frail)

    redis.kill()
    redis.lose_data()
    redis.start()

    await reading
    await assert_told_all(frail, run, following, "".join(LONG))
    late = follower(frail, run)
    await late.follow()
    assert late.text == "".join(LONG)


async def test_redis_is_gone_when_the_run_ends(frail: App, redis: RedisProcess, model: ModelServer) -> None:
    run, following, reading = await follow_long_run(frail)

    redis.kill()

    async def is_answered() -> bool:
        return f"run {run['correlation_id']}: attempt" in frail.host.log

    await eventually(is_answered)
    redis.start()

    await reading
    await assert_told_all(frail, run, following, "".join(LONG))


async def test_without_redis_nothing_is_half_accepted_and_the_committed_state_is_served(
    frail: App, redis: RedisProcess
) -> None:
    run = await frail.start_run(script(chunks=["a"]))
    await frail.finish(run)
    await asyncio.to_thread(frail.host.wait_for_log, f"{run['correlation_id']} Completed")
    redis.kill()

    refused = await frail.client.post(RUN_ROUTE, content=script(chunks=["b"]), headers={"Content-Type": "text/plain"})
    stream = await frail.client.get(run["stream_url"])
    health = await frail.client.get("/api/health")

    for response in (refused, stream):
        assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert int(response.headers["retry-after"]) > 0
        assert "Redis" in problem_detail(response)
        assert "127.0.0.1" not in response.text
    assert (health.status_code, health.json()["status"]) == (httpx.codes.SERVICE_UNAVAILABLE, "degraded")
    assert (await frail.run(run["correlation_id"]))["response"] == "a"
    conversation = await frail.client.get(f"/api/agent/conversations/{run['conversation_id']}")
    assert [message["text"] for message in conversation.json()["messages"]][1:] == ["a"]

    redis.start()
    assert text_of(await frail.finish(await frail.start_run(script(chunks=["c"])))) == "c"


async def test_promise_7_expired_is_not_gone(frail: App, stream: RedisStreamHandler) -> None:
    run = await frail.start_run(script(chunks=["Day ", "1\n"]))
    before = await frail.finish(run)

    async def has_expired() -> bool:
        return await stream.runs(run["conversation_id"]) == {}

    await eventually(has_expired)
    restored = await asyncio.gather(
        *(frail.events(path) for path in [run["stream_url"], f"/api/agent/stream/{run['conversation_id']}"] * 10)
    )

    assert all(events == restored[0] for events in restored)
    assert [event.event for event in restored[0]] == ["reset", "message", "done"]
    assert json.loads(restored[0][0].data) == {"correlation_id": run["correlation_id"], "reason": "expired"}
    assert text_of(restored[0]) == "Day 1\n"
    assert await frail.events(run["stream_url"], {"cursor": before[0].id}) == restored[0]
    assert await frail.events(run["stream_url"], {"cursor": restored[0][1].id}) == restored[0][2:]


async def test_who_asks_for_one_run_of_an_expired_conversation_does_not_hide_the_others(
    frail: App, stream: RedisStreamHandler
) -> None:
    first = await frail.start_run(script(chunks=["one"]))
    conversation_id = first["conversation_id"]
    await frail.finish(first)
    second = await frail.start_run(script(chunks=["two"]), conversation_id=conversation_id)
    await frail.finish(second)

    async def has_expired() -> bool:
        return await stream.runs(conversation_id) == {}

    await eventually(has_expired)
    asked = await frail.events(second["stream_url"])
    everything = await frail.events(f"/api/agent/stream/{conversation_id}", {"follow": "false"})

    assert [event.data for event in asked[1:]] == ["two", "[DONE]"]
    assert [event.data for event in everything if event.event != "reset"] == ["one", "[DONE]", "two", "[DONE]"]


async def test_a_message_to_an_expired_conversation_does_not_hide_what_was_said_before(
    frail: App, stream: RedisStreamHandler
) -> None:
    first = await frail.start_run(script(chunks=["one ", "one"]))
    conversation_id = first["conversation_id"]
    before = await frail.finish(first)

    async def has_expired() -> bool:
        return await stream.runs(conversation_id) == {}

    await eventually(has_expired)
    second = await frail.start_run(script(chunks=["two"]), conversation_id=conversation_id)
    await frail.finish(second)

    path = f"/api/agent/stream/{conversation_id}"
    for params in ({}, {"cursor": before[0].id}):
        events = await frail.events(path, params)
        assert [event.data for event in events[1:]] == ["one one", "[DONE]", "two", "[DONE]"]
        assert json.loads(events[0].data) == {"correlation_id": first["correlation_id"], "reason": "expired"}


async def test_a_cursor_older_than_what_was_trimmed_gets_the_trimmed_runs_first(
    frail: App, stream: RedisStreamHandler
) -> None:
    first = await frail.start_run(script(chunks=["one ", "one"]))
    conversation_id = first["conversation_id"]
    before = await frail.finish(first)
    second = await frail.start_run(script(chunks=LONG * 3, delay_seconds=0.05), conversation_id=conversation_id)

    async def is_trimmed() -> bool:
        # Accepting a run trims; this one is only for that.
        accepted = await stream.accept_run(conversation_id, "trimmer", "TravelPlanner")
        assert accepted is not None
        await stream.withdraw_run(conversation_id, "trimmer", accepted.claim)
        return first["correlation_id"] not in await stream.runs(conversation_id)

    await eventually(is_trimmed)
    path = f"/api/agent/stream/{conversation_id}"
    events = [event async for event in frail.follow(path, params={"cursor": before[0].id})]

    assert [event.event for event in events[:3]] == ["reset", "message", "done"]
    assert json.loads(events[0].data) == {"correlation_id": first["correlation_id"], "reason": "expired"}
    assert text_of(events[:3]) == "one one"
    assert text_of(events[3:]) == "".join(LONG * 3)
    assert await frail.events(path, {"cursor": events[2].id}) == events[3:]
    assert second["correlation_id"]


async def test_a_run_that_was_never_started_is_told_and_its_key_starts_it(
    frail: App, redis: RedisProcess, stream: RedisStreamHandler, conversation_id: str
) -> None:
    correlation_id = run_of_key("TravelPlanner", conversation_id, None)
    await stream.accept_run(conversation_id, correlation_id, "TravelPlanner")
    message = script(chunks=["started"])
    fingerprint = fingerprint_of(RunRequest(message, None, wait_for_response=False, idempotency_key=conversation_id))
    await stream.claim_key(correlation_id, f"{conversation_id} {fingerprint}", 60)
    await date_back(redis, conversation_id, correlation_id)
    path = f"/api/agent/stream/{conversation_id}?correlation_id={correlation_id}"

    events = [event async for event in frail.follow(path)]

    assert error_of(events)["code"] == "not_started"
    response = await frail.client.post(RUN_ROUTE, content=message, headers={"Idempotency-Key": conversation_id})
    assert response.json()["correlation_id"] == correlation_id
    assert response.json()["conversation_id"] == conversation_id
    assert [event.data for event in await frail.finish(response.json())] == ["started", "[DONE]"]


async def test_a_follower_that_goes_away_is_forgotten_at_once(app: App, redis_url: str) -> None:
    run = await app.start_run(script(chunks=["a"], hangs_after=1))
    client: Any = Redis.from_url(redis_url, decode_responses=True)
    async with client:

        async def streams_watched() -> int:
            return len(await client.execute_command("PUBSUB SHARDCHANNELS", f"*{run['conversation_id']}*"))

        async def is_watched() -> bool:
            return await streams_watched() == 1

        async def is_forgotten() -> bool:
            return await streams_watched() == 0

        async with app.client.stream("GET", run["stream_url"]) as response:
            # Kept, for the response is closed with its iterator.
            received = response.aiter_bytes()
            await anext(received)
            await eventually(is_watched)
        await eventually(is_forgotten)
    await app.client.post(f"/api/agent/runs/{run['correlation_id']}/cancel")


async def test_a_deleted_conversation_is_forgotten(app: App, model: ModelServer) -> None:
    run = await app.start_run(script(chunks=["secret plan"]))
    path = f"/api/agent/conversations/{run['conversation_id']}"
    await app.finish(run)
    busy = await app.start_run(script(chunks=["a"], hangs_after=1), conversation_id=run["conversation_id"])
    await anext(app.follow(busy["stream_url"]))

    refused = await app.client.delete(path)
    assert refused.status_code == httpx.codes.CONFLICT
    assert "open" in problem_detail(refused)
    await app.client.post(f"{busy['status_url']}/cancel")
    await app.finish(busy)

    for _ in range(2):
        assert (await app.client.delete(path)).status_code == httpx.codes.NO_CONTENT
    for gone in (path, run["stream_url"], run["status_url"], f"/api/agent/stream/{run['conversation_id']}"):
        assert (await app.client.get(gone)).status_code == httpx.codes.NOT_FOUND
    again = await app.start_run(script(chunks=["new"]), conversation_id=run["conversation_id"])
    assert text_of(await app.finish(again)) == "new"
    assert "secret plan" not in str(model.calls[-1])


async def test_promise_8_bounded_followers_over_the_limit_are_told(
    model: ModelServer, redis_url: str, state_dir: Path
) -> None:
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url, "STREAM_MAX_FOLLOWERS": "2"}
    async with running_app(state_dir, env) as app:
        run = await app.start_run(script(chunks=["a"], hangs_after=1))
        async with app.client.stream("GET", run["stream_url"]), app.client.stream("GET", run["stream_url"]):
            refused = await app.client.get(run["stream_url"])
            assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert "followers" in problem_detail(refused)
            assert int(refused.headers["retry-after"]) > 0

        async def is_served() -> bool:
            return (await app.get(run["stream_url"], {"follow": "false"})).status_code == httpx.codes.OK

        await eventually(is_served)


async def test_promise_6_one_writer_when_a_paused_host_wakes_up(
    redis: RedisProcess, model: ModelServer, state_dir: Path
) -> None:
    env = {
        "REDIS_CONNECTION_STRING": redis.url,
        "OPENAI_BASE_URL": model.base_url,
        "DEVHOST_LEASE_SECONDS": "1",
    }
    with HostProcess(state_dir, env=env) as zombie:
        async with app_of(zombie) as app:
            run = await app.start_run(script(chunks=LONG, delay_seconds=0.05))
        heir = HostProcess(state_dir, env=env)
        following = RecordingFollower(lambda: heir.base_url if heir.port else zombie.base_url, run["stream_url"])
        reading = asyncio.create_task(following.follow())
        await following.received(5)
        zombie.pause()
        with heir:
            await reading
            assert "reset" in [event.event for event in following.events]
            assert following.text == "".join(LONG)
            zombie.resume()
            zombie.wait_for_log("the attempt ends: stop")
            async with app_of(heir) as app:
                replayed = await app.events(run["stream_url"])
        assert text_of(replayed) == "".join(LONG)
        assert [event.event for event in replayed if event.event != "message"] == ["reset", "done"]


async def test_promise_1_nothing_lost_a_terminal_is_told_of_more_to_come_of_a_run_that_redis_lost_before_its_first_word(
    frail: App, redis: RedisProcess
) -> None:
    ahead = await frail.start_run(script(chunks=["never"], hangs_after=0))
    run = await frail.start_run(script(chunks=["the answer"]), conversation_id=ahead["conversation_id"])
    async with frail.client.stream("GET", run["stream_url"], headers={"Accept": "text/plain"}) as response:
        redis.kill()
        redis.lose_data()
        redis.start()
        told = (await response.aread()).decode()

    assert "There is more to come" in told, told
    await frail.client.post(f"{ahead['status_url']}/cancel")
    assert (await frail.finish(run))[-1].event == "done"
