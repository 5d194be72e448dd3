import pytest

from agents.travel_tools import get_local_events, get_weather_forecast

TOOLS = [get_weather_forecast, get_local_events]


@pytest.mark.parametrize("tool", TOOLS)
def test_the_same_question_has_the_same_answer_that_says_what_it_is(tool: object) -> None:
    assert callable(tool)
    assert tool("Tokyo", "day 1") == tool("tokyo", "Day 1")
    assert "sample data" in tool("Tokyo", "day 1")


@pytest.mark.parametrize("tool", TOOLS)
def test_places_and_days_differ(tool: object) -> None:
    assert callable(tool)
    assert len({tool(place, f"day {day}") for place in ("Tokyo", "Oslo", "Lima") for day in range(5)}) > 8


def test_two_different_events_are_told_in_order_of_time() -> None:
    for day in range(100):
        first, second = get_local_events("Tokyo", f"day {day}").removesuffix(" (sample data)").split("; ")
        assert first < second
