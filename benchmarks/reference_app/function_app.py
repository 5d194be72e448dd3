"""The reference pattern's endpoint: Server-Sent Events of one stream."""

import os
from collections.abc import AsyncIterator
from typing import Any

import azure.functions as func
from azurefunctions.extensions.http.fastapi import Request, StreamingResponse

from benchmarks import reference

app: Any = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


async def follow(req: Request) -> StreamingResponse:
    return StreamingResponse(_events(req.path_params["key"]), media_type="text/event-stream")


async def _events(key: str) -> AsyncIterator[str]:
    async for entry_id, text in reference.read_stream(os.environ["REDIS_CONNECTION_STRING"], key):
        yield f"id: {entry_id}\nevent: message\ndata: {text}\n\n"


app.route(route="stream/{key}", methods=["GET"])(follow)
