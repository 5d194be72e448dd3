"""The clients under test, in one form: each follows a run, and tells the events that it was told."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx_sse

from agentstream.client import AgentClient, RetryPolicy
from tests.clients.harness import script, why_not
from tests.recording_follower import Received
from tests.waiting import eventually

TERMINAL = ("done", "error", "cancelled")
RETRY_SECONDS = 0.1
# As long as a server may ask for; with the half minute of the clients' own, ten responses in a row that are cut before
# their first event would take minutes.
MAX_PAUSE_SECONDS = 5
RESUMABLE_FETCH_OPTIONS = {"maxDelayMs": MAX_PAUSE_SECONDS * 1000}

Run = Mapping[str, str]


@dataclass
class Follower:
    """A client that follows a run.

    Attributes:
        events: What it was told so far.
        reading: Ends when the client does.
    """

    events: list[Received] = field(default_factory=list)
    reading: asyncio.Task[None] | None = None

    async def received(self, count: int) -> None:
        """Wait until so many events have come."""

        async def have_come() -> bool:
            assert self.reading is not None
            return len(self.events) >= count or self.reading.done()

        await eventually(have_come, 30)
        assert len(self.events) >= count, self.events

    async def finish(self, seconds: float = 60) -> list[Received]:
        """Return the events, once the client has ended."""
        assert self.reading is not None
        async with asyncio.timeout(seconds):
            await self.reading
        return self.events


Client = Callable[[str, Run, list[Received]], Coroutine[Any, Any, None]]


async def httpx_sse_client(origin: str, run: Run, events: list[Received]) -> None:
    """httpx-sse, which leaves it to its caller to connect again, as its README says."""
    async with httpx.AsyncClient(base_url=origin, timeout=30) as http:
        while not (events and events[-1].event in TERMINAL):
            headers = {"Last-Event-ID": events[-1].id} if events else {}
            with contextlib.suppress(httpx.TransportError):
                async with httpx_sse.aconnect_sse(http, "GET", run["stream_url"], headers=headers) as source:
                    if source.response.status_code == httpx.codes.NO_CONTENT:
                        return
                    async for event in source.aiter_sse():
                        # Any block of lines is an event to it; those that the app means each have an id of their own.
                        if event.id not in ("", *(told.id for told in events[-1:])):
                            events.append(Received(event.id, event.event, event.data))
            await asyncio.sleep(RETRY_SECONDS)


async def python_client(origin: str, run: Run, events: list[Received]) -> None:
    """The package's own client."""
    async with httpx.AsyncClient(base_url=f"{origin}/api") as http:
        client = AgentClient(http, RetryPolicy(max_pause_seconds=MAX_PAUSE_SECONDS))
        followed = client.run(run["conversation_id"], run["correlation_id"])
        async for event in followed.events():
            events.append(Received(event.id, event.kind, event.data))
    assert followed.end is not None
    assert followed.end.kind == events[-1].event


def javascript_client(
    name: str, plan: Callable[[str], Mapping[str, Any]] = lambda url: {"url": url}, *, reads_json: bool = False
) -> Client:
    """Return the client of a script; one that reads JSON asks for the data of every event as such."""

    async def follow(origin: str, run: Run, events: list[Received]) -> None:
        stream = f"{origin}{run['stream_url']}{'&format=json' if reads_json else ''}"
        async with script(name, **plan(stream)) as running:
            async for line in running:
                if "data" in line:
                    is_text = reads_json and line["event"] == "message"
                    data = json.loads(line["data"])["text"] if is_text else line["data"]
                    events.append(Received(line["id"], line["event"], data))

    return follow


PYTHON: dict[str, Client] = {"httpx-sse": httpx_sse_client, "agentstream.client": python_client}
JAVASCRIPT: dict[str, Client] = {
    "eventsource": javascript_client("eventsource"),
    # It loses line breaks, of which JSON has none.
    "fetch-event-source": javascript_client("fetch_event_source", reads_json=True),
    "resumableFetch": javascript_client(
        "resumable_fetch", lambda url: {"readers": [{"url": url, "options": RESUMABLE_FETCH_OPTIONS}]}
    ),
    "fetch-event-source over resumableFetch": javascript_client(
        "fetch_event_source", lambda url: {"url": url, "resumable": RESUMABLE_FETCH_OPTIONS}, reads_json=True
    ),
}
CLIENTS = PYTHON if why_not() else PYTHON | JAVASCRIPT


@contextlib.asynccontextmanager
async def following(client: str, origin: str, run: Run) -> AsyncIterator[Follower]:
    """Follow a run by this client while the block runs."""
    follower = Follower()
    follower.reading = asyncio.create_task(CLIENTS[client](origin, run, follower.events))
    try:
        yield follower
    finally:
        follower.reading.cancel()
        await asyncio.gather(follower.reading, return_exceptions=True)
