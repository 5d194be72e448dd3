import asyncio
from typing import Any

import pytest
from agent_framework import AgentResponse, Message

from agents.offline_planner import OfflinePlanner
from agents.travel_planner import create_travel_planner
from agents.travel_tools import get_local_events, get_weather_forecast
from agents.trip_plan import ask_for_destination
from agents.trip_request import MAX_DAYS
from callbacks import answer_text

FAST = 1_000_000.0


async def stream(messages: Any, tokens_per_second: float = FAST) -> tuple[list[str], AgentResponse]:
    """Return the texts that streamed and the final response."""
    updates = create_travel_planner(OfflinePlanner(tokens_per_second)).run(messages, stream=True)
    texts = [update.text async for update in updates if update.text]
    return texts, await updates.get_final_response()


async def test_a_plan_has_every_day_and_what_the_tools_told() -> None:
    texts, response = await stream("Plan a 3-day trip to Tokyo")

    plan = "".join(texts)
    assert plan == answer_text(response)
    assert plan.startswith("# 3 days in Tokyo\n\n")
    assert [f"## Day {day}:" in plan for day in range(1, 5)] == [True, True, True, False]
    for day in ("day 1", "day 2", "day 3"):
        for tool in (get_weather_forecast, get_local_events):
            assert tool("Tokyo", day).removesuffix(" (sample data)") in plan
    assert "sample data" in plan


async def test_the_framework_calls_each_tool_once_a_day() -> None:
    _, response = await stream("Plan a 2-day trip to Oslo")

    calls = [
        content for message in response.messages for content in message.contents if content.type == "function_call"
    ]
    assert [(call.name, call.parse_arguments()) for call in calls] == [
        (tool, {"destination": "Oslo", "date": f"day {day}"})
        for day in (1, 2)
        for tool in ("get_weather_forecast", "get_local_events")
    ]
    results = [
        content for message in response.messages for content in message.contents if content.type == "function_result"
    ]
    assert {result.call_id for result in results} == {call.call_id for call in calls}


async def test_a_follow_up_uses_the_conversation_so_far() -> None:
    _, first = await stream("Plan a 3-day trip to Tokyo")
    history = [Message("user", ["Plan a 3-day trip to Tokyo"]), *first.messages, Message("user", ["make it five days"])]

    texts, _ = await stream(history)

    assert "".join(texts).startswith("# 5 days in Tokyo\n")
    assert "## Day 5:" in "".join(texts)
    assert get_weather_forecast("Tokyo", "day 5").removesuffix(" (sample data)") in "".join(texts)


async def test_without_a_destination_it_asks_for_one() -> None:
    texts, response = await stream("Hello there")

    assert "".join(texts) == ask_for_destination()
    assert len(response.messages) == 1


async def test_more_days_than_can_be_planned_are_told() -> None:
    texts, _ = await stream("Plan a 30-day trip to Peru")

    plan = "".join(texts)
    assert f"You asked for 30 days; I plan at most {MAX_DAYS}" in plan
    assert plan.count("## Day ") == MAX_DAYS


async def test_it_streams_in_small_pieces_and_answers_the_same_without_streaming() -> None:
    texts, response = await stream("Plan a 1-day trip to Lima")

    assert max(map(len, texts)) < 40
    assert len(texts) > 50
    whole = await create_travel_planner(OfflinePlanner(FAST)).run("Plan a 1-day trip to Lima")
    assert answer_text(whole) == answer_text(response)


async def test_it_keeps_its_pace_by_the_loops_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("agents.offline_planner.asyncio.sleep", note)

    texts, _ = await stream("Hello there", tokens_per_second=10.0)

    # Sleeping is simulated, so each wait is counted from the start.
    assert slept[-1] == pytest.approx((len(texts) - 1) / 10, abs=0.05)


async def test_cancelling_it_stops_it() -> None:
    async with asyncio.timeout(5):
        planning = asyncio.create_task(stream("Plan a 14-day trip to Peru", tokens_per_second=0.1))
        await asyncio.sleep(0)
        planning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await planning
