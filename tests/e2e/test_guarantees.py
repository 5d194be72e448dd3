"""Promises 3 to 7 with what the real durable backends guarantee, and no more: see ``devhost.faults``."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from redis.asyncio import Redis

from agentstream.runs.starter import run_of_key
from agentstream.settings import Settings
from agentstream.stream.clients import create_stream_handler
from devhost.testing import HostProcess
from tests.app import RUN_ROUTE, App, app_of, error_of, running_app, text_of
from tests.model_server import ModelServer
from tests.recording_follower import RecordingFollower, problem_detail
from tests.redis_process import RedisProcess
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

FAULTS = "/runtime/webhooks/durabletask/faults"
LONG = [f"{number} " for number in range(40)]
TEXT = "".join(LONG)
TERMINAL = ("done", "error", "cancelled")
# What ends only when the run timer has fired: soon, or when the worker is back, however busy the machine is.
SOON = pytest.mark.parametrize("timed", ["5"], indirect=True)
LATE = pytest.mark.parametrize("timed", ["15"], indirect=True)


def running_frail(
    model: ModelServer, redis: RedisProcess, directory: Path, timer_seconds: str
) -> AbstractAsyncContextManager[App]:
    """Run an app on a host that does harm when it is asked to; each test leaves it running."""
    env = {
        "REDIS_CONNECTION_STRING": redis.url,
        "OPENAI_BASE_URL": model.base_url,
        "HEARTBEAT_SECONDS": "1",
        "RUN_TIMEOUT_SECONDS": timer_seconds,
        "DEVHOST_FAULTS": "1",
    }
    return running_app(directory, env)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def frail(redis: RedisProcess, model: ModelServer, durable_dir: Path) -> AsyncIterator[App]:
    async with running_frail(model, redis, durable_dir, "60") as app:
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def timed(
    request: pytest.FixtureRequest, redis: RedisProcess, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[App]:
    """One whose run timer fires after the parameter's seconds."""
    async with running_frail(model, redis, tmp_path_factory.mktemp("timed"), request.param) as app:
        yield app


async def order(app: App, fault: str, match: str = "", skip: int = 0) -> None:
    response = await app.client.post(f"{FAULTS}/{fault}", params={"match": match, "skip": skip})
    assert response.status_code == httpx.codes.ACCEPTED, response.text


async def start_and_follow(
    app: App, message: str, key: str = ""
) -> tuple[dict[str, Any], RecordingFollower, asyncio.Task[None]]:
    """Start a run, by an idempotency key if one is given, and follow it."""
    headers = {"Idempotency-Key": key} if key else {}
    response = await app.client.post(RUN_ROUTE, json={"message": message}, headers=headers)
    assert response.status_code == httpx.codes.ACCEPTED, response.text
    run: dict[str, Any] = response.json()
    following = RecordingFollower(lambda: app.host.base_url, run["stream_url"])
    return run, following, asyncio.create_task(following.follow())


async def assert_one_answer(app: App, run: dict[str, Any], following: RecordingFollower, text: str) -> None:
    """Check that follower, status, conversation and a later follower have one and the same answer, and one end."""
    assert (following.text, following.events[-1].event) == (text, "done")

    async def is_completed() -> bool:
        status = await app.run(run["correlation_id"])
        return (status["status"], status["response"]) == ("completed", text)

    await eventually(is_completed)
    messages = (await app.client.get(f"/api/agent/conversations/{run['conversation_id']}")).json()["messages"]
    assert [message["text"] for message in messages][1:] == [text]
    replayed = await app.events(run["stream_url"])
    assert text_of(replayed) == text
    assert [event.event for event in replayed if event.event in TERMINAL] == ["done"]


def calls_of(model: ModelServer, run: dict[str, Any], name: str) -> int:
    return len([call for call in model.calls if name in str(call["messages"][-1]["content"])])


