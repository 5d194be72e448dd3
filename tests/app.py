"""The app's HTTP API as tests call it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx_sse

from devhost.testing import REPOSITORY, HostProcess
from tests.event_stream import parse
from tests.recording_follower import Received
from tests.redis_process import free_port

RUN_ROUTE = "/api/agents/TravelPlanner/run"


@dataclass(frozen=True)
class App:
    """A running app.

    Args:
        host: Its process.
        client: A client with the app's origin as base URL.
    """

    host: HostProcess
    client: httpx.AsyncClient

    async def start_run(self, message: str, **fields: Any) -> dict[str, Any]:
        """Start a run and return the 202's body."""
        response = await self.client.post(RUN_ROUTE, json={"message": message, **fields})
        assert response.status_code == httpx.codes.ACCEPTED, response.text
        body: dict[str, Any] = response.json()
        return body

    async def follow(self, path: str, **request: Any) -> AsyncIterator[Received]:
        """Yield a stream's events up to the end of its response."""
        async with httpx_sse.aconnect_sse(self.client, "GET", path, **request) as source:
            source.response.raise_for_status()
            async for event in source.aiter_sse():
                yield Received(event.id, event.event, event.data)

    async def get(self, path: str, params: dict[str, str] | None = None, **request: Any) -> httpx.Response:
        """Get a path, with these parameters beside its own."""
        return await self.client.get(httpx.URL(path).copy_merge_params(params or {}), **request)

    async def events(self, path: str, params: dict[str, str] | None = None, **request: Any) -> list[Received]:
        """Return a stream's events; none where there is nothing to read."""
        response = await self.get(path, params, **request)
        if response.status_code == httpx.codes.NO_CONTENT:
            return []
        assert response.status_code == httpx.codes.OK, response.text
        return [Received(event.id, event.event, event.data) for event in parse(response.content)]

    async def run(self, correlation_id: str) -> dict[str, Any]:
        """Return a run's status."""
        response = await self.client.get(f"/api/agent/runs/{correlation_id}")
        assert response.status_code == httpx.codes.OK, response.text
        body: dict[str, Any] = response.json()
        return body

    async def finish(self, run: dict[str, Any]) -> list[Received]:
        """Wait for a run's end and return its events."""
        return [event async for event in self.follow(run["stream_url"])]


@asynccontextmanager
async def app_of(host: HostProcess) -> AsyncIterator[App]:
    """Yield the app that a running host serves."""
    async with httpx.AsyncClient(base_url=host.base_url, timeout=60) as client:
        yield App(host, client)


@asynccontextmanager
async def running_app(state_dir: Path, env: dict[str, str], app_dir: Path = REPOSITORY) -> AsyncIterator[App]:
    """Run an app on a host of its own.

    Args:
        state_dir: The host's durable state.
        env: The settings that differ from this process's environment.
        app_dir: The directory of the app's ``function_app.py``.
    """
    with HostProcess(state_dir, app_dir=app_dir, port=free_port(), env=env) as host:
        async with app_of(host) as app:
            yield app


def text_of(events: list[Received]) -> str:
    """Return the text of a run's events since the last reset."""
    text = ""
    for event in events:
        if event.event == "reset":
            text = ""
        elif event.event == "message":
            text += event.data
    return text


def error_of(events: list[Received]) -> dict[str, str]:
    """Return the data of the error event that ends these events."""
    assert events[-1].event == "error"
    error: dict[str, str] = json.loads(events[-1].data)
    return error
