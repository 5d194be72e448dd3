"""``functionTimeout`` of host.json: how long a function may run before its worker is restarted."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send


class FunctionTimeout:
    """Watches the functions in progress, from a thread of its own: one that blocks the event loop is seen, too.

    ``exceeded`` is called there with the number and name of one that has run for ``seconds``; None is for ever.
    """

    def __init__(self, seconds: float | None, exceeded: Callable[[int, str], None]) -> None:
        self._seconds = seconds
        self._exceeded = exceeded
        self._changed = threading.Condition()
        # All have the same time, so the first to begin is the first to exceed it.
        self._running: dict[int, tuple[float, str]] = {}
        self._count = 0
        if seconds is not None:
            threading.Thread(target=self._watch, name="functionTimeout", daemon=True).start()

    @contextmanager
    def watch(self, name: str) -> Iterator[int]:
        """Watch a function while the block runs; its number."""
        with self._changed:
            self._count += 1
            number = self._count
            self._running[number] = (time.monotonic(), name)
            if len(self._running) == 1:
                self._changed.notify()
        try:
            yield number
        finally:
            with self._changed:
                del self._running[number]

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
        with self._changed:
            return next(((number, name) for number, (_, name) in self._running.items() if match in name), None)

    def _watch(self) -> None:
        assert self._seconds is not None
        while True:
            with self._changed:
                if not self._running:
                    self._changed.wait()
                    continue
                number, (begun, name) = next(iter(self._running.items()))
                left = begun + self._seconds - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
            self._exceeded(number, name)
