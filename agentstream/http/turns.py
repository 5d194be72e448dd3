"""Taking turns, so that a flood of requests is answered and not stood up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from agentstream.stream.handler import OverloadedError


class Turns:
    """Lets so many requests at a time do what costs the whole process, while the others wait, in order of arrival.

    Args:
        at_once: How many do it at a time.
        waiting: How many may wait; beyond it a request is turned away at once.
        seconds: How long one may wait.
    """

    def __init__(self, at_once: int, waiting: int, seconds: float) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._places = waiting
        self._seconds = seconds

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, and take it for as long as the block runs.

        Raises:
            OverloadedError: Too many wait already, or have been waiting for too long.
        """
        if not self._places:
            raise OverloadedError("too many requests wait for their turn")
        self._places -= 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise OverloadedError("a request has waited for too long") from None
        finally:
            self._places += 1
        try:
            yield
        finally:
            self._turns.release()
