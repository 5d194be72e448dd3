"""Waiting for something that may be told at any moment, in the least time and memory: for each chunk of each stream."""

import asyncio


class Wakeup:
    """Wakes the one task that waits. To wake nobody is nothing, so look whether there is anything before you wait.

    Not ``asyncio.timeout``, which costs more, and something is told before the time is over nearly always; nor
    ``asyncio.Event``, which takes 800 bytes.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> None:
        """Wait to be woken, for so many seconds at most."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            timer.cancel()

    def wake(self) -> None:
        """Wake the one who waits, if there is one."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
