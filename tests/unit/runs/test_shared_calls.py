import asyncio

import pytest

from agentstream.runs.shared_calls import SharedCalls


async def test_those_who_ask_for_the_same_get_what_one_call_returns_and_later_ones_ask_anew() -> None:
    calls, made = SharedCalls(), 0

    async def make() -> int:
        nonlocal made
        made += 1
        number = made
        await asyncio.sleep(0)
        return number

    assert await asyncio.gather(*(calls.call("a", make) for _ in range(10)), calls.call("b", make)) == [1] * 10 + [2]
    assert await calls.call("a", make) == 3


async def test_a_failure_is_raised_to_all_who_wait() -> None:
    calls = SharedCalls()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError

    answers = await asyncio.gather(*(calls.call("a", fail) for _ in range(3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [LookupError] * 3


async def test_one_who_goes_away_ends_nothing_for_the_others() -> None:
    calls, gate = SharedCalls(), asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "done"

    first, second = [asyncio.create_task(calls.call("a", wait)) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()

    assert await second == "done"
