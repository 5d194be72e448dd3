"""The reading of one stream, against a stream that is a list and a watcher that tells of it as late as it may."""

import asyncio
import math
import random
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentstream.model import FIRST_CURSOR, Event, cursor_order
from agentstream.stream.reader import Page, Reading

RUNS = ("a", "b")
# An entry: which run it is of, and whether it ends that run.
ENTRIES = st.lists(st.sampled_from(RUNS), max_size=20)
CHOICES = st.integers(0, 2**32).map(random.Random)


def stream_of(runs: list[str]) -> list[Event]:
    """Return the entries of both runs in this order, and then their ends."""
    kinds = [(run, "message" if number % 3 else "tool_call") for number, run in enumerate(runs)]
    kinds += [(run, "done") for run in RUNS]
    return [Event(f"{number + 1}-0", kind, "", run, 1, number) for number, (run, kind) in enumerate(kinds)]


class World:
    """A stream that grows at every step of its reader, until all its entries are there.

    Args:
        entries: What it will hold.
        choices: What decides how much is appended, told and dropped at each step.
    """

    def __init__(self, entries: list[Event], choices: random.Random) -> None:
        self.entries = entries
        self.choices = choices
        self.appended = choices.randint(0, len(entries) // 2)
        self.subscriptions: list[LateSubscription] = []
        self._handed: set[Event] = set()

    def go_on(self, at_least: int = 0) -> None:
        left = len(self.entries) - self.appended
        self.appended += min(left, max(at_least, self.choices.choice([0, 0, 0, 1, 1, 5])))

    def open_runs(self) -> set[str]:
        ended = {entry.correlation_id for entry in self.entries[: self.appended] if entry.is_terminal}
        return set(RUNS) - ended

    def hand(self, entries: list[Event]) -> list[Event]:
        self._handed.update(entries)
        return entries

    def has_handed_the_end_of(self, runs: tuple[str, ...]) -> bool:
        return set(runs) <= {entry.correlation_id for entry in self._handed if entry.is_terminal}

    async def read_page(self, followed: str | None, cursor: str, count: int) -> Page:
        assert followed is None or not self.has_handed_the_end_of((followed,)), "it reads on though its run has ended"
        self.go_on()
        open_runs = self.open_runs()
        # A run may end between the look at the runs and the reading of the entries.
        self.go_on()
        after = [each for each in self.entries[: self.appended] if cursor_order(each.id) > cursor_order(cursor)]
        page = Page(
            is_open=followed in open_runs if followed else bool(open_runs),
            events=self.hand(after[:count]),
            cursor=after[:count][-1].id if after else cursor,
            is_full=len(after) >= count,
            next_count=self.choices.randint(1, 4),
        )
        self.go_on()
        return page

    def subscribe(self, cursor: str) -> Any:
        self.subscriptions.append(LateSubscription(self))
        return self.subscriptions[-1]

    def reading(self, *, followed: str | None = None, cursor: str = FIRST_CURSOR, **options: Any) -> Reading:
        async def read_page(cursor: str, count: int) -> Page:
            return await self.read_page(followed, cursor, count)

        every: dict[str, Any] = {"follow": True, "silence_seconds": 1.0, "deadline": math.inf, **options}
        return Reading(read_page, self.subscribe, cursor=cursor, correlation_id=followed, **every)


class LateSubscription:
    """A subscription that others began, so that what it tells first may be old or may have been appended just now."""

    def __init__(self, world: World) -> None:
        self.behind = False
        self.ended = False
        self._world = world
        self._told = world.choices.randint(0, world.appended)

    def rejoin(self) -> None:
        self.behind = False

    def end(self) -> None:
        self.ended = True

    async def next(self, seconds: float) -> list[Event]:
        assert not self.ended
        assert not self.behind, "what was missed is to be read first"
        assert not self._world.has_handed_the_end_of(RUNS), "nothing more will come"
        # Whoever waits will see the next entry.
        self._world.go_on(at_least=1)
        upto = self._world.choices.randint(self._told, self._world.appended)
        entries, self._told = self._world.entries[self._told : upto], upto
        if self._world.choices.random() < 0.2:
            self.behind = True
            return []
        return self._world.hand(entries)


@settings(max_examples=500)
@given(ENTRIES, CHOICES, st.sampled_from([None, *RUNS]), st.integers(0, 22), st.sampled_from([(), ("tool_call",)]))
async def test_every_event_comes_once_and_in_order_wherever_the_live_ones_begin(
    runs: list[str], choices: random.Random, followed: str | None, read_before: int, include: tuple[str, ...]
) -> None:
    entries = stream_of(runs)
    world = World(entries, choices)
    world.appended = max(world.appended, min(read_before, len(entries)))
    cursor = entries[min(read_before, len(entries)) - 1].id if read_before else FIRST_CURSOR

    reading = world.reading(followed=followed, cursor=cursor, include=include)
    events = [event async for batch in reading.batches() for event in batch]

    after = [event for event in entries[read_before:] if event.kind != "tool_call" or event.kind in include]
    assert events == [event for event in after if followed in (None, event.correlation_id)]
    assert all(subscription.ended for subscription in world.subscriptions)
    assert len(world.subscriptions) <= 1


@given(ENTRIES, CHOICES)
async def test_not_following_reads_what_is_there_and_subscribes_to_nothing(
    runs: list[str], choices: random.Random
) -> None:
    world = World(stream_of(runs), choices)
    appended = world.appended

    events = [event async for batch in world.reading(follow=False).batches() for event in batch]

    assert len(events) >= appended
    assert events == world.entries[: len(events)]
    assert world.subscriptions == []


@given(ENTRIES, CHOICES, st.integers(0, 5))
async def test_a_reading_that_is_closed_ends_its_subscription(
    runs: list[str], choices: random.Random, batches_read: int
) -> None:
    world = World(stream_of(runs), choices)
    batches = world.reading().batches()
    for _ in range(batches_read):
        await anext(batches, None)

    await batches.aclose()

    assert all(subscription.ended for subscription in world.subscriptions)


async def test_an_open_run_without_events_is_told_at_once_and_then_each_silence() -> None:
    class Silent(World):
        def go_on(self, at_least: int = 0) -> None:
            pass

    world = Silent(stream_of([]), random.Random(1))
    world.appended = 0
    batches = world.reading(deadline=time.monotonic() + 60).batches()

    assert [await anext(batches) for _ in range(3)] == [[], [], []]
    await batches.aclose()


async def test_a_follower_hears_of_a_silence_that_only_events_break_which_it_passes_over_and_no_more_often() -> None:
    class Thinking:
        """A subscription to a run that reasons without end."""

        def __init__(self) -> None:
            self.behind = False
            self.told = 0

        def rejoin(self) -> None: ...

        def end(self) -> None: ...

        async def next(self, seconds: float) -> list[Event]:
            await asyncio.sleep(min(seconds, 0.001))
            self.told += 1
            return [Event(f"{self.told}-0", "reasoning", "{}", "a", 1, self.told)]

    async def read_page(cursor: str, count: int) -> Page:
        return Page(is_open=True, events=[], cursor=cursor, is_full=False, next_count=count)

    thinking: Any = Thinking()
    silence_seconds, begin = 0.05, time.monotonic()
    reading = Reading(
        read_page,
        lambda _: thinking,
        cursor=FIRST_CURSOR,
        correlation_id="a",
        include=(),
        follow=True,
        silence_seconds=silence_seconds,
        deadline=math.inf,
    )
    batches = reading.batches()

    async with asyncio.timeout(30):
        assert [await anext(batches) for _ in range(4)] == [[], [], [], []]
    await batches.aclose()

    # The first comes at once.
    assert 3 * silence_seconds <= time.monotonic() - begin
    assert thinking.told > 3


async def test_after_its_deadline_nothing_is_read() -> None:
    world = World(stream_of(["a"]), random.Random(1))

    assert [batch async for batch in world.reading(deadline=time.monotonic()).batches()] == []
    assert world.subscriptions == []
