"""How runs end: errors, the run timer, cancellation."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.app import App, error_of, running_app, text_of
from tests.model_server import ModelServer
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hurried(model: ModelServer, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """An app whose runs may take three seconds."""
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "OPENAI_BASE_URL": model.base_url,
        "RUN_TIMEOUT_SECONDS": "3",
        "NON_STREAMING_FALLBACK": "false",
    }
    async with running_app(tmp_path_factory.mktemp("state"), env) as app:
        yield app


FAILURES = {
    "at once": script(status=401),
    "in mid-stream": script(chunks=["Day ", "1 ", "is"], fails_after=2, streams_only=True),
    "after a tool call": script(
        tool_calls=[("get_weather_forecast", {"destination": "Tokyo", "date": "day 1"})],
        chunks=["a"],
        fails_after=0,
        streams_only=True,
    ),
}


async def cancel(app: App, run: dict[str, str]) -> httpx.Response:
    return await app.client.post(f"{run['status_url']}/cancel")


@pytest.mark.parametrize("when", FAILURES)
async def test_promise_3_it_ends_with_one_error_when_the_model_fails(app: App, when: str) -> None:
    run = await app.start_run(FAILURES[when])

    events = await app.finish(run)

    error = error_of(events)
    assert [event.event for event in events if event.event in ("done", "error", "cancelled")] == ["error"]
    assert (error["code"], error["correlation_id"]) == ("model_error", run["correlation_id"])
    assert "secret" not in error["message"]
    status = await app.run(run["correlation_id"])
    assert (status["status"], status["response"]) == ("failed", None)
    assert status["error"] == {"code": "model_error", "message": error["message"]}
    next_run = await app.start_run(script(chunks=["fine"]), conversation_id=run["conversation_id"])
    assert text_of(await app.finish(next_run)) == "fine"


async def test_promise_5_it_converges_when_the_framework_calls_the_model_a_second_time(app: App) -> None:
    run = await app.start_run(script(chunks=["Day ", "1 ", "is"], fails_after=2))

    events = await app.finish(run)

    assert "reset" in [event.event for event in events]
    assert text_of(events) == "Day 1 is" == (await app.run(run["correlation_id"]))["response"]
    assert events[-1].event == "done"
    assert f"run {run['correlation_id']}: calling the model a second time, without streaming" in app.host.log


async def test_a_tool_that_raises_does_not_end_the_run(app: App, model: ModelServer) -> None:
    call = ("get_weather_forecast", {"no_such_argument": 1})
    run = await app.start_run(script(tool_calls=[call], chunks=["No forecast."]))

    events = await app.finish(run)

    assert (text_of(events), events[-1].event) == ("No forecast.", "done")


async def test_cancelling_stops_the_model_and_commits_what_was_said(app: App, model: ModelServer) -> None:
    run = await app.start_run(script(chunks=["so ", "far", "never"], hangs_after=2))
    followed = app.follow(run["stream_url"])
    events = [await anext(followed), await anext(followed)]
    dropped = model.dropped

    first = await cancel(app, run)
    second = await cancel(app, run)

    assert (first.status_code, second.status_code) == (httpx.codes.ACCEPTED, httpx.codes.ACCEPTED)
    assert first.json()["status"] == "running"
    assert second.json() == first.json() | {"updated_at": second.json()["updated_at"]}
    events += [event async for event in followed]
    assert [event.data for event in events] == ["so ", "far", "[CANCELLED]"]

    async def model_was_left() -> bool:
        return model.dropped == dropped + 1

    await eventually(model_was_left)
    status = await app.run(run["correlation_id"])
    assert (status["status"], status["response"], status["error"]) == ("cancelled", "so far", None)
    messages = (await app.client.get(f"/api/agent/conversations/{run['conversation_id']}")).json()["messages"]
    assert messages[-1]["text"] == "so far"
    next_run = await app.start_run(script(chunks=["fine"]), conversation_id=run["conversation_id"])
    assert text_of(await app.finish(next_run)) == "fine"


async def test_a_run_cancelled_in_a_tool_call_leaves_a_conversation_that_works(
    app: App, model: ModelServer, conversation_id: str
) -> None:
    call = ("get_weather_forecast", {"destination": conversation_id, "date": "day 1"})
    run = await app.start_run(script(tool_calls=[call], hangs_after=3))

    async def is_calling() -> bool:
        return conversation_id in str(model.calls[-1:])

    await eventually(is_calling)
    await cancel(app, run)
    assert [event.event for event in await app.finish(run)] == ["cancelled"]

    next_run = await app.start_run(script(chunks=["fine"]), conversation_id=run["conversation_id"])

    assert text_of(await app.finish(next_run)) == "fine"
    assert not [message for message in model.calls[-1]["messages"] if message.get("tool_calls")]


async def test_a_run_cancelled_while_queued_ends_at_once_and_never_calls_the_model(
    app: App, model: ModelServer, conversation_id: str
) -> None:
    busy = await app.start_run(script(chunks=["busy", "never"], hangs_after=1), conversation_id=conversation_id)
    await anext(app.follow(busy["stream_url"]))
    queued = await app.start_run(script(chunks=[f"never {conversation_id}"]), conversation_id=conversation_id)
    assert (await app.run(queued["correlation_id"]))["status"] == "queued"

    assert (await cancel(app, queued)).status_code == httpx.codes.ACCEPTED

    assert [event.event for event in await app.finish(queued)] == ["cancelled"]
    await cancel(app, busy)
    await app.finish(busy)

    async def is_cancelled() -> bool:
        return bool((await app.run(queued["correlation_id"]))["status"] == "cancelled")

    await eventually(is_cancelled)
    last = await app.start_run(script(chunks=["fine"]), conversation_id=conversation_id)
    assert text_of(await app.finish(last)) == "fine"
    assert f"never {conversation_id}" not in [str(call["messages"][-1]["content"]) for call in model.calls]


async def test_a_finished_run_does_not_wait_for_its_timer(app: App) -> None:
    run = await app.start_run(script(chunks=["a"]))
    await app.finish(run)

    async def has_completed() -> bool:
        return f"orchestration run_agent {run['correlation_id']} Completed" in app.host.log

    await eventually(has_completed)


class TestRunTimer:
    async def test_a_model_that_hangs_ends_with_timeout_and_is_stopped(self, hurried: App, model: ModelServer) -> None:
        dropped = model.dropped
        run = await hurried.start_run(script(chunks=["so far"], hangs_after=1))

        events = await hurried.finish(run)

        assert error_of(events)["code"] == "timeout"

        async def model_was_left() -> bool:
            return model.dropped == dropped + 1

        await eventually(model_was_left)
        status = await hurried.run(run["correlation_id"])
        assert (status["status"], status["error"]["code"]) == ("timed_out", "timeout")
        next_run = await hurried.start_run(script(chunks=["fine"]), conversation_id=run["conversation_id"])
        assert text_of(await hurried.finish(next_run)) == "fine"

    async def test_the_fallback_can_be_turned_off(self, hurried: App, model: ModelServer, conversation_id: str) -> None:
        run = await hurried.start_run(script(chunks=[conversation_id, "b"], fails_after=1))

        assert error_of(await hurried.finish(run))["code"] == "model_error"
        assert [call["stream"] for call in model.calls if conversation_id in str(call)] == [True]
