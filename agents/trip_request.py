"""What the user's messages ask for: a destination and a number of days, as far as English words tell."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

DEFAULT_DAYS = 3
MAX_DAYS = 14
MAX_NAME_WORDS = 5

_NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()
_NUMBERS = {word: number for number, word in enumerate(_NUMBER_WORDS, 1)} | {"a": 1, "an": 1, "another": 1}
_DAYS_OF = {"day": 1, "night": 1, "weekend": 2, "week": 7, "fortnight": 14}
_SPAN = re.compile(
    rf"(?:\b(\d{{1,4}}|{'|'.join(_NUMBERS)})(?:\s+(?:more|extra))?[\s-]+)?\b({'|'.join(_DAYS_OF)})s?\b",
    re.IGNORECASE,
)
_LONGER = re.compile(r"\b(?:add|another|more|extra|longer by|extend(?: it)? by)\b", re.IGNORECASE)
_SHORTER = re.compile(r"\b(?:drop|remove|shorter by)\b|(?:day|night|week)s? (?:less|fewer|shorter)\b", re.IGNORECASE)

_TOKEN = re.compile(r"[^\W\d_][\w'’\-]*(?:\.(?=\s+[^\W\d_]))?|\d+|[^\w\s]")
# A place follows one of these, and even in lower case where there was talk of travelling.
_BEFORE_A_PLACE = set("to in visit visiting explore exploring about around through see of into for".split())
_TRAVEL = set(
    """
    trip trips travel travelling traveling go going fly flying visit visiting explore exploring itinerary journey
    tour holiday holidays vacation weekend week weeks day days night nights stay stop
    """.split()
)
# Small words inside a name: Rio de Janeiro, Isle of Man.
_INSIDE_A_NAME = set("de da do dos del della di la le las los el al of the am an der sur upon und y and".split())
_NO_PLACE = set(
    """
    i me my we us our you your it its a an the this that these those there here then now please instead again for
    with without on at from next during over by because since but so if when while and or in to as is are be was
    do does what how where why who which can could would should will may might shall must let lets let's plan
    planning make give create show add drop remove change replace write suggest tell help need want like book find
    include more less shorter longer fewer ok okay yes no thanks thank hello hi hey also just only maybe trip
    travel day days night nights week weeks weekend weekends fortnight visit explore go going see around about
    into of through some something anything relax eat sleep work january february march april may june july august
    september october november december monday tuesday wednesday thursday friday saturday sunday spring summer
    autumn fall winter
    """.split()
    + _NUMBER_WORDS
)


@dataclass(frozen=True, slots=True)
class TripRequest:
    """A trip: ``destination`` is None where none was named; ``days`` may be more than the ``MAX_DAYS`` planned."""

    destination: str | None = None
    days: int = DEFAULT_DAYS


def read_trip(messages: Iterable[str]) -> TripRequest:
    """Return what the user's messages, oldest first, ask for together: each changes what those before it said."""
    trip = TripRequest()
    for message in messages:
        trip = replace(
            trip, destination=_destination(message) or trip.destination, days=max(1, _days(message, trip.days))
        )
    return trip


def _days(message: str, before: int) -> int:
    spans = [(count, unit.lower()) for count, unit in _SPAN.findall(message)]
    counted = [(count, unit) for count, unit in spans if count or unit not in ("day", "night")]
    if not counted:
        return before
    count, unit = counted[0]
    days = (int(count) if count.isdecimal() else _NUMBERS.get(count.lower(), 1)) * _DAYS_OF[unit]
    if _SHORTER.search(message):
        return before - days
    return before + days if _LONGER.search(message) else days


def _destination(message: str) -> str | None:
    words = _TOKEN.findall(message)
    travelling = False
    for position, word in enumerate(words):
        travelling = travelling or word.lower() in _TRAVEL
        inside = position > 0 and _starts_a_name(words[position - 1 : position])
        if word.lower() in _BEFORE_A_PLACE and not inside:
            name = _name(words[position + 1 :], lower_case=travelling)
            if name:
                return name
    # Without such a word: "Rome instead", "Kyoto, 4 days".
    names = (_name(words[position:], lower_case=False) for position in range(len(words)))
    return next(filter(None, names), None)


def _name(words: list[str], *, lower_case: bool) -> str | None:
    """Return the name that the words begin with; in lower case only where that is allowed, and then capitalized."""
    if words and words[0].lower() == "the":
        words = words[1:]
    name: list[str] = []
    for position, word in enumerate(words[:MAX_NAME_WORDS]):
        inside = bool(name) and word in _INSIDE_A_NAME and _starts_a_name(words[position + 1 : position + 2])
        if not inside and (not word[0].isalpha() or word.lower() in _NO_PLACE):
            break
        if not inside and word[0].islower() and not lower_case:
            break
        name.append(word if inside or not word[0].islower() else word.capitalize())
    return " ".join(name) or None


def _starts_a_name(words: list[str]) -> bool:
    return bool(words) and words[0][0].isalpha() and not words[0][0].islower() and words[0].lower() not in _NO_PLACE
