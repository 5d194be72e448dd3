"""What one chunk, one follower and one conversation cost as they become many."""

import statistics
import time

import aiohttp
from redis.asyncio import Redis

from agentstream.stream.handler import RedisStreamHandler
from benchmarks.apps import TEXT, http_client, new_name, running_app, stream_handler
from benchmarks.crowd import Load, follow_live
from benchmarks.measure import Curve, cpu_seconds
from benchmarks.reading import events_per_second
from benchmarks.running import finish_runs
from benchmarks.writing import write_as_fast_as_it_goes

CHUNKS = (100, 1_000, 10_000, 100_000)
FOLLOWERS = (1, 20, 200, 1_000, 2_000)
RUNS = (1, 10, 100, 1_000)
# Of each size as many runs, so that a short one is not lost in what the host does anyway.
LEAST_RUNS = 100
CONVERSATIONS = (1, 10, 100, 1_000, 10_000)
ROUNDS = 3
CHUNKS_PER_SECOND = 100


async def grow_chunks(url: str) -> list[Curve]:
    """One chunk's cost in streams of 100 to 100,000."""
    costs: list[list[float]] = []
    async with stream_handler() as handler, running_app(url) as host, http_client(host) as client:
        for chunks in CHUNKS:
            rounds = [await _chunk_costs(url, handler, client, chunks) for _ in range(ROUNDS)]
            costs.append([statistics.median(costs) for costs in zip(*rounds, strict=True)])
    named = (
        ("appending a chunk", "µs"),
        ("checking a chunk against the answer", "µs"),
        ("replaying a chunk", "µs"),
        ("Redis memory of a chunk", "bytes"),
    )
    return [
        Curve(name, unit, "chunks", dict(zip(CHUNKS, column, strict=True)))
        for (name, unit), column in zip(named, zip(*costs, strict=True), strict=True)
    ]


async def _chunk_costs(
    url: str, handler: RedisStreamHandler, client: aiohttp.ClientSession, chunks: int
) -> tuple[float, float, float, float]:
    name = new_name()
    await handler.accept_run(name, "run", "TravelPlanner")
    start = time.perf_counter()
    await write_as_fast_as_it_goes(name, chunks)
    written = time.perf_counter()
    await handler.write_completion(name, correlation_id="run", answer=TEXT * chunks)
    ended = time.perf_counter()
    rate = await events_per_second(client, f"/api/agent/stream/{name}", chunks)
    async with Redis.from_url(url) as redis:
        size = await redis.memory_usage(f"agent-stream:{name}", samples=0)
        await redis.delete(f"agent-stream:{name}")
    return 1e6 * (written - start) / chunks, 1e6 * (ended - written) / chunks, 1e6 / rate, (size or 0) / chunks


async def grow_followers(url: str) -> list[Curve]:
    """One delivery's cost with 1 to 2,000 live followers, of up to 20 streams with 100 chunks per second in all."""
    costs = {}
    async with stream_handler() as handler:
        for followers in FOLLOWERS:
            streams = min(followers, 20)
            load = Load(followers, streams, chunks_per_second=CHUNKS_PER_SECOND / streams, seconds=5)
            async with running_app(url, STREAM_MAX_FOLLOWERS=str(max(FOLLOWERS))) as host:
                outcome = await follow_live(url, host, handler, load)
            if outcome.wrong:
                raise ValueError(f"{outcome.wrong} of {followers} followers did not get what was written")
            costs[followers] = outcome.cpu_us
    return [Curve("the worker's CPU for a delivery", "µs", "followers", costs)]


async def grow_runs(url: str) -> list[Curve]:
    """One run's cost, of ten chunks, with 1 to 1,000 at a time."""
    costs = {}
    async with running_app(url) as host, http_client(host) as client:
        await finish_runs(client, LEAST_RUNS, chunks=10)
        for at_once in RUNS:
            runs = max(LEAST_RUNS, at_once)
            before = cpu_seconds(host.worker_pid)
            await finish_runs(client, runs, chunks=10, at_once=at_once)
            costs[at_once] = 1000 * (cpu_seconds(host.worker_pid) - before) / runs
    return [Curve("the worker's CPU for a run of ten chunks", "ms", "runs at a time", costs, wanted=1.3)]


async def grow_conversations(url: str) -> list[Curve]:
    """One conversation's cost while 10,000 are held by Redis and the durable state, 20 of them running at once."""
    seconds, redis_memory = {}, {}
    async with running_app(url) as host, http_client(host) as client, Redis.from_url(url) as redis:
        empty = (await redis.info("memory"))["used_memory"]
        done = 0
        for conversations in CONVERSATIONS:
            start = time.perf_counter()
            await finish_runs(client, conversations - done, chunks=3)
            seconds[conversations] = 1000 * (time.perf_counter() - start) / (conversations - done)
            redis_memory[conversations] = ((await redis.info("memory"))["used_memory"] - empty) / conversations / 1024
            done = conversations
    return [
        Curve("a run of three chunks", "ms", "conversations", seconds),
        Curve("Redis memory of a run of three chunks", "KB", "conversations", redis_memory),
    ]
