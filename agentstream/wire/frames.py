"""The base of the wires whose Server-Sent Events are frames of JSON: one run's events in, frames out.

One entry of the stream can give several frames, so a frame's id is ``<entry>.<k>``, from 0. What a frame says depends
on the entries before it, so on resume the encoder is fed the run from its beginning, and leaves out what the follower
has.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from agentstream.model import FIRST_CURSOR, Event, cursor_order, parse_cursor

# Made once: json.dumps() makes a new encoder for each call.
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_FRAME_ID = re.compile(r"(?P<entry>[0-9]+-[0-9]+)(?:\.(?P<number>[0-9]{1,9}))?")


class Position(NamedTuple):
    """A place in the frames of a run, which sorts as they come.

    Attributes:
        entry: The entry, as ``cursor_order`` gives it.
        number: Which of its frames; infinite for the last, whichever that is.
    """

    entry: tuple[int, int]
    number: float

    @classmethod
    def parse(cls, frame_id: str) -> Self:
        """Return the place that a frame's id names; that of an entry names its last frame.

        Raises:
            ValueError: It is neither.
        """
        parts = _FRAME_ID.fullmatch(frame_id)
        if parts is None:
            raise ValueError(frame_id)
        number = math.inf if parts["number"] is None else int(parts["number"])
        return cls(cursor_order(parse_cursor(parts["entry"])), number)

    @property
    def cursor(self) -> str:
        """The entry's id; before all entries, where there is none."""
        return FIRST_CURSOR if self == NOWHERE else "{}-{}".format(*self.entry)


NOWHERE = Position((-1, -1), -1)


class FrameEncoder(ABC):
    """Encodes the events of one run, fed from its beginning.

    Args:
        after: What the follower has; only later frames are given.
    """

    def __init__(self, after: Position = NOWHERE) -> None:
        self._after = after

    @abstractmethod
    def opening(self) -> Sequence[Any]:
        """Return what stands before all events: a JSON value for each frame."""

    @abstractmethod
    def told(self, event: Event) -> Iterable[Any]:
        """Yield what tells of an event: a JSON value for each frame, or the bare text of one that is not JSON."""

    def is_new(self, entry: str, number: int) -> bool:
        """Return whether the follower has not got this frame."""
        return self._after is NOWHERE or Position(cursor_order(entry), number) > self._after

    def has_all_up_to(self, event: Event) -> bool:
        """Return whether the follower has had all of the run up to this event, which is not its end."""
        return not event.is_terminal and cursor_order(event.id) >= self._after.entry

    def begin(self) -> Iterator[bytes]:
        """Yield the frames before all events: they come before the first entry, and are there before any is."""
        yield from self._frames(FIRST_CURSOR, self.opening(), first=0)

    def encode(self, events: Iterable[Event]) -> Iterator[bytes]:
        """Yield the frames of the next events."""
        for event in events:
            if event.id == FIRST_CURSOR:
                # A reset that no entry holds: Redis has lost what the follower has, and all of the run follows.
                self._after = NOWHERE
                yield from self._frames(event.id, self.told(event), first=len(self.opening()))
            else:
                yield from self._frames(event.id, self.told(event), first=0)

    def _frames(self, entry: str, told: Iterable[Any], first: int) -> Iterator[bytes]:
        for number, data in enumerate(told, first):
            if self.is_new(entry, number):
                # From here on all is new, whatever its id: after a failover Redis may count from an earlier time.
                self._after = NOWHERE
                yield _frame(f"{entry}.{number}", data)


def _frame(frame_id: str, data: Any) -> bytes:
    text = data if isinstance(data, str) else _to_json(data)
    # A model's arguments may hold half a surrogate pair, which UTF-8 cannot.
    return f"id: {frame_id}\ndata: {text}\n\n".encode(errors="replace")
