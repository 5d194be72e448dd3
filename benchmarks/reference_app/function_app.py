"""The reference pattern's endpoint, Server-Sent Events of one stream; and one that only sends."""

import asyncio
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


async def send(req: Request) -> StreamingResponse:
    pace_seconds = float(req.query_params["pace_seconds"])
    return StreamingResponse(_same(int(req.path_params["count"]), pace_seconds), media_type="text/event-stream")


async def _same(count: int, pace_seconds: float) -> AsyncIterator[bytes]:
    for _ in range(count):
        await asyncio.sleep(pace_seconds)
        yield b"id: 1734649123456-0\nevent: message\ndata: word \n\n"
    yield b"id: 1734649123456-0\nevent: done\ndata: [DONE]\n\n"


app.route(route="stream/{key}", methods=["GET"])(follow)
app.route(route="send/{count}", methods=["GET"])(send)
