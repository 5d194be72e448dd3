"""The Python worker as the host sees it, and which one this process has."""

import os
from pathlib import Path
from typing import Protocol

from devhost.rpc import FunctionMetadata, InvocationRequest, TypedData

INVOCATION_ID_HEADER = "x-ms-invocation-id"


class InvocationFailedError(Exception):
    """A function raised. The message is ``<type>: <text>`` of what it raised."""

    def __init__(self, message: str, stack_trace: str) -> None:
        super().__init__(message)
        self.stack_trace = stack_trace


class Worker(Protocol):
    """Loads one function app and calls its functions: synchronous ones on threads, the others on the event loop.

    ``http_uri`` is the origin of the worker's own HTTP server where the app's HTTP functions have FastAPI's types; a
    request reaches its function there by the id of its invocation, in the header ``x-ms-invocation-id``.
    """

    http_uri: str | None

    async def load(self, directory: Path) -> list[FunctionMetadata]:
        """Import ``function_app`` from the directory and check its functions.

        Raises:
            Exception: what importing it raises, or why the worker refuses one of its functions.
        """

    async def invoke(self, request: InvocationRequest) -> TypedData | None:
        """Call a function and return the value of its ``$return``.

        Raises:
            InvocationFailedError: the function raised, or its values cannot be decoded or encoded.
        """


def thread_count() -> int:
    """How many threads run synchronous functions: ``ThreadPoolExecutor``'s default without a valid setting."""
    configured = os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT", "")
    if configured.isdecimal() and int(configured) > 0:
        return int(configured)
    return min(32, (os.cpu_count() or 1) + 4)


def new_worker() -> Worker:
    """Microsoft's worker library where it is installed (it is published for Python 3.13 and newer), else ours."""
    try:
        from devhost.runtime_worker import RuntimeWorker
    except ImportError:
        from devhost.small_worker import SmallWorker

        return SmallWorker()
    return RuntimeWorker()
