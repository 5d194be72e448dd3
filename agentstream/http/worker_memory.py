"""Makes the Python worker forget the HTTP requests that it has answered.

What brings its web server and its invocations together (``HttpCoordinator`` in ``http_v2.py`` of both libraries below)
keeps an entry of each request for as long as the process lives, 2 KB: ten requests a second are 1.8 GB a day. Microsoft
was told of it in a review (https://github.com/Azure/azure-functions-python-worker/pull/1877), and
azure-functions-runtime 1.3.0 still does so.
"""

import asyncio
import sys
from functools import wraps
from typing import Any

from azurefunctions.extensions.http.fastapi import Request, Response

from agentstream.http.problems import Handler

LIBRARIES = ("azure_functions_runtime.http_v2", "azure_functions_worker.http_v2")
INVOCATION_ID_HEADER = "x-ms-invocation-id"
# The worker takes a response in the turn of the event loop in which its function returns, the web server in the next.
FORGET_SECONDS = 1.0


def forgetting(handler: Handler) -> Handler:
    """Make the worker forget each invocation of an HTTP handler soon after it returned."""

    @wraps(handler)
    async def answer(req: Request, **bindings: Any) -> Response:
        try:
            return await handler(req, **bindings)
        finally:
            asyncio.get_running_loop().call_later(FORGET_SECONDS, _forget, req.headers.get(INVOCATION_ID_HEADER))

    return answer


def _forget(invocation_id: str | None) -> None:
    for library in LIBRARIES:
        coordinator = getattr(sys.modules.get(library), "http_coordinator", None)
        entries = getattr(coordinator, "_context_references", None)
        # The library's own business, which it may do otherwise one day.
        if isinstance(entries, dict):
            entries.pop(invocation_id, None)
