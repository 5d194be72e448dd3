import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from devhost.pacing import Pacer


async def begin(pacer: Pacer, function: str, began: list[str]) -> None:
    await pacer.turn(function)
    began.append(function)


async def test_one_request_begins_in_a_turn_of_the_loop() -> None:
    pacer, began = Pacer(), list[str]()
    requests = asyncio.gather(*(begin(pacer, "run", began) for _ in range(50)))
    counts = []
    while not requests.done():
        counts.append(len(began))
        await asyncio.sleep(0)

    assert len(began) == 50
    assert max(later - earlier for earlier, later in pairwise(counts)) == 1


async def test_a_flood_of_one_function_does_not_hold_up_another() -> None:
    pacer, began = Pacer(), list[str]()

    await asyncio.gather(*(begin(pacer, "run", began) for _ in range(50)), begin(pacer, "health", began))

    assert began.index("health") <= 1


@given(st.lists(st.sampled_from("abc"), min_size=1), st.lists(st.integers(0, 3), min_size=1))
async def test_every_request_begins_whenever_it_comes(functions: list[str], pauses: list[int]) -> None:
    pacer, began = Pacer(), list[str]()
    requests = []
    for number, function in enumerate(functions):
        requests.append(asyncio.create_task(begin(pacer, function, began)))
        for _ in range(pauses[number % len(pauses)]):
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await asyncio.gather(*requests)

    assert sorted(began) == sorted(functions)


async def test_a_client_that_left_while_it_waited_takes_nobodys_turn() -> None:
    pacer, began = Pacer(), list[str]()
    requests = [asyncio.create_task(begin(pacer, "run", began)) for _ in range(3)]
    await asyncio.sleep(0)
    requests[1].cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(*requests, return_exceptions=True)

    assert began == ["run", "run"]
