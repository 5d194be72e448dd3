"""What it takes to write a stream."""

import asyncio
import time
from typing import Any

from redis.asyncio import Redis

from attempt_writer import AttemptWriter
from benchmarks import reference
from benchmarks.apps import TEXT, begin_run, new_name, stream_handler
from benchmarks.measure import OURS, Figure, interleave, percentile

ROUNDS = 5


async def write_as_fast_as_it_goes(name: str, chunks: int) -> None:
    """Write a run as an agent does whose model needs no time."""
    writer = AttemptWriter(name, "run")
    await writer.start()
    for _ in range(chunks):
        writer.write(TEXT)
        await writer.drain()
        await asyncio.sleep(0)
    await writer.close()


async def append(url: str) -> list[Figure]:
    """Chunks appended per second, by one run and by 50 at once."""
    async with stream_handler():
        return [await _append(url, runs, chunks) for runs, chunks in ((1, 10_000), (50, 400))]


async def _append(url: str, runs: int, chunks: int) -> Figure:
    async def ours() -> float:
        start = time.perf_counter()
        await asyncio.gather(*(write_as_fast_as_it_goes(new_name(), chunks) for _ in range(runs)))
        return runs * chunks / (time.perf_counter() - start)

    async def theirs() -> float:
        few = max(1, chunks // 20)
        start = time.perf_counter()

        async def write(key: str) -> None:
            for sequence in range(few):
                await reference.write_chunk(url, key, TEXT, sequence)

        await asyncio.gather(*(write(new_name()) for _ in range(runs)))
        return runs * few / (time.perf_counter() - start)

    async def ceiling() -> float:
        client = Redis.from_url(url)
        key, total = new_name(), runs * chunks
        start = time.perf_counter()
        for first in range(0, total, 100):
            pipeline = client.pipeline(transaction=False)
            for sequence in range(first, min(first + 100, total)):
                pipeline.xadd(key, {"text": TEXT, "sequence": sequence, "correlation_id": "run", "attempt": 1})
            await pipeline.execute()
        elapsed = time.perf_counter() - start
        await client.aclose()
        return total / elapsed

    values = await interleave(ROUNDS, {OURS: ours, "reference": theirs, "pipelines of 100": ceiling})
    wanted = {"reference": 30.0, "pipelines of 100": 0.6}
    return Figure(f"chunks appended, {runs} run{'s' * (runs > 1)}", "/s", values, more_is_better=True, wanted=wanted)


async def callback(url: str) -> list[Figure]:
    """The time that a chunk takes from the agent."""

    async def ours() -> float:
        writer = AttemptWriter(new_name(), "run")
        await writer.start()
        taken = []
        for _ in range(5_000):
            start = time.perf_counter()
            writer.write(TEXT)
            await writer.drain()
            taken.append(time.perf_counter() - start)
            await asyncio.sleep(0)
        await writer.close()
        return percentile(taken, 99) * 1e6

    async def theirs() -> float:
        key, taken = new_name(), []
        for sequence in range(200):
            start = time.perf_counter()
            await reference.write_chunk(url, key, TEXT, sequence)
            taken.append(time.perf_counter() - start)
        return percentile(taken, 99) * 1e6

    async with stream_handler():
        values = await interleave(ROUNDS, {OURS: ours, "reference": theirs})
    return [Figure("taken from the agent per chunk, p99", "µs", values, wanted={OURS: 50, "reference": 50})]


async def commands(url: str) -> list[Figure]:
    """Redis commands per chunk of a run under way, at 100 chunks per second and as fast as it goes."""
    async with stream_handler() as handler, Redis.from_url(url, decode_responses=True) as client:
        # Once, so that Redis knows the scripts.
        await begin_run(handler, new_name())
        await write_as_fast_as_it_goes(new_name(), 1)
        figures = []
        for name, chunks, few, pace in (("100 chunks/s", 300, 300, 0.01), ("full speed", 10_000, 500, 0)):
            sent_by_us, run_by_us = await _count_ours(client, chunks, pace)
            sent_by_them, run_by_them = await _count_theirs(client, url, few, pace)
            sent = {OURS: [sent_by_us], "reference": [sent_by_them]}
            run = {OURS: [run_by_us], "reference": [run_by_them]}
            figures.append(Figure(f"commands sent per chunk, {name}", "", sent, wanted={OURS: 1}))
            figures.append(Figure(f"commands run per chunk, in scripts too, {name}", "", run))
        return figures


async def _count_ours(client: Any, chunks: int, pace_seconds: float) -> tuple[float, float]:
    writer = AttemptWriter(new_name(), "run")
    await writer.start()
    await client.config_resetstat()
    for _ in range(chunks):
        writer.write(TEXT)
        await writer.drain()
        await asyncio.sleep(pace_seconds)
    await writer.close()
    calls = await _calls(client)
    # All but these are run by the script.
    sent = sum(count for name, count in calls.items() if name.startswith(("evalsha", "script", "client", "hello")))
    return sent / chunks, sum(calls.values()) / chunks


async def _count_theirs(client: Any, url: str, chunks: int, pace_seconds: float) -> tuple[float, float]:
    key = new_name()
    await client.config_resetstat()
    for number in range(chunks):
        await reference.write_chunk(url, key, TEXT, number)
        await asyncio.sleep(pace_seconds)
    sent = sum((await _calls(client)).values()) / chunks
    return sent, sent


async def _calls(client: Any) -> dict[str, int]:
    """Return how often each command was called since the statistics were reset."""
    statistics = await client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in statistics.items()}
    calls.pop("config|resetstat", None)
    return calls
