"""The travel planner's tools. Their data is made up, the same for the same question, and says so."""

import hashlib
from typing import Annotated

SAMPLE = "sample data"

_SKIES = (("Sunny", 0), ("Mostly sunny", 10), ("Partly cloudy", 20), ("Overcast", 40), ("Showers", 60), ("Rain", 80))
_EVENTS = (
    "09:00 farmers' market on the main square",
    "15:00 open doors at local artists' studios",
    "17:00 street food festival",
    "19:30 chamber music in the concert hall",
    "20:00 open-air cinema in the park",
    "21:00 night market by lantern light",
)

Destination = Annotated[str, "The city or region, such as Tokyo."]
Date = Annotated[str, "The date, such as 2026-05-01, or the day of the trip, such as day 2."]


def get_weather_forecast(destination: Destination, date: Date) -> str:
    """Get the weather forecast of one day."""
    sky, chance = _SKIES[stable_number(len(_SKIES), destination, date, "sky")]
    low = 4 + stable_number(16, destination, "climate") + stable_number(4, destination, date, "low")
    high = low + 4 + stable_number(5, destination, date, "high")
    return f"{sky}, {low} to {high} °C, {chance}% chance of rain ({SAMPLE})"


def get_local_events(destination: Destination, date: Date) -> str:
    """Get what is on in a place on one day."""
    first = stable_number(len(_EVENTS), destination, date, "event")
    second = first + 1 + stable_number(len(_EVENTS) - 1, destination, date, "another")
    events = sorted((_EVENTS[first], _EVENTS[second % len(_EVENTS)]))
    return f"{'; '.join(events)} ({SAMPLE})"


def stable_number(below: int, *question: str) -> int:
    """Return a number from 0 to ``below`` - 1: the same in every process for the same question, in any case."""
    digest = hashlib.sha256("\n".join(question).casefold().encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") % below
