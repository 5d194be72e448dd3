"""What the user's messages ask for: a destination and a number of days, as far as a few English words tell."""

import calendar
import re
from collections.abc import Iterable
from typing import NamedTuple

_NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()
_COUNTS = {word: number for number, word in enumerate(_NUMBERS, 1)} | dict.fromkeys(("a", "an", "another"), 1)
_DAYS_OF = {"day": 1, "night": 1, "weekend": 2, "week": 7}
# No trip needs more digits, and int() refuses some thousand of them.
_SPAN = re.compile(rf"\b(\d{{1,4}}|{'|'.join(_COUNTS)})(?: more)?[\s-]+({'|'.join(_DAYS_OF)})s?\b")
_CHANGE = re.compile(r"\b(?:(add|another|more)|remove|drop|less|fewer)\b")

_TOKEN = re.compile(r"[^\s,.;:!?()\"]+|[,.;:!?()\"]")
_BEFORE_A_PLACE = set("to in visit explore around about now it".split())
# In lower case a place is known by the words before it: "a trip to rome", "4 days in rome", "visit rome".
_TRAVEL = set("trip travel go day days week weekend visit".split())
_INSIDE_A_PLACE = set("de da do del la".split())
_AFTER_A_PLACE = set(", . ; : ! ? for in from with on over next instead please and then".split())
_NO_PLACE = _AFTER_A_PLACE | set("i hello hi hey thanks great nice yes no ok okay help sorry the".split())
_NO_PLACE |= {*_COUNTS, *(month.lower() for month in calendar.month_name)}


class Trip(NamedTuple):
    """A trip of at least one day; the destination is None where no message named one."""

    destination: str | None = None
    days: int = 3


def read_trip(messages: Iterable[str]) -> Trip:
    """Return what the user's messages, oldest first, ask for together: each changes what those before it said."""
    trip = Trip()
    for message in messages:
        trip = Trip(_destination(message) or trip.destination, max(1, _days(message, trip)))
    return trip


def _days(message: str, trip: Trip) -> int:
    message = message.lower()
    found = _SPAN.search(message)
    if found is None:
        return trip.days
    count, unit = found.groups()
    days = (_COUNTS.get(count) or int(count)) * _DAYS_OF[unit]
    change = _CHANGE.search(message)
    if change is None or trip.destination is None:
        return days
    return trip.days + (days if change.group(1) else -days)


def _destination(message: str) -> str | None:
    words = _TOKEN.findall(message)
    lowered = [word.lower() for word in words]
    for position, word in enumerate(lowered, 1):
        if word in _BEFORE_A_PLACE:
            is_travel = not _TRAVEL.isdisjoint(lowered[max(0, position - 2) : position])
            name = _name(words[position : position + 5], in_lower_case=is_travel)
            if name:
                return name
    # "Rome", "New York for 4 days"; but no sentence that merely begins with a capital.
    name = _name(words[:5])
    return name if name and set(lowered[len(name.split()) :][:1]) <= _AFTER_A_PLACE else None


def _name(words: list[str], *, in_lower_case: bool = False) -> str | None:
    name: list[str] = []
    for word in words:
        is_inside = bool(name) and word in _INSIDE_A_PLACE
        is_lower = word.islower() and not is_inside and not (in_lower_case and words[0].islower())
        if is_lower or word.lower() in _NO_PLACE or not word[0].isalpha():
            break
        name.append(word if is_inside else word[0].upper() + word[1:])
    return " ".join(name) or None
