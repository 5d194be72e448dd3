"""Pacing requests, so that a flood of them leaves the event loop air for what is in progress.

The real host needs nothing like it: its threads take requests in while others go on. Here the server, the proxy and
the durable engine share one loop. A thousand requests that take each step in the same turn of it make each turn last as
long as a thousand steps.
"""

import asyncio
from collections import deque


class Pacer:
    """Lets one request begin in each turn of the event loop.

    Those that wait go in order of arrival within their function, and the functions take turns: a flood of one does not
    hold up the first request of another.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Event]] = {}
        self._pacing: asyncio.Task[None] | None = None

    async def turn(self, function: str) -> None:
        """Wait until a request to this function may begin."""
        turn = asyncio.Event()
        self._waiting.setdefault(function, deque()).append(turn)
        if self._pacing is None:
            self._pacing = asyncio.create_task(self._pace())
        await turn.wait()

    async def _pace(self) -> None:
        while self._waiting:
            function = next(iter(self._waiting))
            turns = self._waiting.pop(function)
            turns.popleft().set()
            if turns:
                self._waiting[function] = turns
            await asyncio.sleep(0)
        self._pacing = None