async def test_promise_6_one_writer_though_an_operation_is_executed_twice_at_once(
    frail: App, model: ModelServer
) -> None:
    run, following, reading = await start_and_follow(frail, script(chunks=LONG, delay_seconds=0.03))
    await following.received(5)

    await order(frail, "overlap", run["conversation_id"])

    await reading
    await assert_one_answer(frail, run, following, TEXT)
    assert [event.event for event in following.events].count("reset") == 1

    async def has_settled() -> bool:
        return frail.host.log.count(f"run {run['correlation_id']}: attempt") == 2

    await eventually(has_settled)
    await assert_one_answer(frail, run, following, TEXT)
    another = await frail.start_run(script(chunks=["fine"]), conversation_id=run["conversation_id"])
    assert text_of(await frail.finish(another)) == "fine"


async def test_promise_4_done_means_committed_though_the_state_was_lost_after_the_response(
    frail: App, model: ModelServer, conversation_id: str
) -> None:
    # Slow enough for the POST to be answered before the host crashes.
    message = script(chunks=["the ", "answer ", conversation_id], delay_seconds=1)
    run, following, reading = await start_and_follow(frail, message)
    await order(frail, "crash_after_response", run["conversation_id"])
    await asyncio.to_thread(frail.host.wait)
    frail.host.start()

    await reading

    await assert_one_answer(frail, run, following, f"the answer {conversation_id}")
    assert calls_of(model, run, conversation_id) == 1, "the answer was there: the model is not asked again"


async def test_an_answer_whose_commit_was_refused_is_committed_by_the_next_execution(
    frail: App, model: ModelServer, conversation_id: str
) -> None:
    await order(frail, "refuse_commit")

    run, following, reading = await start_and_follow(frail, script(chunks=["the ", "answer ", conversation_id]))
    await reading

    await assert_one_answer(frail, run, following, f"the answer {conversation_id}")
    assert calls_of(model, run, conversation_id) == 1


async def test_done_waits_for_the_commit_though_redis_has_lost_what_was_answered(
    frail: App, redis: RedisProcess
) -> None:
    # Slow enough for the POST to be answered before the host crashes.
    run, following, reading = await start_and_follow(frail, script(chunks=["the ", "answer"], delay_seconds=1))
    await order(frail, "crash_after_response", run["conversation_id"])
    await asyncio.to_thread(frail.host.wait)
    redis.kill()
    redis.lose_data()
    redis.start()
    frail.host.start()

    await reading

    await assert_one_answer(frail, run, following, "the answer")


@SOON
async def test_promise_3_it_ends_when_the_worker_dies_in_a_step_of_the_orchestration(
    timed: App, conversation_id: str
) -> None:
    await order(timed, "die_in_step", run_of_key("TravelPlanner", conversation_id, None), skip=1)
    message = script(chunks=["so far"], hangs_after=1)
    run, following, reading = await start_and_follow(timed, message, conversation_id)
    await following.received(1)

    # An event that it does not wait for: a step all the same.
    instance = f"/runtime/webhooks/durabletask/instances/{run['correlation_id']}"
    await timed.client.post(f"{instance}/raiseEvent/step", json=None)

    await reading
    assert error_of(following.events)["code"] == "internal_error"
    status = await timed.run(run["correlation_id"])
    assert (status["status"], status["response"]) == ("failed", None)
    messages = (await timed.client.get(f"/api/agent/conversations/{run['conversation_id']}")).json()["messages"]
    assert [message["text"] for message in messages if message["role"] == "assistant"] == []


@pytest.mark.parametrize("cancelled", [False, True])
async def test_promise_4_done_means_committed_though_the_worker_dies_in_the_orchestrations_last_step(
    frail: App, redis: RedisProcess, conversation_id: str, cancelled: bool
) -> None:
    logged = {text: frail.host.log.count(text) for text in ("worker process died", "Ready")}
    # Its steps: the start, the cancellation if there is one, its marking, the entity's answer, the stream's end.
    correlation_id = run_of_key("TravelPlanner", conversation_id, None)
    await order(frail, "die_in_step", correlation_id, skip=4 if cancelled else 2)
    reply = (
        script(chunks=["the ", "answer", "never"], hangs_after=2) if cancelled else script(chunks=["the ", "answer"])
    )
    run, following, reading = await start_and_follow(frail, reply, conversation_id)
    await following.received(2)
    if cancelled:
        await frail.client.post(f"{run['status_url']}/cancel")
    await reading
    for text, times in logged.items():
        await asyncio.to_thread(frail.host.wait_for_log, text, times=times + 1)

    status = await frail.run(run["correlation_id"])
    assert (status["status"], status["response"]) == ("cancelled" if cancelled else "completed", "the answer")
    assert following.events[-1].event == ("cancelled" if cancelled else "done")
    redis.kill()
    redis.lose_data()
    redis.start()
    assert text_of(await frail.events(run["stream_url"])) == "the answer"


