"""The clients of an app, in a process of their own: they start runs, follow streams, and report what came and when.

``python -m benchmarks.client_process`` takes a job (``Job``) as JSON, prints a line when every POST is answered, one
when every stream is connected, and then the visits (``Visit``) as JSON.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from http import HTTPStatus

import aiohttp

from tests.event_stream import parse

RUN_ROUTE = "/api/agents/TravelPlanner/run"
# Of the answer to a POST, and of a whole stream.
ANSWER_SECONDS = 120
STREAM_SECONDS = 200
# Who follows comes when he likes, and not all in one instant.
CONNECTING_AT_ONCE = 50
# What begins the lines of its output.
POSTED, CONNECTED, VISITS = "posted", "connected", "visits "
_PIPE_BYTES = 2**28


@dataclass(frozen=True)
class Job:
    """What the clients do.

    Args:
        base_url: The origin of the app.
        messages: The messages of the runs to start, each in a conversation of its own.
        paths: Streams to follow that are there already.
        posts_at_once: How many POSTs are under way at once at most.
        streams_at_once: How many streams are followed at once at most; the others wait for their turn.
    """

    base_url: str
    messages: Sequence[str] = ()
    paths: Sequence[str] = ()
    posts_at_once: int = 20
    streams_at_once: int = 100_000


@dataclass
class Visit:
    """What one client met with.

    Attributes:
        posted_ns: When it sent its POST, in nanoseconds of the machine's monotonic clock.
        status: The answer's status; 0 where there was none.
        retry_after: The answer's Retry-After.
        correlation_id: The run's.
        received: Each event's time of receipt, name and data.
        failure: Why its stream broke off.
    """

    posted_ns: int = 0
    status: int = 0
    retry_after: str | None = None
    correlation_id: str = ""
    received: list[tuple[int, str, str]] = field(default_factory=list)
    failure: str = ""

    @property
    def messages(self) -> list[tuple[int, str]]:
        """When each chunk was received, and the chunk."""
        return [(at, data) for at, event, data in self.received if event == "message"]

    @property
    def text(self) -> str:
        """What the client holds in the end: the chunks since the last reset."""
        text: list[str] = []
        for _, event, data in self.received:
            if event == "reset":
                text.clear()
            elif event == "message":
                text.append(data)
        return "".join(text)

    @property
    def is_done(self) -> bool:
        """Whether the run's stream ended with ``done``."""
        return bool(self.received) and self.received[-1][1] == "done"


class Clients:
    """The process of the clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def posted(self) -> None:
        """Wait until each POST is answered."""
        await self._until(POSTED)

    async def connected(self) -> None:
        """Wait until each stream has its first bytes, or none is to be had."""
        await self._until(CONNECTED)

    async def visits(self) -> list[Visit]:
        """Wait for the end of all streams, and return what became of each, in the order of the job."""
        return [Visit(**visit) for visit in json.loads(await self._until(VISITS))]

    async def _until(self, word: str) -> str:
        """Wait for a line that begins with the word, and return the rest of it."""
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode():
            if line.startswith(word):
                return line.removeprefix(word)
        raise ChildProcessError("the clients' process has ended")


@asynccontextmanager
async def clients(job: Job) -> AsyncIterator[Clients]:
    """Let a process do the job; leaving the block ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.client_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_PIPE_BYTES,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        await process.stdin.drain()
        yield Clients(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class _Visitors:
    def __init__(self, job: Job, client: aiohttp.ClientSession) -> None:
        self._job = job
        self._client = client
        self._posts = asyncio.Semaphore(job.posts_at_once)
        self._streams = asyncio.Semaphore(job.streams_at_once)
        self._connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self._total = len(job.messages) + len(job.paths)
        self._connected = 0
        self._posted = 0

    async def visits(self) -> list[Visit]:
        runs = [self._run(message) for message in self._job.messages]
        return await asyncio.gather(*runs, *(self._follow(Visit(), path) for path in self._job.paths))

    async def _run(self, message: str) -> Visit:
        visit, path = Visit(), ""
        async with self._posts:
            visit.posted_ns = time.monotonic_ns()
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            try:
                async with self._client.post(RUN_ROUTE, json={"message": message}, timeout=timeout) as answer:
                    visit.status, visit.retry_after = answer.status, answer.headers.get("Retry-After")
                    if answer.status == HTTPStatus.ACCEPTED:
                        body = await answer.json()
                        visit.correlation_id, path = body["correlation_id"], body["stream_url"]
            except (aiohttp.ClientError, TimeoutError) as error:
                visit.failure = repr(error)
        self._count_posted()
        if not path:
            self._count_connected()
            return visit
        return await self._follow(visit, path)

    async def _follow(self, visit: Visit, path: str) -> Visit:
        parts: list[tuple[int, bytes]] = []
        async with self._streams:
            try:
                async with await self._open(path) as response:
                    while part := await response.content.readany():
                        if not parts:
                            self._count_connected()
                        parts.append((time.monotonic_ns(), part))
            except (aiohttp.ClientError, TimeoutError) as error:
                visit.failure = repr(error)
        if not parts:
            self._count_connected()
        visit.received = received(parts)
        return visit

    async def _open(self, path: str) -> aiohttp.ClientResponse:
        """Get a stream, and again as long as the app says that it is busy."""
        timeout = aiohttp.ClientTimeout(total=STREAM_SECONDS)
        while True:
            async with self._connecting:
                response = await self._client.get(path, timeout=timeout)
            if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                response.raise_for_status()
                return response
            response.release()
            await asyncio.sleep(float(response.headers["Retry-After"]))

    def _count_posted(self) -> None:
        self._posted += 1
        if self._posted == len(self._job.messages):
            print(POSTED, flush=True)

    def _count_connected(self) -> None:
        self._connected += 1
        if self._connected == self._total:
            print(CONNECTED, flush=True)


def received(parts: Sequence[tuple[int, bytes]]) -> list[tuple[int, str, str]]:
    """Return the time, name and data of each event of a stream that came in these parts, at these times."""
    events, rest = [], b""
    for at, part in parts:
        whole, end, rest = (rest + part).rpartition(b"\n\n")
        events += [(at, event.event, event.data) for event in parse(whole + end)]
    return events


async def _main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    async with aiohttp.ClientSession(job.base_url, connector=aiohttp.TCPConnector(limit=0)) as client:
        visits = await _Visitors(job, client).visits()
    print(VISITS + json.dumps([asdict(visit) for visit in visits]), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
