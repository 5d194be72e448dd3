"""What the other wires cost beside our own: the worker's processor time for an event, replayed and live."""

import asyncio
from collections.abc import Callable
from functools import partial

import aiohttp

from agentstream.model import Chunk
from benchmarks.apps import TEXT, begin_run, http_client, new_name, running_app, stream_handler, write_whole_run
from benchmarks.measure import OURS, Figure, cpu_seconds, interleave

REPLAYED_CHUNKS = 10_000
FOLLOWERS = 20
LIVE_CHUNKS = 400
CHUNK_SECONDS = 0.01
PATHS: dict[str, Callable[[str], str]] = {
    OURS: lambda name: f"/api/agent/stream/{name}?correlation_id=run",
    "AG-UI": lambda name: f"/api/agui/TravelPlanner/runs/run?thread_id={name}&correlation_id=run",
    "AI SDK": lambda name: f"/api/chat/{name}/stream?correlation_id=run",
}


async def wires(url: str) -> list[Figure]:
    """Replay and follow a run on each wire."""
    replayed = new_name()
    async with stream_handler() as handler, running_app(url) as host, http_client(host) as client:
        await write_whole_run(handler, replayed, [TEXT] * REPLAYED_CHUNKS)

        async def replay(path: str) -> float:
            before = cpu_seconds(host.worker_pid)
            await read(client, path, REPLAYED_CHUNKS)
            return 1e6 * (cpu_seconds(host.worker_pid) - before) / REPLAYED_CHUNKS

        async def live(path_of: Callable[[str], str]) -> float:
            name = new_name()
            attempt = await begin_run(handler, name)
            following = [asyncio.create_task(read(client, path_of(name), LIVE_CHUNKS)) for _ in range(FOLLOWERS)]
            await asyncio.sleep(1)
            before = cpu_seconds(host.worker_pid)
            for sequence in range(LIVE_CHUNKS):
                await handler.append(name, "run", attempt, sequence, [Chunk(TEXT, 0)])
                await asyncio.sleep(CHUNK_SECONDS)
            await handler.write_completion(name, correlation_id="run")
            await asyncio.gather(*following)
            return 1e6 * (cpu_seconds(host.worker_pid) - before) / LIVE_CHUNKS / FOLLOWERS

        replays = await interleave(3, {wire: partial(replay, path(replayed)) for wire, path in PATHS.items()})
        lives = await interleave(3, {wire: partial(live, path) for wire, path in PATHS.items()})
    return [
        Figure("the worker's CPU for an event that is replayed, by wire", "µs", replays),
        Figure("the worker's CPU for an event that is delivered live, by wire", "µs", lives),
    ]


async def read(client: aiohttp.ClientSession, path: str, chunks: int) -> None:
    """Read a run to its end.

    Raises:
        ValueError: It does not hold so many chunks.
    """
    async with client.get(path) as response:
        content = await response.read()
    if content.count(TEXT.strip().encode()) != chunks:
        raise ValueError(f"{path}: {content.count(TEXT.encode())} chunks instead of {chunks}")
