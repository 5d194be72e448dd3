"""Taking turns, so that a flood of requests is answered and not stood up."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from agentstream.stream.handler import OverloadedError

# Of the newest turn in the mean of all, which so follows what the machine can do now.
NEWEST_WEIGHT = 0.1


class Turns:
    """Lets so many requests at a time do what costs the whole process, while the others wait, in order of arrival.

    Args:
        at_once: How many do it at a time.
        waiting: How many may wait; beyond it a request is turned away at once.
        seconds: How long one may wait. One that would have to, as far as the turns before tell, is turned away at once.
        clock: Returns the time in seconds.
    """

    def __init__(self, at_once: int, waiting: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._max_waiting = waiting
        self._max_seconds = seconds
        self._clock = clock
        self._waiting = 0
        self._turn_seconds = 0.0

    def check(self) -> None:
        """Turn a request away that has no prospect of a turn, before anything is done for it.

        Raises:
            OverloadedError: Too many wait already, or take too long.
        """
        if self._waiting >= self._max_waiting:
            raise OverloadedError("too many requests wait for their turn")
        if self._waiting * self._turn_seconds / self._at_once > self._max_seconds:
            raise OverloadedError("a request would wait for too long")

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, and take it for as long as the block runs.

        Raises:
            OverloadedError: Too many wait already, or take too long, or this one has waited for too long.
        """
        self.check()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._max_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise OverloadedError("a request has waited for too long") from None
        finally:
            self._waiting -= 1
        start = self._clock()
        try:
            yield
        finally:
            self._turn_seconds += NEWEST_WEIGHT * (self._clock() - start - self._turn_seconds)
            self._turns.release()
