"""Tool calls, results, reasoning and usage over HTTP, for those who ask for them."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from devhost.testing import HostProcess
from tests.app import RUN_ROUTE, App, text_of
from tests.chat import AGUI_ROUTE, CHAT_ROUTE, agui_input, chat_input, data_of, frames_of
from tests.model_server import ModelServer
from tests.recording_follower import Received, RecordingFollower, problem_detail
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")

WEATHER = ("get_weather_forecast", {"destination": "Rome", "date": "day 1"})
EVENTS = ("get_local_events", {"destination": "Rome", "date": "day 1"})
ANSWER = ("Day 1:\r", "\n  arrive\n", "\n", "Day 2 ", "😀")
TEXT = "Day 1:\n  arrive\n\nDay 2 😀"
SPENT = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
TYPED = ("tool_call", "tool_result", "reasoning", "usage")
ALL = {"include": "all"}
TOOLS = {"include": "tools"}


def with_tools(**reply: Any) -> str:
    """Return a message to which the model replies with two tool calls, then its answer."""
    return script(**{"chunks": ANSWER, "tool_calls": [WEATHER, EVENTS], "usage": [10, 5], **reply})


@pytest_asyncio.fixture(loop_scope="session")
async def redis(redis_url: str) -> AsyncIterator[Any]:
    client = Redis.from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


def since_reset(events: list[Received]) -> list[Received]:
    """Return what a follower keeps: the events after the last reset."""
    resets = [number for number, event in enumerate(events) if event.event == "reset"]
    return events[resets[-1] + 1 :] if resets else events


def calls_of(events: list[Received]) -> dict[str, tuple[str, Any]]:
    """Return name and arguments of the calls that a follower keeps, by their ids."""
    calls: dict[str, tuple[str, str]] = {}
    for event in since_reset(events):
        if event.event == "tool_call":
            data = json.loads(event.data)
            name, arguments = calls.get(data["id"], (data.get("name", ""), ""))
            calls[data["id"]] = (name, arguments + data["arguments"])
    return {call_id: (name, json.loads(arguments)) for call_id, (name, arguments) in calls.items()}


def results_of(events: list[Received]) -> dict[str, str]:
    results = [json.loads(event.data) for event in since_reset(events) if event.event == "tool_result"]
    return {result["id"]: result["result"] for result in results}


def assert_tells_both_calls(events: list[Received]) -> None:
    calls, results = calls_of(events), results_of(events)
    assert list(calls.values()) == [WEATHER, EVENTS]
    assert list(results) == list(calls)
    assert all("sample data" in result for result in results.values())
    kinds = list(dict.fromkeys(event.event for event in since_reset(events) if event.event != "usage"))
    assert kinds == ["tool_call", "tool_result", "message", "done"]
    assert text_of(events) == TEXT


async def test_promise_1_nothing_lost_and_promise_2_nothing_twice_from_every_cursor_with_all_events(app: App) -> None:
    run = await app.start_run(with_tools())
    events = [event async for event in app.follow(run["stream_url"] + "&include=all")]

    assert_tells_both_calls(events)
    assert [json.loads(event.data) for event in events if event.event == "usage"] == [SPENT, SPENT]
    assert len({event.id for event in events}) == len(events)
    for path in (run["stream_url"], f"/api/agent/stream/{run['conversation_id']}"):
        assert await app.events(path, ALL) == events
        for position, event in enumerate(events):
            assert await app.events(path, {**ALL, "cursor": event.id}) == events[position + 1 :]


async def test_a_follower_that_is_cut_anywhere_has_all_tool_events_once(app: App) -> None:
    run = await app.start_run(with_tools(delay_seconds=0.02))
    following = RecordingFollower(
        lambda: app.host.base_url, run["stream_url"] + "&include=tools", cuts=random.Random(7)
    )

    await following.follow(60)

    assert following.connections > 1
    assert following.events == await app.events(run["stream_url"], TOOLS)
    assert_tells_both_calls(following.events)


async def test_without_include_the_stream_is_what_it_was_but_for_the_retry_line(app: App) -> None:
    run = await app.start_run(with_tools())
    everything = [event async for event in app.follow(run["stream_url"] + "&include=all")]
    texts = [event for event in everything if event.event not in TYPED]
    assert len(texts) < len(everything)

    response = await app.get(run["stream_url"])

    ids = [event.id for event in texts]
    # The chunk's line break was a CR and an LF, of which the LF came with the next one.
    assert response.content.decode() == (
        "retry: 500\n"
        f"id: {ids[0]}\nevent: message\ndata: Day 1:\n\n"
        f"id: {ids[1]}\nevent: message\ndata: \ndata:   arrive\ndata: \n\n"
        f"id: {ids[2]}\nevent: message\ndata: \ndata: \n\n"
        f"id: {ids[3]}\nevent: message\ndata: Day 2 \n\n"
        f"id: {ids[4]}\nevent: message\ndata: 😀\n\n"
        f"id: {ids[5]}\nevent: done\ndata: [DONE]\n\n"
    )
    assert (await app.get(run["stream_url"], {"include": ""})).content == response.content


async def test_a_follower_that_passes_events_over_resumes_from_any_id(app: App) -> None:
    run = await app.start_run(with_tools())
    everything = [event async for event in app.follow(run["stream_url"] + "&include=all")]
    texts = [event for event in everything if event.event not in TYPED]
    order = [event.id for event in everything]

    for position, cursor in enumerate(order):
        rest = [event for event in texts if event.id in order[position + 1 :]]
        assert await app.events(run["stream_url"], {"cursor": cursor}) == rest


@pytest.mark.parametrize(
    ("include", "kinds"),
    [
        ("tools", {"tool_call", "tool_result"}),
        ("usage", {"usage"}),
        ("usage,tools", {"tool_call", "tool_result", "usage"}),
        ("reasoning", set()),
        ("all", {"tool_call", "tool_result", "usage"}),
    ],
)
async def test_a_follower_is_told_what_it_asks_for(app: App, include: str, kinds: set[str]) -> None:
    run = await app.start_run(with_tools())
    await app.finish(run)

    events = await app.events(run["stream_url"], {"include": include})

    assert {event.event for event in events} == {"message", "done", *kinds}
    assert text_of(events) == TEXT


async def test_a_tool_call_is_told_while_the_tools_result_is_still_to_come(app: App) -> None:
    run = await app.start_run(with_tools(hangs_after=3))

    followed = app.follow(run["stream_url"] + "&include=tools")
    first, second = await anext(followed), await anext(followed)

    assert json.loads(first.data)["name"] == "get_weather_forecast"
    assert "name" not in json.loads(second.data)
    await app.client.post(f"/api/agent/runs/{run['correlation_id']}/cancel")


async def test_a_second_attempts_reset_drops_the_events_of_the_first(
    redis_url: str, model: ModelServer, state_dir: Path
) -> None:
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url, "HEARTBEAT_SECONDS": "1"}
    with HostProcess(state_dir, env=env) as host:
        async with httpx.AsyncClient(base_url=host.base_url, timeout=30) as client:
            run = await App(host, client).start_run(with_tools(delay_seconds=0.05))
        following = RecordingFollower(lambda: host.base_url, run["stream_url"] + "&include=all")
        reading = asyncio.create_task(following.follow(60))
        await following.received(5)

        host.restart()

        await reading
    kinds = [event.event for event in following.events]
    assert kinds.count("reset") == 1
    assert set(kinds[: kinds.index("reset")]) == {"tool_call"}
    assert json.loads(following.events[kinds.index("reset")].data)["reason"] == "attempt"
    assert_tells_both_calls(following.events)


class TestExpired:
    """Promise 7: what is restored from the durable state."""

    async def test_the_calls_and_results_come_again_with_the_text_in_their_order(self, app: App, redis: Any) -> None:
        run = await app.start_run(with_tools(delay_seconds=0.01))
        before = [event async for event in app.follow(run["stream_url"] + "&include=all")]
        conversation = f"/api/agent/stream/{run['conversation_id']}"
        for path in (run["stream_url"], conversation):
            await redis.delete(*await redis.keys(f"*{run['conversation_id']}*"))

            events = await app.events(path, ALL)

            assert json.loads(events[0].data) == {"correlation_id": run["correlation_id"], "reason": "expired"}
            assert_tells_both_calls(events)
            assert (calls_of(events), results_of(events)) == (calls_of(before), results_of(before))
            assert "usage" not in {event.event for event in events}
            assert [event.event for event in await app.events(path)] == ["reset", "message", "done"]
            for position, event in enumerate(events):
                assert await app.events(path, {**ALL, "cursor": event.id}) == events[position + 1 :]

    async def test_a_run_that_was_trimmed_is_told_from_the_durable_state_as_its_follower_asks(
        self, app: App, redis: Any
    ) -> None:
        first = await app.start_run(with_tools())
        await app.finish(first)
        second = await app.start_run(with_tools(chunks=["two"]), conversation_id=first["conversation_id"])
        kept = await app.finish(second)
        stream = f"agent-stream:{first['conversation_id']}"
        await redis.hdel(f"agent-runs:{{{stream}}}", first["correlation_id"])
        await redis.xtrim(stream, minid=(await app.events(second["stream_url"], ALL))[0].id, approximate=False)

        events = await app.events(f"/api/agent/stream/{first['conversation_id']}", TOOLS)
        texts = await app.events(f"/api/agent/stream/{first['conversation_id']}")

        trimmed = [event.event for event in events].index("done") + 1
        assert_tells_both_calls(events[:trimmed])
        assert list(calls_of(events[trimmed:]).values()) == [WEATHER, EVENTS]
        assert [event.event for event in texts] == ["reset", "message", "done", *(event.event for event in kept)]

    async def test_a_cancelled_runs_calls_do_not_come_again_but_its_text_does(self, app: App, redis: Any) -> None:
        run = await app.start_run(with_tools(chunks=[f"{number} " for number in range(100)], delay_seconds=0.05))
        followed = app.follow(run["stream_url"])
        assert (await anext(followed)).data == "0 "
        await app.client.post(f"/api/agent/runs/{run['correlation_id']}/cancel")
        ended = await app.finish(run)
        assert ended[-1].event == "cancelled"
        assert len(calls_of(await app.events(run["stream_url"], TOOLS))) == 2
        await redis.delete(*await redis.keys(f"*{run['conversation_id']}*"))

        events = await app.events(run["stream_url"], ALL)

        assert [event.event for event in events if event.event != "message"] == ["reset", "cancelled"]
        assert text_of(events) == text_of(ended)


class TestJson:
    async def test_the_data_of_every_event_is_one_line_of_json(self, app: App) -> None:
        run = await app.start_run(with_tools())
        await app.finish(run)

        response = await app.get(run["stream_url"], {**ALL, "format": "json"})
        events = await app.events(run["stream_url"], {**ALL, "format": "json"})

        plain = await app.events(run["stream_url"], ALL)
        assert [(event.id, event.event) for event in events] == [(event.id, event.event) for event in plain]
        for event, other in zip(events, plain, strict=True):
            expected = {"message": {"text": other.data}, "done": {"status": "completed"}}
            assert json.loads(event.data) == (expected.get(other.event) or json.loads(other.data))
        # As a client reads it that takes one line of data for the whole, which loses every line break else.
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        assert "".join(json.loads(line).get("text", "") for line in lines) == TEXT
        assert len(lines) == len(events)

    async def test_a_cancelled_runs_end_and_a_failed_ones_are_json_too(self, app: App) -> None:
        cancelled = await app.start_run(script(chunks=["a", "b"], hangs_after=1))
        followed = app.follow(cancelled["stream_url"] + "&format=json")
        assert json.loads((await anext(followed)).data) == {"text": "a"}
        await app.client.post(f"/api/agent/runs/{cancelled['correlation_id']}/cancel")
        assert json.loads([event async for event in followed][-1].data) == {"status": "cancelled"}

        failed = await app.start_run(script(status=500))
        events = [event async for event in app.follow(failed["stream_url"] + "&format=json")]

        assert json.loads(events[-1].data)["code"] == "model_error"

    async def test_a_follower_of_the_other_format_is_not_sent_what_was_encoded_for_this_one(self, app: App) -> None:
        run = await app.start_run(script(chunks=["a\nb"]))
        await app.finish(run)

        as_json = await app.events(run["stream_url"], {"format": "json"})
        plain = await app.events(run["stream_url"])

        assert [event.data for event in plain] == ["a\nb", "[DONE]"]
        assert [json.loads(event.data) for event in as_json] == [{"text": "a\nb"}, {"status": "completed"}]


@pytest.mark.parametrize(("name", "value"), [("include", "tool_calls"), ("include", "tools,text"), ("format", "xml")])
async def test_what_is_not_known_is_refused_at_once(app: App, name: str, value: str) -> None:
    run = await app.start_run(script(chunks=["a"]))

    response = await app.get(run["stream_url"], {name: value})

    assert response.status_code == httpx.codes.BAD_REQUEST
    assert name in problem_detail(response)
    await app.finish(run)


async def test_plain_text_is_the_bare_answer_whatever_is_included(app: App) -> None:
    run = await app.start_run(with_tools())
    await app.finish(run)

    response = await app.get(run["stream_url"], {**ALL, "format": "json"}, headers={"Accept": "text/plain"})

    assert response.text == TEXT + "\n"


async def test_the_answer_the_run_and_the_conversation_are_text(app: App) -> None:
    answered = await app.client.post(RUN_ROUTE, json={"message": with_tools(), "wait_for_response": True})
    run = answered.json()

    assert answered.status_code == httpx.codes.OK
    assert run["response"] == "".join(ANSWER)
    assert (await app.run(run["correlation_id"]))["response"] == "".join(ANSWER)
    conversation = await app.client.get(f"/api/agent/conversations/{run['conversation_id']}")
    assert [message["text"] for message in conversation.json()["messages"]][1:] == ["".join(ANSWER)]


@pytest.mark.parametrize(
    ("route", "body", "kinds"),
    [
        (AGUI_ROUTE, agui_input, ("TOOL_CALL_CHUNK", "TOOL_CALL_RESULT")),
        (CHAT_ROUTE, chat_input, ("tool-input-available", "tool-output-available")),
    ],
    ids=["ag_ui", "ui_message"],
)
async def test_the_wires_of_chat_clients_tell_the_calls_and_resume_after_any_of_their_frames(
    app: App, route: str, body: Any, kinds: tuple[str, str]
) -> None:
    response = await app.client.post(route, json=body(with_tools()))
    frames = frames_of(response)

    calls, results = ([data for data in data_of(frames) if data != "[DONE]" and data["type"] == kind] for kind in kinds)
    named = {call["toolCallId"]: call.get("toolCallName") or call.get("toolName") for call in calls}
    assert list(named.values()) == [WEATHER[0], EVENTS[0]]
    assert [result["toolCallId"] for result in results] == list(named)
    for number, (frame_id, _) in enumerate(frames[:-1], 1):
        resumed = await app.client.get(response.headers["location"], headers={"Last-Event-ID": frame_id})
        assert frames_of(resumed) == frames[number:], frame_id


async def test_the_offline_planner_really_calls_its_two_tools(redis_url: str, state_dir: Path) -> None:
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "OFFLINE_TOKENS_PER_SECOND": "1000",
        "MAX_TOOL_RESULT_BYTES": "20",
        "OPENAI_BASE_URL": "",
        "OPENAI_API_KEY": "",
    }
    with HostProcess(state_dir, env=env) as host:
        async with httpx.AsyncClient(base_url=host.base_url, timeout=30) as client:
            app = App(host, client)
            run = await app.start_run("Plan a 2-day trip to Rome")
            events = [event async for event in app.follow(run["stream_url"] + "&include=tools")]

    calls = calls_of(events)
    assert [name for name, _ in calls.values()] == ["get_weather_forecast", "get_local_events"] * 2
    assert [arguments["date"] for _, arguments in calls.values()] == ["day 1", "day 1", "day 2", "day 2"]
    assert list(results_of(events)) == list(calls)
    results = [json.loads(event.data) for event in events if event.event == "tool_result"]
    assert all(result["truncated"] and len(result["result"].encode()) <= 20 for result in results)
