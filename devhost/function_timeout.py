"""``functionTimeout`` of host.json: how long a function may run before its worker is restarted."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send


class FunctionTimeout:
    """Watches the functions in progress.

    ``exceeded`` is called with the number and name of one that has run for ``seconds``; None is for ever.
    """

    def __init__(self, seconds: float | None, exceeded: Callable[[int, str], None]) -> None:
        self._seconds = seconds
        self._exceeded = exceeded
        self._running: dict[int, str] = {}
        self._count = 0

    @contextmanager
    def watch(self, name: str) -> Iterator[int]:
        """Watch a function while the block runs; its number."""
        self._count += 1
        number = self._count
        self._running[number] = name
        timer = None
        if self._seconds is not None:
            timer = asyncio.get_running_loop().call_later(self._seconds, self._exceeded, number, name)
        try:
            yield number
        finally:
            del self._running[number]
            if timer is not None:
                timer.cancel()

    def watch_routes(self, routes: Sequence[BaseRoute]) -> None:
        """Watch the functions of these routes, each up to the end of its response: a stream counts while it is sent."""
        for route in routes:
            if isinstance(route, Route):
                route.app = self._watched(route.app, route.path)

    def _watched(self, app: ASGIApp, path: str) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            with self.watch(path):
                await app(scope, receive, send)

        return watched

    def find(self, match: str) -> tuple[int, str] | None:
        """The number and name of the function that has run longest of those whose name holds ``match``."""
        return next(((number, name) for number, name in self._running.items() if match in name), None)
