"""What it takes to run an agent: the whole app, with a model that answers at once."""

import asyncio
import time
from http import HTTPStatus

import aiohttp

from benchmarks.apps import http_client, running_app
from benchmarks.measure import OURS, Figure, cpu_seconds, interleave
from benchmarks.reading import chunk_received
from tests.scripts import script

RUN_ROUTE = "/api/agents/TravelPlanner/run"
RUNS_AT_ONCE = 20


async def first_chunk(url: str) -> list[Figure]:
    """From POST to the first chunk of a model without delay, on an idle host."""
    async with running_app(url) as host, http_client(host) as client:

        async def ours() -> float:
            start = time.perf_counter()
            body = {"message": script(chunks=["a"])}
            async with client.post(RUN_ROUTE, json=body) as accepted:
                path = (await accepted.json())["stream_url"]
            async with client.get(path) as response:
                await chunk_received(response)
                elapsed = time.perf_counter() - start
                await response.read()
            return elapsed * 1000

        values = await interleave(20, {OURS: ours})
    return [Figure("POST to first chunk", "ms", values, wanted={OURS: 60})]


async def run_cost(url: str) -> list[Figure]:
    """The processor time of the worker, and beside it of the embedded host, for a run, and what each chunk adds."""
    async with running_app(url) as host, http_client(host) as client:
        pids = {"worker": host.worker_pid, "host": host.pid}

        async def cpu_ms(chunks: int, runs: int) -> dict[str, float]:
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            await finish_runs(client, runs, chunks)
            return {name: 1000 * (cpu_seconds(pid) - before[name]) / runs for name, pid in pids.items()}

        await finish_runs(client, RUNS_AT_ONCE, 3)
        short = [await cpu_ms(3, 100) for _ in range(3)]
        long = [await cpu_ms(303, 20) for _ in range(3)]
    return [
        figure
        for name in pids
        for figure in (
            Figure(f"the {name}'s CPU for a run of three chunks", "ms", {OURS: [costs[name] for costs in short]}),
            Figure(
                f"the {name}'s CPU for each further chunk of a run, followed",
                "µs",
                {OURS: [1000 * (many[name] - few[name]) / 300 for few, many in zip(short, long, strict=True)]},
            ),
        )
    ]


async def finish_runs(client: aiohttp.ClientSession, runs: int, chunks: int, at_once: int = RUNS_AT_ONCE) -> None:
    """Start so many runs, so many at a time, each in its own conversation, and follow each to its end.

    Raises:
        ValueError: One did not end well.
    """
    waiting = iter(range(runs))
    body = {"message": script(chunks=["word "] * chunks)}

    async def run_one_after_another() -> None:
        for _ in waiting:
            path = await _accepted(client, body)
            async with client.get(path) as response:
                if b"event: done" not in await response.read():
                    raise ValueError("a run did not end well")

    await asyncio.gather(*(run_one_after_another() for _ in range(at_once)))


async def _accepted(client: aiohttp.ClientSession, body: dict[str, str]) -> str:
    """Start a run, as soon as the app has time for it, and return the path of its stream."""
    while True:
        async with client.post(RUN_ROUTE, json=body) as response:
            if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                response.raise_for_status()
                path: str = (await response.json())["stream_url"]
                return path
        await asyncio.sleep(float(response.headers["Retry-After"]))
