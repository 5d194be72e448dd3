"""More than a worker has to do at a time: a flood of POSTs, and a thousand runs whose models think."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import psutil

from agentstream.model import RunStatus
from benchmarks.apps import http_client, running_app
from benchmarks.measure import OURS, Figure, percentile
from benchmarks.running import RUN_ROUTE
from tests.event_stream import parse
from tests.scripts import script

POSTS = 2_000
HEALTH_SECONDS = 0.05
ASKING_AT_ONCE = 50
POLL_SECONDS = 0.2
SETTLE_SECONDS = 120.0

RUNS = 1_000
THINKING_SECONDS = 20.0
CHUNKS = 40
CHUNK_SECONDS = 0.5
START_SECONDS = 0.01


async def flood(url: str) -> list[Figure]:
    """2,000 POSTs at once on one worker: what they are told, how late health is meanwhile, and how the runs end."""
    async with running_app(url, OFFLINE_TOKENS_PER_SECOND="1000000", OPENAI_BASE_URL="") as host:
        async with http_client(host) as client, asking_for_health(client) as delays:
            answers = await asyncio.gather(*(post(client) for _ in range(POSTS)))
        async with http_client(host) as client:
            accepted = [path for status, path in answers if status == HTTPStatus.ACCEPTED]
            turn = asyncio.Semaphore(ASKING_AT_ONCE)
            statuses = await asyncio.gather(*(end_of(client, path, turn) for path in accepted))
    refused = sum(status == HTTPStatus.SERVICE_UNAVAILABLE and retry != "" for status, retry in answers)
    other = POSTS - len(accepted) - refused
    unfinished = sum(status != RunStatus.COMPLETED for status in statuses)
    name = f"{POSTS:,} POSTs at once: "
    return [
        Figure(f"{name}accepted", "", {OURS: [len(accepted)]}),
        Figure(f"{name}neither 202 nor 503 with Retry-After", "", {OURS: [other]}, wanted={OURS: 0}),
        Figure(f"{name}accepted and not completed", "", {OURS: [unfinished]}, wanted={OURS: 0}),
        Figure(f"{name}health meanwhile, p99", "s", {OURS: [percentile(delays, 99)]}, wanted={OURS: 0.5}),
    ]


async def post(client: aiohttp.ClientSession) -> tuple[int, str]:
    """Start a run, and return the response's status, with the run's path or, of one refused, when to try again."""
    try:
        async with client.post(RUN_ROUTE, json={"message": "Plan a 1-day trip to Rome"}) as response:
            if response.status == HTTPStatus.ACCEPTED:
                return response.status, (await response.json())["status_url"]
            return response.status, response.headers.get("Retry-After", "")
    except aiohttp.ClientError:
        return 0, ""


@asynccontextmanager
async def asking_for_health(client: aiohttp.ClientSession) -> AsyncIterator[list[float]]:
    """Ask for health again and again while the block runs; yields how many seconds each answer took."""
    delays: list[float] = []

    async def ask() -> None:
        while True:
            start = time.perf_counter()
            async with client.get("/api/health") as response:
                await response.read()
            delays.append(time.perf_counter() - start)
            await asyncio.sleep(HEALTH_SECONDS)

    asking = asyncio.create_task(ask())
    try:
        yield delays
    finally:
        asking.cancel()


async def end_of(client: aiohttp.ClientSession, path: str, turn: asyncio.Semaphore) -> str:
    """Return the status with which a run ends."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        async with turn, client.get(path) as response:
            body = await response.json()
        status = str(body.get("status"))
        if status not in (RunStatus.QUEUED, RunStatus.RUNNING) or time.monotonic() > deadline:
            return status
        await asyncio.sleep(POLL_SECONDS)


@dataclass
class Told:
    """What a follower was told, and how many seconds after its POST the first chunk came."""

    text: str = ""
    end: str = ""
    first: float = 0.0


async def thousand_runs(url: str) -> list[Figure]:
    """1,000 runs at a time on one worker: each model thinks 20 s and then streams 40 chunks at 2/s to one follower."""
    texts = [f"{number} " for number in range(CHUNKS)]
    message = script(chunks=texts, delay_seconds=CHUNK_SECONDS, thinks_seconds=THINKING_SECONDS)
    async with running_app(url) as host, http_client(host) as client:
        process = psutil.Process(host.pid)
        before = process.memory_info().rss
        following = [asyncio.create_task(follow(client, message, number)) for number in range(RUNS)]
        await asyncio.sleep(RUNS * START_SECONDS + THINKING_SECONDS / 2)
        threads, each = process.num_threads(), (process.memory_info().rss - before) / RUNS / 1024
        told = await asyncio.gather(*following)
    wrong = sum((one.text, one.end) != ("".join(texts), "done") for one in told)
    late = percentile([one.first - THINKING_SECONDS - CHUNK_SECONDS for one in told], 99)
    name = f"{RUNS:,} runs at a time, one follower each: "
    return [
        Figure(f"{name}not done or not exact", "", {OURS: [wrong]}, wanted={OURS: 0}),
        Figure(f"{name}threads", "", {OURS: [threads]}, wanted={OURS: 80}),
        Figure(f"{name}resident of a run that waits for its model, with its follower", "KB", {OURS: [each]}),
        Figure(f"{name}first chunk after its model's, POST included, p99", "s", {OURS: [late]}, wanted={OURS: 1}),
    ]


async def follow(client: aiohttp.ClientSession, message: str, number: int) -> Told:
    """Start a run and follow it to its end, over any number of connections."""
    # Not all in one instant: that is what the flood is for.
    await asyncio.sleep(number * START_SECONDS)
    told, start, last = Told(), time.perf_counter(), ""
    async with client.post(RUN_ROUTE, json={"message": message}) as accepted:
        path = (await accepted.json())["stream_url"]
    while not told.end:
        received = b""
        async with client.get(path, headers={"Last-Event-ID": last} if last else {}) as response:
            async for part in response.content.iter_any():
                received += part
                if not told.first and b"event: message" in received:
                    told.first = time.perf_counter() - start
        for event in parse(received):
            last = event.id
            match event.event:
                case "message":
                    told.text += event.data
                case "reset":
                    told.text = ""
                case _:
                    told.end = event.event
    return told
