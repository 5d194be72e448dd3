"""What an attempt and the callback append beside the text, by the framework's real clients."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agent_framework import Agent, Content
from agent_framework.openai import OpenAIChatCompletionClient
from agent_framework_durabletask import RunRequest

from agentstream.attempt.callback import RedisStreamCallback
from agentstream.attempt.entity import Entity
from agentstream.model import RunKey
from agentstream.settings import MAX_TOOL_RESULT_BYTES
from agentstream.stream.handler import RedisStreamHandler
from tests.entities import MemoryState, run_entity
from tests.model_server import ModelServer
from tests.scripts import script, scripted_reply
from travel_planner.agent import create_travel_planner
from travel_planner.offline.client import OfflinePlanner

Told = list[tuple[str, Any]]

WEATHER = ("get_weather_forecast", {"destination": "Rome", "date": "day 1"})
EVENTS = ("get_local_events", {"destination": "Rome", "date": "day 1"})


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer(scripted_reply) as server:
        yield server


def planner(model: ModelServer, **options: Any) -> Agent:
    return create_travel_planner(
        OpenAIChatCompletionClient("test-model", api_key="x", base_url=model.base_url, **options)
    )


def surfaced_reasoning(message: Any, contents: Any) -> list[Content]:
    """What an app hands to the OpenAI client so that it passes on reasoning: on its own it knows none."""
    text = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return [*([Content.from_text_reasoning(text=text)] if text else []), *contents]


async def execute(
    handler: RedisStreamHandler, key: RunKey, agent: Any, message: str, max_bytes: int = MAX_TOOL_RESULT_BYTES
) -> Told:
    """Execute the run as the durable runtime does, and return what its stream tells."""
    request = RunRequest(message, key.correlation_id, options=key.options()).to_dict()
    batch = {
        "self": {"name": "dafx-travelplanner", "key": key.conversation_id},
        "state": None,
        "batch": [{"name": "run", "input": json.dumps(json.dumps(request)), "isSignal": False}],
    }
    entity = Entity(agent, asyncio.Semaphore(), fallback=True, max_tool_result_bytes=max_bytes)
    executed = json.loads(await entity.execute(json.dumps(batch)))
    assert not executed["results"][0]["isError"], executed
    return await told(handler, key.conversation_id)


async def told(handler: RedisStreamHandler, conversation_id: str) -> Told:
    batches = handler.read_stream(conversation_id, follow=False)
    events = [event async for batch in batches for event in batch]
    written: dict[int, list[int]] = {}
    for event in events:
        if not event.is_terminal and event.kind != "reset":
            written.setdefault(event.attempt, []).append(event.sequence)
    assert all(sequence == list(range(len(sequence))) for sequence in written.values())
    return [
        (event.kind, event.data if event.kind in ("message", "done") else json.loads(event.data)) for event in events
    ]


def joined(events: Told) -> Told:
    """Return the events with the pieces of a call, and those of a text, joined into one where they begin."""
    whole: dict[Any, Any] = {}
    for number, (kind, data) in enumerate(events):
        if kind == "tool_call":
            call = whole.setdefault((kind, data["id"]), [kind, {**data, "arguments": ""}])
            call[1]["arguments"] += data["arguments"]
        elif kind == "message" and whole and next(reversed(whole))[0] == "message":
            whole[next(reversed(whole))][1] += data
        else:
            whole[kind, number] = [kind, data]
    return [(kind, data) for kind, data in whole.values()]


@pytest.fixture
async def key(handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> RunKey:
    accepted = await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")
    assert accepted is not None
    return RunKey(conversation_id, correlation_id, accepted.created)


@pytest.mark.filterwarnings("ignore:An actionable function_call had an empty call_id")
@pytest.mark.parametrize("call_ids", ["first", "always", "late", "never"])
@pytest.mark.parametrize("interleaved", [False, True])
async def test_the_calls_results_and_usage_of_an_openai_model_are_told_in_their_order(
    handler: RedisStreamHandler, key: RunKey, model: ModelServer, call_ids: str, interleaved: bool
) -> None:
    message = script(
        chunks=["Day 1: ", "arrive"],
        tool_calls=[WEATHER, EVENTS],
        call_ids=call_ids,
        interleaved=interleaved,
        usage=[10, 5],
    )

    events = joined(await execute(handler, key, planner(model), message))

    calls, results = (
        [data for kind, data in events if kind == "tool_call"],
        [data for kind, data in events if kind == "tool_result"],
    )
    spent = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [WEATHER, EVENTS]
    assert [result["id"] for result in results] == [call["id"] for call in calls]
    assert all("sample data" in result["result"] for result in results)
    assert [kind for kind, _ in events] == [
        *["tool_call"] * 2,
        "usage",
        *["tool_result"] * 2,
        "message",
        "usage",
    ]
    assert [data for kind, data in events if kind == "usage"] == [spent, spent]
    assert ("message", "Day 1: arrive") in events
    if call_ids in ("late", "never"):
        assert calls[0]["id"] == f"{key.correlation_id}-call-1"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_the_reasoning_that_an_openai_client_is_taught_to_pass_on_is_told(
    handler: RedisStreamHandler, key: RunKey, model: ModelServer, name: str
) -> None:
    message = script(chunks=["Fine."], reasoning=["Let me ", "think.\r\n"], reasoning_field=name)

    events = await execute(handler, key, planner(model, response_parser=surfaced_reasoning), message)

    reasoning = [data for kind, data in events if kind == "reasoning"]
    assert "".join(data["text"] for data in reasoning) == "Let me think.\n"
    assert next(kind for kind, _ in events) == "reasoning"


async def test_the_openai_client_on_its_own_passes_on_no_reasoning(
    handler: RedisStreamHandler, key: RunKey, model: ModelServer
) -> None:
    events = await execute(handler, key, planner(model), script(chunks=["Fine."], reasoning=["secret"]))

    assert events == [("message", "Fine.")]


async def test_the_offline_planners_two_tools_are_told(handler: RedisStreamHandler, key: RunKey) -> None:
    events = await execute(
        handler, key, create_travel_planner(OfflinePlanner(1_000_000)), "Plan a 2-day trip to Rome", max_bytes=10
    )

    calls = [data for kind, data in events if kind == "tool_call"]
    results = [data for kind, data in events if kind == "tool_result"]
    assert [call["name"] for call in calls] == ["get_weather_forecast", "get_local_events"] * 2
    assert [json.loads(call["arguments"])["date"] for call in calls] == ["day 1", "day 1", "day 2", "day 2"]
    assert [result["id"] for result in results] == [call["id"] for call in calls]
    assert all(result["truncated"] and len(result["result"].encode()) <= 10 for result in results)


async def test_a_call_that_does_not_stream_tells_its_tools_after_a_reset(
    handler: RedisStreamHandler, key: RunKey, model: ModelServer
) -> None:
    # The stream breaks in the middle of the tool call, so the framework calls again without streaming.
    message = script(chunks=["Fine."], tool_calls=[WEATHER], fails_after=3, usage=[10, 5])

    events = await execute(handler, key, planner(model), message)

    kinds = [kind for kind, _ in events]
    after = events[kinds.index("reset") + 1 :]
    assert [kind for kind, _ in after] == ["message", "tool_call", "tool_result", "message", "usage"]
    assert json.loads(after[1][1]["arguments"]) == WEATHER[1]
    assert after[4][1] == {"input_tokens": 20, "output_tokens": 10, "total_tokens": 30}, "of both calls together"


async def test_an_attempt_that_was_fenced_appends_no_event(
    handler: RedisStreamHandler, key: RunKey, model: ModelServer
) -> None:
    """Promise 6: the tool of the first attempt returns only when there is a second one."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow_tool() -> str:
        """Wait."""
        begun.set()
        await go_on.wait()
        return "late"

    client: Any = OpenAIChatCompletionClient("test-model", api_key="x", base_url=model.base_url)
    zombie = Agent(client, "Plan.", name="TravelPlanner", tools=[slow_tool])
    executing = asyncio.create_task(
        execute(handler, key, zombie, script(chunks=["zombie"], tool_calls=[("slow_tool", {})]))
    )
    await begun.wait()

    events = await execute(handler, key, planner(model), script(chunks=["Fine."], tool_calls=[WEATHER]))
    go_on.set()
    await executing

    assert await told(handler, key.conversation_id) == events
    kinds = [kind for kind, _ in events]
    after = events[kinds.index("reset") :]
    assert "slow_tool" in json.dumps(events[: kinds.index("reset")]), "the first attempt's call was told"
    assert "late" not in json.dumps(events)
    assert [data["name"] for kind, data in joined(after) if kind == "tool_call"] == ["get_weather_forecast"]


async def test_the_callback_of_a_plain_app_tells_the_same(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, model: ModelServer
) -> None:
    callback = RedisStreamCallback(completes_stream=True, max_tool_result_bytes=10)
    message = script(chunks=["Day 1: ", "arrive"], tool_calls=[WEATHER, EVENTS], usage=[10, 5])

    await run_entity(planner(model), callback, RunRequest(message, correlation_id), MemoryState(conversation_id))

    events = joined(await told(handler, conversation_id))
    assert [kind for kind, _ in events] == [
        *["tool_call"] * 2,
        "usage",
        *["tool_result"] * 2,
        "message",
        "usage",
        "done",
    ]
    assert all(data["truncated"] for kind, data in events if kind == "tool_result")
