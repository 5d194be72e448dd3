import asyncio
import itertools

import pytest

from agentstream.http.turns import Turns
from agentstream.stream.handler import OverloadedError

# Who is not given a turn, or not turned away, waits for ever.
pytestmark = pytest.mark.timeout(30)


async def hold(turns: Turns, release: asyncio.Event, order: list[int], number: int) -> None:
    async with turns.take():
        order.append(number)
        await release.wait()


async def take_twice(turns: Turns, order: list[int], number: int) -> None:
    for _ in range(2):
        async with turns.take():
            order.append(number)
            await asyncio.sleep(0)


async def test_turns_are_taken_in_order_of_arrival_and_who_comes_again_does_not_overtake() -> None:
    turns, order = Turns(at_once=1, waiting=3, seconds=60), list[int]()

    await asyncio.gather(*(take_twice(turns, order, number) for number in range(3)))

    assert order == [0, 1, 2, 0, 1, 2]


async def test_promise_8_bounded_turns_are_taken_in_order_and_too_many_are_turned_away() -> None:
    turns, release, order = Turns(at_once=2, waiting=3, seconds=60), asyncio.Event(), list[int]()
    holding = [asyncio.create_task(hold(turns, release, order, number)) for number in range(5)]
    await asyncio.sleep(0)

    with pytest.raises(OverloadedError):
        async with turns.take():
            pass

    assert order == [0, 1]
    release.set()
    await asyncio.gather(*holding)
    assert order == [0, 1, 2, 3, 4]
    async with turns.take():
        pass


async def test_who_waits_for_too_long_is_turned_away_and_gives_up_its_place() -> None:
    turns, release, order = Turns(at_once=1, waiting=1, seconds=0.01), asyncio.Event(), list[int]()
    holding = asyncio.create_task(hold(turns, release, order, 0))
    await asyncio.sleep(0)

    for _ in range(3):
        with pytest.raises(OverloadedError, match="too long"):
            async with turns.take():
                pass

    release.set()
    await holding
    async with turns.take():
        pass


async def test_who_would_wait_for_too_long_is_turned_away_at_once() -> None:
    clock = itertools.count(step=20.0)
    turns, release, order = Turns(1, 1_000, 5, lambda: next(clock)), asyncio.Event(), list[int]()
    # Of turns of 20 s each the mean, in which the newest counts a tenth, is soon more than 5 s.
    for _ in range(10):
        async with turns.take():
            pass
    turns.check()
    holding = [asyncio.create_task(hold(turns, release, order, number)) for number in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(OverloadedError, match="would wait"):
        turns.check()
    with pytest.raises(OverloadedError, match="would wait"):
        async with turns.take():
            pass

    release.set()
    await asyncio.gather(*holding)
    # However slow the turns were, one that nobody waits for is to be had.
    async with turns.take():
        pass
