"""Where the agents run."""

import asyncio
import socket
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

RESOLVER_THREADS = 2


class AgentLoop:
    """An event loop on a thread of its own, on which all agents run.

    Their models' clients stay on one loop, and what holds it up holds up no HTTP request. A tool that is a plain
    function is called on one of the loop's threads (``FunctionTool.invoke`` uses ``asyncio.to_thread``).

    Args:
        max_tools: How many such tools are executed at a time; the others wait, and everything else goes on.
    """

    def __init__(self, max_tools: int) -> None:
        self._max_tools = max_tools
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await this on the agents' loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._started()))

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = _Loop()
                self._loop.set_default_executor(ThreadPoolExecutor(self._max_tools, thread_name_prefix="tool"))
                threading.Thread(target=self._loop.run_forever, name="agents", daemon=True).start()
            return self._loop


if sys.platform == "win32":
    _PlatformLoop = asyncio.ProactorEventLoop
else:
    _PlatformLoop = asyncio.SelectorEventLoop


class _Loop(_PlatformLoop):
    """asyncio resolves names on the tools' threads, where those that block would hold up every new connection."""

    def __init__(self) -> None:
        super().__init__()
        self._resolver = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return await self.run_in_executor(self._resolver, socket.getaddrinfo, host, port, family, type, proto, flags)