@SOON
async def test_promise_3_it_ends_though_an_answer_was_given_that_will_never_be_committed(
    timed: App, redis: RedisProcess
) -> None:
    run, following, reading = await start_and_follow(timed, script(chunks=["so far"], hangs_after=1))
    await following.received(1)
    # What an attempt leaves that answers, and whose operation the runtime then ends by itself.
    async with Redis.from_url(redis.url, decode_responses=True) as client:
        records: Any = client.hget(f"agent-runs:{{agent-stream:{run['conversation_id']}}}", run["correlation_id"])
        attempt = json.loads(await records)["attempt"]
    stream = create_stream_handler(Settings(redis_connection_string=SecretStr(redis.url)))
    await stream.answer_run(run["conversation_id"], run["correlation_id"], int(attempt))
    await stream.aclose()
    await order(timed, "function_timeout", run["conversation_id"])

    await reading

    assert error_of(following.events)["code"] == "internal_error"
    assert (await timed.run(run["correlation_id"]))["status"] == "failed"


async def test_promise_3_it_ends_when_the_worker_is_restarted_for_another_functions_sake(frail: App) -> None:
    run, following, reading = await start_and_follow(frail, script(chunks=LONG, delay_seconds=0.03))
    await following.received(5)

    await order(frail, "worker_death")

    await reading
    await assert_one_answer(frail, run, following, TEXT)


@LATE
async def test_promise_3_it_ends_when_the_agents_own_function_takes_longer_than_the_host_allows(timed: App) -> None:
    run, following, reading = await start_and_follow(timed, script(chunks=LONG, delay_seconds=0.03))
    await following.received(5)

    await order(timed, "function_timeout", run["conversation_id"])

    # The entity's answer is none that the SDK can read, which fails the orchestration; but it ends only when its run
    # timer has fired (TaskOrchestrationExecutor.cs of DurableTask.Core waits for all that is open).
    await reading
    assert error_of(following.events)["code"] == "internal_error"
    assert (await timed.run(run["correlation_id"]))["status"] == "failed"
    another = await timed.start_run(script(chunks=["fine"]), conversation_id=run["conversation_id"])
    assert text_of(await timed.finish(another)) == "fine"


async def test_cancelling_a_run_that_ends_meanwhile_is_409_never_503(app: App) -> None:
    statuses = set()
    for _ in range(10):
        run = await app.start_run(script(chunks=["a"]))
        cancels = [app.client.post(f"{run['status_url']}/cancel") for _ in range(5)]
        statuses |= {response.status_code for response in await asyncio.gather(*cancels)}
        await app.finish(run)
        statuses.add((await app.client.post(f"{run['status_url']}/cancel")).status_code)

    assert statuses <= {httpx.codes.ACCEPTED, httpx.codes.CONFLICT}


async def test_a_storm_of_cancels_is_one_event_for_the_orchestration(app: App) -> None:
    run = await app.start_run(script(chunks=["a"], hangs_after=1))
    await anext(app.follow(run["stream_url"]))

    responses = await asyncio.gather(*(app.client.post(f"{run['status_url']}/cancel") for _ in range(200)))

    assert [event.event for event in await app.finish(run)][-1] == "cancelled"
    assert {response.status_code for response in responses} <= {httpx.codes.ACCEPTED, httpx.codes.CONFLICT}
    status = await app.client.get(
        f"/runtime/webhooks/durabletask/instances/{run['correlation_id']}", params={"showHistory": "true"}
    )
    raised = [event for event in status.json()["historyEvents"] if event.get("Name") == "cancel"]
    assert len(raised) == 1


