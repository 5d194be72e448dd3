"""The travel planner's tools. Their data is made up, the same for the same question, and says so."""

import hashlib
import math
import re
from typing import Annotated

SAMPLE = "sample data"

_SKIES = (
    ("Sunny", 0),
    ("Mostly sunny", 10),
    ("Partly cloudy", 20),
    ("Overcast", 40),
    ("Light {}", 60),
    ("{}", 80),
)
# Where July is in winter; elsewhere it is in summer.
_SOUTH = set(
    """
    argentina auckland australia bolivia botswana brazil brisbane brasília chile christchurch johannesburg lima
    madagascar mauritius melbourne montevideo mozambique namibia nairobi paraguay patagonia perth peru queenstown
    santiago sydney tasmania tanzania uruguay wellington zambia zimbabwe
    """.split()
) | {"buenos aires", "cape town", "new zealand", "rio de janeiro", "south africa", "são paulo"}
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = re.compile(rf"\d{{4}}-(\d\d)\b|\b({'|'.join(_MONTHS)})", re.IGNORECASE)
_EVENTS = (
    "09:00 Harvest & Hearth farmers' market on the main square",
    "10:00 Hidden Courtyards, a guided walk through the old quarter",
    "11:00 Made Here design fair in a former warehouse",
    "12:30 Pipes at Noon, a lunchtime organ concert",
    "14:00 Open Doors, an afternoon in local artists' studios",
    "15:30 First Press, a tasting tour of small producers",
    "17:00 Thousand Spoons street food festival",
    "18:30 Blue Hour, a rooftop jazz session",
    "19:30 Four Strings, chamber music in the concert hall",
    "20:00 Stars Above, an open-air cinema in the park",
    "20:30 Lantern Lane night market",
    "21:00 City of Light, a show of lights and music",
)

Destination = Annotated[str, "The city or region, such as Tokyo."]
Date = Annotated[str, "The date, such as 2026-05-01, or the day of the trip, such as day 2 or day 2 in May."]


def get_weather_forecast(destination: Destination, date: Date) -> str:
    """Get the weather forecast of one day."""
    sky, chance = _SKIES[stable_number(len(_SKIES), destination, date, "sky")]
    # A place has its climate, the warmer the evener; its days differ a little from it.
    climate = stable_number(9, destination, "climate")
    warmth = round((9 - climate // 2) * _season(destination, date))
    low = 7 + climate + warmth + stable_number(4, destination, date, "low")
    high = low + 4 + stable_number(5, destination, date, "high")
    kind, falls = ("snow", "snow") if low < 0 else ("rain", "showers" if chance < 80 else "rain")
    sky = sky.format(falls).capitalize()
    return f"{sky}, {low} to {high} °C, {chance}% chance of {kind} ({SAMPLE})"


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


def _season(destination: str, date: str) -> float:
    """Return 1 in midsummer, -1 in midwinter, and 0 where the date names no month."""
    found = _MONTH.search(date)
    if found is None:
        return 0.0
    month = int(found.group(1)) if found.group(1) else _MONTHS.index(found.group(2).lower()) + 1
    summer = math.cos((month - 7) * math.pi / 6)
    return -summer if destination.casefold() in _SOUTH else summer
