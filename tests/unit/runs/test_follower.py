import asyncio
import contextlib
import gc
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from agentstream.model import FIRST_CURSOR, FURTHER_KINDS, Chunk, Event, UnknownRunError
from agentstream.runs.follower import Follower
from agentstream.runs.recovery import Recovery, Sources
from agentstream.stream.handler import RedisStreamHandler


@pytest.fixture
def follower(both: Sources, conversation_id: str) -> Follower:
    """A follower of what Redis knows, so that the durable runtime is not needed."""
    return Follower(
        both,
        Recovery(interval_seconds=60),
        conversation_id,
        cursor=FIRST_CURSOR,
        correlation_id=None,
        include=FURTHER_KINDS,
        waits=True,
        heartbeat_seconds=0.05,
        deadline=math.inf,
    )


@pytest.fixture
def live(handler: RedisStreamHandler, monkeypatch: pytest.MonkeyPatch) -> set[object]:
    """The subscriptions that have begun and not ended."""
    begun: set[object] = set()
    subscribe = handler._watcher.subscribe

    def recorded(key: str, cursor: str) -> object:
        subscription = subscribe(key, cursor)
        begun.add(subscription)
        end: Callable[[], None] = subscription.end

        def ending() -> None:
            begun.discard(subscription)
            end()

        monkeypatch.setattr(subscription, "end", ending)
        return subscription

    monkeypatch.setattr(handler._watcher, "subscribe", recorded)
    return begun


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_follower_that_is_closed_in_the_middle_has_ended_its_subscription_at_once(
    follower: Follower, handler: RedisStreamHandler, live: set[object], conversation_id: str
) -> None:
    await handler.accept_run(conversation_id, "run", "TravelPlanner")
    _, attempt = await handler.begin_attempt(conversation_id, "run")
    await handler.append(conversation_id, "run", attempt, 0, [Chunk("a", 0)])
    batches: AsyncGenerator[list[Event], None] = follower.batches()
    while not live:
        await anext(batches)

    await batches.aclose()

    # Without a turn of the event loop in between, in which a generator that was forgotten would be closed.
    assert not live


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_reader_that_is_left_by_an_exception_has_ended_its_subscription_at_once(
    follower: Follower, handler: RedisStreamHandler, live: set[object], conversation_id: str
) -> None:
    await handler.accept_run(conversation_id, "run", "TravelPlanner")
    batches = follower.batches()
    with contextlib.suppress(ZeroDivisionError):
        async with contextlib.aclosing(batches):
            async for _ in batches:
                if live:
                    raise ZeroDivisionError

    assert not live


@pytest.mark.parametrize("is_wiped", [True, False])
async def test_a_run_is_told_anew_where_redis_lost_what_the_follower_has_and_the_attempt_went_on(
    follower: Follower, handler: RedisStreamHandler, redis: Any, conversation_id: str, *, is_wiped: bool
) -> None:
    await handler.accept_run(conversation_id, "run", "TravelPlanner")
    _, attempt = await handler.begin_attempt(conversation_id, "run")
    await handler.append(conversation_id, "run", attempt, 0, [Chunk("a", 0)])
    batches = handler.read_stream(conversation_id, follow=False)
    [*_, first] = [event async for batch in batches for event in batch]
    if is_wiped:
        stream = f"agent-stream:{conversation_id}"
        await redis.delete(stream, f"agent-runs:{{{stream}}}")
    await handler.append(conversation_id, "run", attempt, 1, [Chunk("b", 0)])

    # As on the wires whose frames depend on the entries before them.
    again = replace(follower, correlation_id="run", held=first.id, waits=False)
    told = [(event.kind, event.data) async for batch in again.batches() for event in batch]

    lost = ("reset", '{"correlation_id": "run", "reason": "expired"}')
    assert told == ([lost, ("message", "b")] if is_wiped else [("message", "a"), ("message", "b")])


async def test_what_is_lost_again_at_once_is_restored_only_once(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorations = 0

    async def restore(*_: object) -> bool:
        nonlocal restorations
        restorations += 1
        return True

    monkeypatch.setattr(follower.recovery, "restore", restore)

    with pytest.raises(UnknownRunError):
        async with asyncio.timeout(10):
            await anext(follower.batches())
    assert restorations == 1