async def test_a_run_whose_start_was_refused_does_nothing_though_it_starts_later(
    frail: App, model: ModelServer, durable_dir: Path, conversation_id: str
) -> None:
    async def statuses() -> dict[str, str]:
        instances = await frail.client.get("/runtime/webhooks/durabletask/instances", params={"top": "1000"})
        return {instance["instanceId"]: instance["runtimeStatus"] for instance in instances.json()}

    before = await statuses()
    message = script(chunks=[conversation_id])
    # Whoever holds the write lock of the durable state makes the runtime slow.
    durable_state = sqlite3.connect(durable_dir / "durable.sqlite", isolation_level=None)
    durable_state.execute("BEGIN IMMEDIATE")
    refused = await frail.client.post(
        "/api/agents/TravelPlanner/run", json={"message": message, "conversation_id": conversation_id}
    )
    durable_state.execute("ROLLBACK")

    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "nothing was run" in problem_detail(refused)
    assert int(refused.headers["retry-after"]) > 0

    async def has_ended() -> bool:
        return [status for each, status in (await statuses()).items() if each not in before] == ["Completed"]

    await eventually(has_ended)
    assert conversation_id not in str(model.calls)
    assert await frail.events(f"/api/agent/stream/{conversation_id}") == []
    messages = await frail.client.get(f"/api/agent/conversations/{conversation_id}")
    assert messages.json()["messages"] == []
    again = await frail.start_run(message, conversation_id=conversation_id)
    assert text_of(await frail.finish(again)) == conversation_id


async def test_a_lone_surrogate_in_an_answer_harms_nothing(app: App, redis_url: str) -> None:
    run, following, reading = await start_and_follow(app, script(chunks=["half a \ud83d", " and a half"]))
    await reading

    await assert_one_answer(app, run, following, "half a \ufffd and a half")

    async with Redis.from_url(redis_url) as client:
        key = f"agent-stream:{run['conversation_id']}"
        assert await client.delete(key, f"agent-runs:{{{key}}}") == 2
    assert text_of(await app.events(run["stream_url"])) == "half a \ufffd and a half"
    another = await app.start_run(script(chunks=["fine"]), conversation_id=run["conversation_id"])
    assert text_of(await app.finish(another)) == "fine"


class TestEvicted:
    """Promise 7: a key that Redis evicted on its own is a loss like any other."""

    @pytest.mark.parametrize("key", ["agent-stream:{0}", "agent-runs:{{agent-stream:{0}}}"])
    async def test_promise_7_evicted_is_not_gone(self, app: App, redis_url: str, key: str) -> None:
        run, following, reading = await start_and_follow(app, script(chunks=["the ", "answer"]))
        await reading
        conversation_id = run["conversation_id"]

        for path in (run["stream_url"], f"/api/agent/stream/{conversation_id}"):
            async with Redis.from_url(redis_url) as client:
                assert await client.delete(key.format(conversation_id))
            events = await app.events(path)
            assert [event.event for event in events] == ["reset", "message", "done"]
            assert text_of(events) == "the answer"
        await assert_one_answer(app, run, following, "the answer")

    @pytest.mark.parametrize("key", ["agent-stream:{0}", "agent-runs:{{agent-stream:{0}}}"])
    async def test_promise_5_it_converges_though_a_key_is_evicted_in_the_middle_of_a_run(
        self, app: App, redis_url: str, key: str
    ) -> None:
        first = await app.start_run(script(chunks=["one"]))
        await app.finish(first)
        conversation_id = first["conversation_id"]
        message = script(chunks=LONG, delay_seconds=0.03)
        run = await app.start_run(message, conversation_id=conversation_id)
        following = RecordingFollower(lambda: app.host.base_url, run["stream_url"])
        reading = asyncio.create_task(following.follow())
        await following.received(5)

        async with Redis.from_url(redis_url) as client:
            assert await client.delete(key.format(conversation_id))

        await reading
        assert (following.text, following.events[-1].event) == (TEXT, "done")
        replayed = await app.events(f"/api/agent/stream/{conversation_id}")
        assert [event.event for event in replayed if event.event in TERMINAL] == ["done", "done"]
        texts = {event.data for event in replayed if event.event == "message"}
        assert "one" in texts, "the run that had ended before is restored"


