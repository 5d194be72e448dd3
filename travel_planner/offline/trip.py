"""What the user's messages ask for: a destination, a number of days, a month, as far as English words tell."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT_DAYS = 3
MAX_DAYS = 14
MAX_NAME_WORDS = 5
# No trip is longer, and int() refuses texts of some thousand digits.
MAX_DIGITS = 6
MONTHS = "January February March April May June July August September October November December".split()

_UNITS = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = [ten if unit == "" else f"{ten}-{unit}" for ten in ("twenty", "thirty") for unit in ("", *_UNITS)]
_NUMBERS = {word: number for number, word in enumerate([*_UNITS, *_TEENS, *_TENS], 1)}
_COUNTS = _NUMBERS | dict.fromkeys(("a", "an", "another", "an-extra", "extra"), 1) | {"a-couple-of": 2, "a-few": 3}
_COUNT = "|".join(word.replace("-", r"[\s-]+") for word in _COUNTS)
_DAYS_OF = {"day": 1, "night": 1, "long weekend": 3, "weekend": 2, "week": 7, "fortnight": 14}
_SPAN = re.compile(
    rf"(?:\b(\d+|{_COUNT})(?:\s+(?:more|extra|less|fewer))?[\s-]+)?\b({'|'.join(_DAYS_OF)})s?\b", re.IGNORECASE
)
_BARE_COUNT = re.compile(rf"\W*(?:(?:make (?:it|that)|only|just)\s+)?(\d+|{'|'.join(_NUMBERS)})\W*", re.IGNORECASE)
_A_TIME = re.compile(r"\b(?:next|this|last|every|per) week\b", re.IGNORECASE)
_EXACT = re.compile(rf"\b(?:to|only|just)\s+(?:\d+|{_COUNT})[\s-]", re.IGNORECASE)
_LONGER = re.compile(r"\b(?:add|another|more|extra|longer(?!:)|extend)\b", re.IGNORECASE)
_SHORTER = re.compile(r"\b(?:drop|remove|cut|lose|shorten|shorter(?!:)|less|fewer)\b", re.IGNORECASE)
_MONTH = re.compile(rf"\b(?:in|during|early|late|mid|next|this|of)[\s-]+({'|'.join(MONTHS)})\b", re.IGNORECASE)

# A word is a letter and what follows it up to a space or a separator: "d'Ivoire", and marks such as those of "दिल्ली".
_TOKEN = re.compile(r"[^\W\d_][^\s,;:!?.()\[\]{}<>\"“”«»*_#/\\|、。！？，]*(?:\.(?=\s+[^\W\d_]))?|\d+|[^\w\s]")
# A place follows one of these, and even in lower case where there was talk of travelling.
_BEFORE_A_PLACE = set("to in visit visiting explore exploring about around through see of into for".split())
_TRAVEL = set(
    """
    trip trips travel travelling traveling go going fly flying visit visiting explore exploring itinerary journey
    tour holiday holidays vacation honeymoon weekend week weeks day days night nights stay stop
    """.split()
)
# Small words inside a name: Rio de Janeiro, Isle of Man. Those of the second set also join names in lower case.
_PARTICLES = set("da de del della di do dos el la las los".split())
_INSIDE_A_NAME = _PARTICLES | set("al am an and der of on sur the und upon y".split())
# A message that begins with a name goes on with one of these, if with a word: "Rome for 4 days".
_AFTER_A_NAME = set("for in instead next now over please then with a".split()) | set(_NUMBERS)
_SWITCH = set("actually change instead meant rather switch".split())
_OPENERS = set(
    """
    actually amazing awesome brilliant cool excellent fantastic fine flying good great lovely nice perfect rather
    right sorry super sure surprise well wonderful wow
    """.split()
)
_LANGUAGES = set("chinese english french german italian japanese portuguese spanish".split())
_NO_PLACE = set(
    """
    i me my we us our you your it its a an the this that these those there here then now please instead again for
    with without on at from next during over by because since but so if when while and or in to as is are be was
    do does what how where why who which can could would should will may might shall must let
    plan planning make give create show add drop remove change replace write suggest tell help need want like book find
    include more less shorter longer fewer ok okay yes no thanks thank hello hi hey also just only maybe trip
    travel day days night nights week weeks weekend weekends fortnight visit explore go going see around about
    into of through some something anything relax eat sleep work morning afternoon evening monday tuesday wednesday
    thursday friday saturday sunday spring summer autumn fall winter
    """.split()
    + list(_NUMBERS)
    + [month.lower() for month in MONTHS]
)


@dataclass(frozen=True, slots=True)
class TripRequest:
    """A trip.

    Args:
        destination: The place; None where none was named.
        days: At least 1; may be more than the ``MAX_DAYS`` planned.
        month: The English name of the month; None where none was named.
    """

    destination: str | None = None
    days: int = DEFAULT_DAYS
    month: str | None = None


def read_trip(messages: Iterable[str]) -> TripRequest:
    """Return what the user's messages, oldest first, ask for together: each changes what those before it said."""
    trip = TripRequest()
    for message in messages:
        month = _MONTH.search(message)
        trip = TripRequest(
            _destination(message, is_known=trip.destination is not None) or trip.destination,
            max(1, _days(message, trip)),
            month.group(1).capitalize() if month else trip.month,
        )
    return trip


