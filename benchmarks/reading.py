"""What it takes to follow and to replay a stream over HTTP."""

import asyncio
import time

import aiohttp

from agentstream.model import Chunk
from benchmarks import reference
from benchmarks.apps import (
    REFERENCE_APP,
    TEXT,
    begin_run,
    fill_reference_stream,
    http_client,
    new_name,
    running_app,
    stream_handler,
    write_whole_run,
)
from benchmarks.measure import OURS, Figure, interleave, percentile

EVENT = b"event: message"
REPLAYED_CHUNKS = 10_000


async def chunk_received(response: aiohttp.ClientResponse) -> None:
    """Wait for the next data that holds a chunk."""
    while EVENT not in await response.content.readany():
        if response.content.at_eof():
            raise EOFError("the stream ended without a chunk")


async def delivery(url: str) -> list[Figure]:
    """From before the append until a live follower has the chunk."""
    worst: dict[str, list[float]] = {OURS: [], "reference": []}

    async with (
        stream_handler() as handler,
        running_app(url) as our_host,
        running_app(url, REFERENCE_APP) as their_host,
        http_client(our_host) as our_client,
        http_client(their_host) as their_client,
    ):

        async def ours() -> float:
            name, taken = new_name(), []
            attempt = await begin_run(handler, name)
            async with our_client.get(f"/api/agent/stream/{name}") as response:
                await response.content.readany()
                for sequence in range(200):
                    start = time.perf_counter()
                    await handler.append(name, "run", attempt, sequence, [Chunk(TEXT, 0)])
                    await chunk_received(response)
                    taken.append((time.perf_counter() - start) * 1000)
                    await asyncio.sleep(0.005)
            await handler.write_completion(name, correlation_id="run")
            worst[OURS].append(percentile(taken, 99))
            return percentile(taken, 50)

        async def theirs() -> float:
            key, taken = new_name(), []
            async with their_client.get(f"/api/stream/{key}") as response:
                for sequence in range(6):
                    # So that the chunks come at different instants of the reader's second.
                    await asyncio.sleep(0.37)
                    start = time.perf_counter()
                    await reference.write_chunk(url, key, TEXT, sequence)
                    await chunk_received(response)
                    taken.append((time.perf_counter() - start) * 1000)
            await reference.write_end(url, key)
            worst["reference"].append(percentile(taken, 99))
            return percentile(taken, 50)

        usual = await interleave(3, {OURS: ours, "reference": theirs})
    return [
        Figure("append to delivery over HTTP, p50", "ms", usual, wanted={OURS: 3}),
        Figure("append to delivery over HTTP, p99", "ms", worst, wanted={OURS: 15}),
    ]


async def replay(url: str) -> list[Figure]:
    """Events per second when a stream of 10,000 is replayed."""
    texts = [TEXT] * REPLAYED_CHUNKS
    name, key = new_name(), new_name()
    await fill_reference_stream(url, key, texts)
    async with (
        stream_handler() as handler,
        running_app(url) as our_host,
        running_app(url, REFERENCE_APP) as their_host,
        http_client(our_host) as our_client,
        http_client(their_host) as their_client,
    ):
        await write_whole_run(handler, name, texts)
        contenders = {
            OURS: lambda: events_per_second(our_client, f"/api/agent/stream/{name}", REPLAYED_CHUNKS),
            "reference": lambda: events_per_second(their_client, f"/api/stream/{key}", REPLAYED_CHUNKS),
        }
        values = await interleave(5, contenders)
    return [
        Figure("replay of 10,000 chunks over HTTP", "/s", values, more_is_better=True, wanted={"reference": 2}),
    ]


async def events_per_second(client: aiohttp.ClientSession, path: str, chunks: int) -> float:
    """Read a stream that has ended.

    Raises:
        ValueError: It does not hold so many chunks.
    """
    start = time.perf_counter()
    async with client.get(path) as response:
        content = await response.read()
    elapsed = time.perf_counter() - start
    if content.count(EVENT) != chunks:
        raise ValueError(f"{content.count(EVENT)} chunks instead of {chunks}")
    return chunks / elapsed