class TestDeleted:
    """Promise 7: once a DELETE was answered, nothing of the conversation is served or written again."""

    async def gone(self, app: App, run: dict[str, Any]) -> None:
        for path in (
            f"/api/agent/conversations/{run['conversation_id']}",
            f"/api/agent/stream/{run['conversation_id']}",
            run["stream_url"],
            run["status_url"],
        ):
            response = await app.client.get(path)
            assert response.status_code == httpx.codes.NOT_FOUND, (path, response.text)

    async def delete(self, app: App, run: dict[str, Any]) -> httpx.Response:
        return await app.client.delete(f"/api/agent/conversations/{run['conversation_id']}")

    async def test_promise_7_deleted_is_gone_while_it_is_being_restored(self, frail: App, redis: RedisProcess) -> None:
        for number in range(10):
            run = await frail.start_run(script(chunks=[f"secret {number}"]))
            await frail.finish(run)
            await asyncio.to_thread(frail.host.wait_for_log, f"{run['correlation_id']} Completed")
            redis.kill()
            redis.lose_data()
            redis.start()
            restoring = [asyncio.create_task(frail.client.get(run["stream_url"])) for _ in range(5)]
            deleted = await self.delete(frail, run)
            await asyncio.gather(*restoring)

            assert deleted.status_code == httpx.codes.NO_CONTENT, deleted.text
            await self.gone(frail, run)

    async def test_promise_7_deleted_is_gone_when_a_cancel_comes_late(self, app: App) -> None:
        for _ in range(10):
            run = await app.start_run(script(chunks=["secret"]))
            await app.finish(run)
            cancels = [asyncio.create_task(app.client.post(f"{run['status_url']}/cancel")) for _ in range(10)]

            deleted = await self.delete(app, run)

            late = await asyncio.gather(*cancels)
            assert deleted.status_code == httpx.codes.NO_CONTENT, deleted.text
            assert {response.status_code for response in late} <= {httpx.codes.CONFLICT, httpx.codes.NOT_FOUND}
            await self.gone(app, run)

    async def test_promise_7_deleted_is_gone_when_a_paused_host_wakes_up(
        self, redis: RedisProcess, model: ModelServer, state_dir: Path
    ) -> None:
        env = {"REDIS_CONNECTION_STRING": redis.url, "OPENAI_BASE_URL": model.base_url, "DEVHOST_LEASE_SECONDS": "1"}
        with HostProcess(state_dir, env=env) as zombie:
            async with app_of(zombie) as app:
                run = await app.start_run(script(chunks=LONG, delay_seconds=0.05))
            heir = HostProcess(state_dir, env=env)
            following = RecordingFollower(lambda: heir.base_url if heir.port else zombie.base_url, run["stream_url"])
            reading = asyncio.create_task(following.follow())
            await following.received(5)
            zombie.pause()
            with heir:
                async with app_of(heir) as app:
                    await reading
                    assert following.text == TEXT

                    async def is_deleted() -> bool:
                        return (await self.delete(app, run)).status_code == httpx.codes.NO_CONTENT

                    await eventually(is_deleted)
                    zombie.resume()
                    await asyncio.to_thread(zombie.wait_for_log, "the attempt ends: stop")
                    await self.gone(app, run)
                    assert (await self.delete(app, run)).status_code == httpx.codes.NO_CONTENT

    async def test_a_new_message_begins_a_new_conversation_and_the_key_is_free(
        self, app: App, model: ModelServer, conversation_id: str
    ) -> None:
        async def post(text: str) -> httpx.Response:
            body = {"message": script(chunks=[text]), "conversation_id": conversation_id}
            return await app.client.post(
                "/api/agents/TravelPlanner/run", json=body, headers={"Idempotency-Key": conversation_id}
            )

        first = (await post("secret plan")).json()
        await app.finish(first)

        async def is_deleted() -> bool:
            return (await self.delete(app, first)).status_code == httpx.codes.NO_CONTENT

        await eventually(is_deleted)
        again = await post("new")

        assert again.status_code == httpx.codes.ACCEPTED, again.text
        assert text_of(await app.finish(again.json())) == "new"
        assert "secret plan" not in json.dumps(model.calls[-1])
