"""Waiting for something that may be told at any moment, in the least time and memory: for each chunk of each stream."""

import asyncio


class Wakeup:
    """Wakes the one task that waits. To wake nobody is nothing, so look whether there is anything before you wait.

    Not ``asyncio.timeout``, which sets and cancels a timer for each wait, and something is told before the time is over
    nearly always: here one timer serves many waits. Nor ``asyncio.Event``, which takes 800 bytes.
    """

    __slots__ = ("_timer", "_until", "_waiting")

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, seconds: float) -> None:
        """Wait to be woken, for so many seconds at most."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        self._until = loop.time() + seconds
        if self._timer is None or self._timer.when() > self._until:
            self._set_timer()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def wake(self) -> None:
        """Wake the one who waits, if there is one."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._until, self._look)

    def _look(self) -> None:
        """Wake who has waited long enough; the timer may be that of an earlier wait."""
        self._timer = None
        if self._waiting is not None and asyncio.get_running_loop().time() < self._until:
            self._set_timer()
        else:
            self.wake()
