import asyncio

import pytest

from agentstream.stream.wakeup import Wakeup

LONG = 60.0


async def test_who_waits_is_woken_at_once_and_any_number_of_times() -> None:
    wakeup = Wakeup()

    async with asyncio.timeout(10):
        for _ in range(3):
            waiting = asyncio.create_task(wakeup.wait(LONG))
            await asyncio.sleep(0)
            wakeup.wake()
            wakeup.wake()
            await waiting


async def test_who_is_not_woken_waits_for_the_time_and_what_came_before_does_not_wake() -> None:
    wakeup = Wakeup()
    wakeup.wake()

    start = asyncio.get_running_loop().time()
    await wakeup.wait(0.05)

    assert asyncio.get_running_loop().time() - start >= 0.049


async def test_one_who_is_cancelled_leaves_it_to_the_next() -> None:
    wakeup = Wakeup()
    cancelled = asyncio.create_task(wakeup.wait(LONG))
    await asyncio.sleep(0)
    cancelled.cancel()
    wakeup.wake()
    with pytest.raises(asyncio.CancelledError):
        await cancelled

    waiting = asyncio.create_task(wakeup.wait(LONG))
    await asyncio.sleep(0)
    wakeup.wake()
    async with asyncio.timeout(10):
        await waiting


async def test_one_timer_serves_waits_of_any_length() -> None:
    wakeup = Wakeup()
    loop = asyncio.get_running_loop()

    for before, seconds in ((LONG, 0.05), (0.02, 0.1)):
        # Leaves its timer behind.
        woken = asyncio.create_task(wakeup.wait(before))
        await asyncio.sleep(0)
        wakeup.wake()
        await woken

        start = loop.time()
        async with asyncio.timeout(10):
            await wakeup.wait(seconds)
        assert loop.time() - start >= seconds - 0.001
