"""A follower that reads a run's stream as a browser would: it reconnects with its last id until the run has ended."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.waiting import eventually

TERMINAL = ("done", "error", "cancelled")
RETRY_SECONDS = 0.1
READ_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Received:
    """One event as it was received."""

    id: str
    event: str
    data: str


@dataclass
class RecordingFollower:
    """Follows one run over any number of connections.

    Args:
        base_url: Asked for the origin before each connection, since a host may have moved.
        stream_url: The run's path, as the 202 gave it.
        cuts: When to cut a connection: None never, else a source of how many bytes to read before.
    """

    base_url: Callable[[], str]
    stream_url: str
    cuts: random.Random | None = None
    events: list[Received] = field(default_factory=list)
    connections: int = 0
    refused: list[int] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1].event in TERMINAL

    @property
    def text(self) -> str:
        """What a page would show: the text since the last reset."""
        text = ""
        for received in self.events:
            if received.event == "message":
                text += received.data
            elif received.event == "reset":
                text = ""
        return text

    async def received(self, count: int) -> None:
        """Wait until so many events have come."""

        async def have_come() -> bool:
            return len(self.events) >= count

        await eventually(have_come)

    async def follow(self, seconds: float = 120) -> None:
        """Read until the run's terminal event.

        Raises:
            TimeoutError: It did not come within this time.
        """
        async with asyncio.timeout(seconds), httpx.AsyncClient(timeout=httpx.Timeout(READ_SECONDS)) as client:
            while not self.ended:
                with contextlib.suppress(httpx.HTTPError):
                    await self._connect(client)
                if not self.ended:
                    await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self, client: httpx.AsyncClient) -> None:
        headers = {"Last-Event-ID": self.events[-1].id} if self.events else {}
        self.connections += 1
        bytes_left = self.cuts.randint(0, 4_000) if self.cuts and self.cuts.random() < 0.7 else None
        async with client.stream("GET", self.base_url() + self.stream_url, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                self.refused.append(response.status_code)
                return
            unread = b""
            async for data in response.aiter_raw():
                if bytes_left is not None:
                    data, bytes_left = data[:bytes_left], bytes_left - len(data)
                unread = self._take(unread + data)
                if bytes_left is not None and bytes_left <= 0:
                    return

    def _take(self, stream: bytes) -> bytes:
        """Record the whole events, and return the rest."""
        *blocks, rest = stream.split(b"\n\n")
        for block in blocks:
            lines = [line.partition(": ") for line in block.decode().split("\n") if not line.startswith(":")]
            values = {name: value for name, _, value in lines if name != "data"}
            if "id" in values:
                data = "\n".join(value for name, _, value in lines if name == "data")
                self.events.append(Received(values["id"], values["event"], data))
        return rest


def problem_detail(response: httpx.Response) -> str:
    """Return the detail of a problem response, after checking its form (RFC 9457)."""
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert body["status"] == response.status_code
    return str(body["detail"])
