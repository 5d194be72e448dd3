"""What exceeds functionTimeout is told, once and by its number."""

import asyncio

from devhost.function_timeout import FunctionTimeout


async def test_function_that_runs_too_long_is_told() -> None:
    exceeded: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    timeout = FunctionTimeout(0.05, lambda number, name: exceeded.put_nowait((number, name)))

    with timeout.watch("short"):
        pass
    with timeout.watch("long") as number:
        async with asyncio.timeout(10):
            assert await exceeded.get() == (number, "long")
    assert exceeded.empty()


def test_the_one_that_has_run_longest_is_found() -> None:
    timeout = FunctionTimeout(None, lambda number, name: None)
    with timeout.watch("a first"), timeout.watch("b") as number, timeout.watch("b later"):
        assert timeout.find("b") == (number, "b")
    assert timeout.find("b") is None