def _days(message: str, trip: TripRequest) -> int:
    message = _A_TIME.sub(" ", message)
    bare = _BARE_COUNT.fullmatch(message)
    if bare:
        return _count(bare.group(1))
    spans = [(count, unit.lower()) for count, unit in _SPAN.findall(message)]
    counted = [(count, unit) for count, unit in spans if count or unit not in ("day", "night")]
    days = _count(counted[0][0]) * _DAYS_OF[counted[0][1]] if counted else None
    # A change needs a trip to change: "drop us in Rome for 4 days" is none.
    if trip.destination is not None and not _EXACT.search(message):
        if _SHORTER.search(message) and (counted or re.search("shorter", message, re.IGNORECASE)):
            return trip.days - (days or 1)
        if _LONGER.search(message) and (counted or re.search("longer", message, re.IGNORECASE)):
            return trip.days + (days or 1)
    return trip.days if days is None else days


def _count(text: str) -> int:
    if text.isdecimal():
        return int(text) if len(text) <= MAX_DIGITS else 10**MAX_DIGITS
    return _COUNTS.get(re.sub(r"[\s-]+", "-", text.lower()), 1)


def _destination(message: str, *, is_known: bool) -> str | None:
    words = [word.rstrip("'’-") for word in _TOKEN.findall(message.replace("’", "'"))]
    words = [word for word in words if word]
    lowered = [word.lower() for word in words]
    after = [
        position + 1
        for position, word in enumerate(lowered)
        if word in _BEFORE_A_PLACE and not (word in _INSIDE_A_NAME and _starts_a_name(words[position - 1 : position]))
    ]
    travelling = next((position for position, word in enumerate(lowered) if word in _TRAVEL), len(words))
    names = [_name(words, position) for position in after]
    names += [_name(words, position, lower_case=True) for position in after if position > travelling]
    return next(filter(None, names), None) or _bare_name(words, lowered, is_known)


def _bare_name(words: list[str], lowered: list[str], is_known: bool) -> str | None:
    """Return a place that no preposition tells of: "Rome instead", "Kyoto, 4 days", "new york"."""
    name = _name(words, 0, lower_case=not is_known)
    if name and lowered[0] not in _OPENERS:
        follows = lowered[len(_TOKEN.findall(name)) :][:1]
        is_capitalized = not words[0].islower()
        if not follows or not follows[0][0].isalpha() or (is_capitalized and follows[0] in _AFTER_A_NAME):
            return name
    if is_known and not _SWITCH.intersection(lowered):
        return None
    return next(filter(None, (_name(words, position) for position in range(1, len(words)))), None)


def _name(words: list[str], start: int, *, lower_case: bool = False) -> str | None:
    """Return the name that starts there; in lower case only where that is allowed, and then capitalized."""
    article = [word for word in words[start : start + 1] if word.lower() == "the"]
    start += len(article)
    name: list[str] = []
    for position, word in enumerate(words[start : start + MAX_NAME_WORDS], start + 1):
        following = words[position : position + 1]
        if name and word in _INSIDE_A_NAME and _starts_a_name(following, lower_case=lower_case and word in _PARTICLES):
            name.append(word)
        elif _starts_a_name([word], lower_case=lower_case):
            name.append(word.capitalize() if word.islower() else word)
        else:
            break
    if not name or (len(name) == 1 and name[0].lower() in _LANGUAGES):
        return None
    return " ".join(article + name)


def _starts_a_name(words: list[str], *, lower_case: bool = False) -> bool:
    if not words or not words[0][0].isalpha() or (words[0].islower() and not lower_case):
        return False
    # "I'm" is no more a place than "I".
    return words[0].lower().partition("'")[0] not in _NO_PLACE
