"""One reading of a stream: what is there, in pages, and then what comes, live."""

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass

from agentstream.model import FURTHER_KINDS, Event, cursor_order
from agentstream.stream.watcher import Subscription

FIRST_PAGE_ENTRIES = 32


@dataclass(frozen=True, slots=True)
class Page:
    """What one read of a stream brought.

    Attributes:
        is_open: Whether a run that is followed is open.
        events: What the entries tell.
        cursor: The last entry that was read, whoever wrote it.
        is_full: Whether there may be more.
        next_count: How many entries to read next.
    """

    is_open: bool
    events: list[Event]
    cursor: str
    is_full: bool
    next_count: int


class Reading:
    """Reads on from a cursor.

    Args:
        read_page: Returns the page after a cursor, of so many entries at most.
        subscribe: Returns a subscription to what comes after a cursor from now on.
        cursor: Where to begin.
        correlation_id: Only this run's events, ending at its terminal event; None for those of all runs, ending when
            no run is open.
        include: Of the ``FURTHER_KINDS`` of events those that are followed; what is not is passed over.
        follow: Whether to wait for more while a run is open.
        silence_seconds: After this long without an event there is a silence to tell of.
        deadline: When the reading ends, in monotonic seconds.
    """

    def __init__(
        self,
        read_page: Callable[[str, int], Awaitable[Page]],
        subscribe: Callable[[str], Subscription[Event]],
        *,
        cursor: str,
        correlation_id: str | None,
        include: Collection[str] = FURTHER_KINDS,
        follow: bool,
        silence_seconds: float,
        deadline: float,
    ) -> None:
        self._read_page = read_page
        self._subscribe = subscribe
        self._cursor = cursor
        self._correlation_id = correlation_id
        self._passed_over = FURTHER_KINDS.difference(include)
        self._follow = follow
        self._silence_seconds = silence_seconds
        self._deadline = deadline
        self._page_entries = FIRST_PAGE_ENTRIES
        self._subscription: Subscription[Event] | None = None
        self._begun = False
        self._ended = False
        # Since when nothing was told, in monotonic seconds.
        self._silent_since = time.monotonic()

    async def batches(self) -> AsyncGenerator[list[Event], None]:
        """Yield what each round trip brought, oldest first; an empty list where a run is open and nothing is told."""
        try:
            while self._goes_on:
                async with contextlib.aclosing(self._stored()) as stored:
                    async for events in stored:
                        yield events
                        self._silent_since = time.monotonic()
                while self._goes_on and self._subscription is not None:
                    # No generator of its own: each is a step more for whatever is delivered.
                    events, is_silent, is_to_ask = await self._hear(self._subscription)
                    if events or is_silent:
                        yield events
                        self._silent_since = time.monotonic()
                    if is_to_ask:
                        break
        finally:
            if self._subscription is not None:
                self._subscription.end()

    @property
    def _goes_on(self) -> bool:
        return not self._ended and time.monotonic() < self._deadline

    async def _stored(self) -> AsyncGenerator[list[Event], None]:
        """Read until nothing more is there, and what comes next will be told."""
        while self._goes_on:
            is_subscribed = self._subscription is not None
            if self._subscription is not None:
                # Before the reading: what comes after it is told.
                self._subscription.rejoin()
            page = await self._read_page(self._cursor, self._page_entries)
            self._cursor, self._page_entries = page.cursor, page.next_count
            events = self._followed(page.events)
            if events or (page.is_open and not self._begun):
                self._begun = True
                yield events
            if self._ended or page.is_full or _ends(events):
                continue
            if not (page.is_open and self._follow):
                self._ended = True
            elif is_subscribed:
                return
            else:
                # What comes between this page and the subscription is read in one more round.
                self._subscription = self._subscribe(self._cursor)

    async def _hear(self, subscription: Subscription[Event]) -> tuple[list[Event], bool, bool]:
        """Wait for what is told.

        Returns:
            The events; whether there is a silence to tell of; and whether it is time to ask whether a run is open:
            after a silence, or a terminal event.
        """
        # What is passed over breaks no silence.
        silent_at = self._silent_since + self._silence_seconds
        told = await subscription.next(max(0.0, min(silent_at, self._deadline) - time.monotonic()))
        entries = _after(self._cursor, told)
        self._cursor = entries[-1].id if entries else self._cursor
        events = self._followed(entries)
        is_silent = not subscription.behind and (not told or time.monotonic() >= silent_at)
        return events, is_silent, not told or _ends(events)

    def _followed(self, events: list[Event]) -> list[Event]:
        """Return those of the events that are followed, and note the end of the run that is."""
        followed = [event for event in events if event.kind not in self._passed_over]
        if self._correlation_id is not None:
            followed = [event for event in followed if event.correlation_id == self._correlation_id]
            self._ended = self._ended or _ends(followed)
        return followed


def _ends(events: list[Event]) -> bool:
    return any(event.is_terminal for event in events)


def _after(cursor: str, entries: list[Event]) -> list[Event]:
    if not entries or cursor_order(entries[0].id) > cursor_order(cursor):
        return entries
    return [entry for entry in entries if cursor_order(entry.id) > cursor_order(cursor)]
