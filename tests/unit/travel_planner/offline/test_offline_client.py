import asyncio
from typing import Any

import pytest
from agent_framework import Agent, AgentResponse, Content
from agent_framework_durabletask import AgentEntity, AgentEntityStateProviderMixin

from agentstream.agent_memory import answer_text
from tests.recorded import recording
from travel_planner.agent import create_travel_planner
from travel_planner.offline.client import OfflinePlanner
from travel_planner.offline.plan import ASK_FOR_DESTINATION
from travel_planner.tools import get_local_events, get_weather_forecast

FAST = 1_000_000.0


async def stream(message: str, tokens_per_second: float = FAST) -> tuple[list[str], AgentResponse]:
    """Return the texts that streamed and the final response."""
    updates = create_travel_planner(OfflinePlanner(tokens_per_second)).run(message, stream=True)
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
            assert tool("Tokyo", day) in plan
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


class InMemoryState(AgentEntityStateProviderMixin):
    """Keeps the state as the durable runtime does: as what it serializes to."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def _get_state_dict(self) -> dict[str, Any]:
        return self.kept

    def _set_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = state
        self._state_cache = None

    def _get_session_id_from_entity(self) -> str:
        return "conversation"


async def test_the_history_that_the_durable_entity_replays_is_understood() -> None:
    entity = AgentEntity(create_travel_planner(OfflinePlanner(FAST)), state_provider=InMemoryState())
    titles = []
    contents: list[Content] = []
    for number, message in enumerate(["Plan a 3-day trip to Tokyo", "make it five days", "what about Rome instead?"]):
        response = await entity.run({"message": message, "correlationId": str(number)})
        titles.append(answer_text(response).partition("\n")[0])
        contents += [content for message in response.messages for content in message.contents]

    assert titles == ["# 3 days in Tokyo", "# 5 days in Tokyo", "# 5 days in Rome"]
    assert get_weather_forecast("Rome", "day 1") in answer_text(response)
    call_ids = [content.call_id for content in contents if content.type == "function_call"]
    assert len(call_ids) == len(set(call_ids)) == 2 * (3 + 5 + 5)


async def test_it_calls_only_the_tools_it_is_offered() -> None:
    response = await Agent(OfflinePlanner(FAST), tools=[get_local_events]).run("Plan a 1-day trip to Oslo")

    names = [content.name for content in response.messages[0].contents]
    assert names == ["get_local_events"]
    assert "What's on" in response.text
    assert "Weather" not in response.text


async def test_a_tool_that_fails_leaves_the_plan_whole() -> None:
    def get_weather_forecast(destination: str, date: str) -> str:
        raise ConnectionError("the weather service is away")

    response = await Agent(OfflinePlanner(FAST), tools=[get_weather_forecast, get_local_events]).run("2 days in Oslo")

    assert "## Day 2:" in response.text
    assert "What's on" in response.text
    assert "Weather" not in response.text
    assert "Error" not in response.text


async def test_without_a_destination_it_asks_for_one() -> None:
    texts, response = await stream("Hello there")

    assert "".join(texts) == ASK_FOR_DESTINATION
    assert len(response.messages) == 1


async def test_it_streams_in_small_pieces_and_answers_the_same_without_streaming() -> None:
    texts, response = await stream("Plan a 1-day trip to Lima")

    assert max(map(len, texts)) < 40
    assert len(texts) > 50
    whole = await create_travel_planner(OfflinePlanner(FAST)).run("Plan a 1-day trip to Lima")
    assert answer_text(whole) == answer_text(response)


async def test_it_keeps_its_pace_by_the_loops_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    sleep = asyncio.sleep

    async def pass_by(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        await sleep(0)

    monkeypatch.setattr("travel_planner.offline.client.asyncio.sleep", pass_by)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)

    texts, _ = await stream("Hello there", tokens_per_second=10.0)

    assert clock - 100 == pytest.approx((len(texts) - 1) / 10)


async def test_a_trace_shows_its_calls_as_those_of_any_model() -> None:
    with recording() as recorded:
        await stream("Plan a 1-day trip to Oslo")

        names = [span.name for span in recorded.spans]
        assert names.count("chat offline-planner") == 2
        assert "Oslo" not in str([span.to_json() for span in recorded.spans])


async def test_cancelling_it_between_two_tokens_stops_it() -> None:
    said = asyncio.Event()

    async def plan() -> None:
        agent = create_travel_planner(OfflinePlanner(tokens_per_second=0.01))
        async for update in agent.run("Plan a 14-day trip to Peru", stream=True):
            if update.text:
                said.set()

    async with asyncio.timeout(5):
        planning = asyncio.create_task(plan())
        await said.wait()
        planning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await planning
