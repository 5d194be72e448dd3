"""What it takes to write a stream."""

import asyncio
import time
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from redis.asyncio import Redis

from agentstream.attempt.writer import AttemptWriter
from agentstream.model import RunKey
from benchmarks import reference
from benchmarks.apps import TEXT, begin_run, new_name, stream_handler
from benchmarks.measure import OURS, Figure, interleave, percentile

ROUNDS = 5
STATISTICS_ROUNDS = 3


async def write_as_fast_as_it_goes(name: str, chunks: int) -> None:
    """Write a run as an agent does whose model needs no time."""
    writer = AttemptWriter(RunKey(name, "run"))
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
        writer = AttemptWriter(RunKey(new_name(), "run"))
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


@dataclass(frozen=True)
class _Statistics:
    """What Redis did per chunk: commands that a client sent, commands run, in scripts too, and its time in µs; and the
    processor time of this process in µs, that of the pace included."""

    sent: float
    run: float
    microseconds: float
    processor: float


async def commands(url: str) -> list[Figure]:
    """What chunks cost Redis and this process while runs are under way: at a pace, and as fast as it goes."""
    async with stream_handler() as handler, Redis.from_url(url, decode_responses=True) as client:
        # Once, so that Redis knows the scripts.
        await begin_run(handler, new_name())
        await write_as_fast_as_it_goes(new_name(), 1)
        figures = []
        for name, runs, chunks, few, pace, wanted in (
            ("100 chunks/s", 1, 300, 300, 0.01, {OURS: 1}),
            # With connections that are opened meanwhile.
            ("20 × 100 chunks/s", 20, 300, 30, 0.01, {}),
            ("50 × 20 chunks/s", 50, 60, 6, 0.05, {}),
            ("1,000 × 2 chunks/s", 1000, 8, 1, 0.5, {}),
            ("full speed", 1, 10_000, 500, 0.0, {OURS: 1}),
        ):
            measured: dict[str, list[_Statistics]] = {OURS: [], "reference": []}
            for _ in range(STATISTICS_ROUNDS):
                measured[OURS].append(await _our_statistics(client, runs, chunks, pace))
                measured["reference"].append(await _their_statistics(client, url, runs, few, pace))
            for what, unit, value, limit in (
                ("commands sent per chunk", "", attrgetter("sent"), wanted),
                ("commands run per chunk, in scripts too", "", attrgetter("run"), {}),
                ("Redis's time per chunk", "µs", attrgetter("microseconds"), {}),
                ("CPU of the writing process per chunk", "µs", attrgetter("processor"), {}),
            ):
                values = {contender: list(map(value, rounds)) for contender, rounds in measured.items()}
                figures.append(Figure(f"{what}, {name}", unit, values, wanted=limit))
        return figures


async def _our_statistics(client: Any, runs: int, chunks: int, pace_seconds: float) -> _Statistics:
    begun = asyncio.Barrier(runs + 1)

    async def write(number: int) -> None:
        writer = AttemptWriter(RunKey(new_name(), "run"))
        await writer.start()
        await begun.wait()
        await asyncio.sleep(pace_seconds * number / runs)
        for _ in range(chunks):
            writer.write(TEXT)
            await writer.drain()
            await asyncio.sleep(pace_seconds)
        await writer.close()

    writing = asyncio.gather(*map(write, range(runs)))
    await begun.wait()
    await client.config_resetstat()
    start = time.process_time()
    await writing
    processor = time.process_time() - start
    calls, microseconds = await _command_statistics(client)
    # All but these are run by the script, and in its time.
    sent = [name for name in calls if name.startswith(("evalsha", "script", "client", "hello"))]
    total = runs * chunks
    return _Statistics(
        sum(calls[name] for name in sent) / total,
        sum(calls.values()) / total,
        sum(microseconds[name] for name in sent) / total,
        1e6 * processor / total,
    )


async def _their_statistics(client: Any, url: str, runs: int, chunks: int, pace_seconds: float) -> _Statistics:
    await client.config_resetstat()

    async def write(key: str, number: int) -> None:
        await asyncio.sleep(pace_seconds * number / runs)
        for sequence in range(chunks):
            await reference.write_chunk(url, key, TEXT, sequence)
            await asyncio.sleep(pace_seconds)

    start = time.process_time()
    await asyncio.gather(*(write(new_name(), number) for number in range(runs)))
    processor = time.process_time() - start
    calls, microseconds = await _command_statistics(client)
    count, total = sum(calls.values()), runs * chunks
    return _Statistics(count / total, count / total, sum(microseconds.values()) / total, 1e6 * processor / total)


async def _command_statistics(client: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Return how often each command was called, and its time in µs, since the statistics were reset."""
    statistics = await client.info("commandstats")
    statistics.pop("cmdstat_config|resetstat", None)
    named = {name.removeprefix("cmdstat_"): each for name, each in statistics.items()}
    return {name: each["calls"] for name, each in named.items()}, {name: each["usec"] for name, each in named.items()}
