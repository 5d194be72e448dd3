"""The travel planner's tools. Their data is made up, the same for the same question, and says so."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, TypeVar

T = TypeVar("T")

SAMPLE = "sample data"

_SKIES = (
    ("Sunny", 0),
    ("Mostly sunny", 10),
    ("Partly cloudy", 20),
    ("Overcast", 40),
    ("Light showers", 60),
    ("Rain", 80),
)
_EVENTS = (
    "09:00 farmers' market on the main square",
    "10:00 guided walk through the old quarter",
    "11:00 design fair in a former warehouse",
    "12:30 lunchtime organ concert",
    "14:00 open studios of local artists",
    "15:30 tasting tour of small producers",
    "17:00 street food festival by the water",
    "18:30 rooftop jazz session",
    "19:30 chamber music in the concert hall",
    "20:00 open-air cinema in the park",
    "20:30 food stalls of the night market",
    "21:00 lights and music at the harbour",
)

Destination = Annotated[str, "The city or region, such as Tokyo."]
Date = Annotated[str, "The date, such as 2026-05-01, or the day of the trip, such as day 2."]


def get_weather_forecast(destination: Destination, date: Date) -> str:
    """Get the weather forecast of one day."""
    sky, rain_percent = _pick(_SKIES, destination, date, "sky")
    # A place has its climate; its days differ a little from it.
    low = 6 + _number(17, destination, "climate") + _number(4, destination, date, "low")
    high = low + 4 + _number(5, destination, date, "high")
    return f"{sky}, {low} to {high} °C, {rain_percent} % chance of rain ({SAMPLE})"


def get_local_events(destination: Destination, date: Date) -> str:
    """Get what is on in a place on one day."""
    first = _number(len(_EVENTS), destination, date, "event")
    second = first + 1 + _number(len(_EVENTS) - 1, destination, date, "another")
    events = sorted((_EVENTS[first], _EVENTS[second % len(_EVENTS)]))
    return f"{'; '.join(events)} ({SAMPLE})"


def _pick(choices: Sequence[T], *question: str) -> T:
    return choices[_number(len(choices), *question)]


def _number(below: int, *question: str) -> int:
    digest = hashlib.sha256("\n".join(question).casefold().encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") % below
