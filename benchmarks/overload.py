"""More than a worker has to do at a time: a flood of POSTs, and a thousand runs whose models think."""

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import aiohttp
import psutil

from benchmarks.apps import REFERENCE_APP, hosted, http_client
from benchmarks.client_process import Job, Visit, clients
from benchmarks.measure import OURS, Figure, cpu_seconds, percentile
from benchmarks.model_process import ModelProcess, Script, is_whole, running_model, sent_ns
from devhost.testing import REPOSITORY, HostProcess

POSTS = 2_000
FLOODS = 3
FLOOD_SCRIPT = Script(think=0, chunks=3, pace=0)
HEALTH_SECONDS = 0.05
# Of health before the flood, so that the process is warm.
CALM_SECONDS = 1.0

RUNS = 1_000
RUN_SCRIPT = Script(think=20, chunks=40, pace=0.5)
MEMORY_RUNS = 500
MEMORY_SCRIPT = Script(think=60, chunks=1, pace=0)
FRAMEWORK_APP = Path(__file__).parent / "framework_app"
FRAMEWORK_RUNS = 100
FRAMEWORK_SCRIPT = Script(think=15, chunks=1, pace=0)
FRAMEWORK_SECONDS = 12.0
THREADS = "64"
POLL_SECONDS = 0.2
SETTLE_SECONDS = 120.0


@dataclass(frozen=True)
class _Flooded:
    """What became of a flood.

    Attributes:
        accepted: How many POSTs were.
        mistold: How many were told neither so nor 503 with Retry-After.
        wrong: How many runs were accepted, and are not done or not exact.
        late_seconds: Of 100 health checks, the slowest but one.
        cpu_ms: The worker's processor time for each POST, runs included.
    """

    accepted: int
    mistold: int
    wrong: int
    late_seconds: float
    cpu_ms: float


async def flood(url: str) -> list[Figure]:
    """2,000 POSTs at once on one worker: what they are told, how late health is meanwhile, and how the runs end."""
    floods = [await _flood(url) for _ in range(FLOODS)]

    def figure(what: str, unit: str, values: list[float], wanted: float | None, **more: bool) -> Figure:
        limit = {} if wanted is None else {OURS: wanted}
        return Figure(f"{POSTS:,} POSTs at once: {what}", unit, {OURS: values}, wanted=limit, **more)

    late = [each.late_seconds for each in floods]
    return [
        figure("accepted", "", [each.accepted for each in floods], 300, more_is_better=True),
        figure("neither 202 nor 503 with Retry-After", "", [each.mistold for each in floods], 0),
        figure("accepted and not done or not exact", "", [each.wrong for each in floods], 0),
        figure("health meanwhile, a new connection each, p99", "s", late, 0.5),
        figure("the worker's CPU for each POST, runs included", "ms", [each.cpu_ms for each in floods], None),
    ]


async def _flood(url: str) -> _Flooded:
    async with overloaded_app(url, STREAM_MAX_FOLLOWERS=str(POSTS)) as (host, _), asking_for_health(host) as delays:
        await asyncio.sleep(CALM_SECONDS)
        delays.clear()
        before = cpu_seconds(host.worker_pid)
        job = Job(host.base_url, [FLOOD_SCRIPT.message] * POSTS, posts_at_once=POSTS)
        async with clients(job) as flooding:
            await flooding.posted()
            spent = cpu_seconds(host.worker_pid) - before
            late = percentile(delays, 99)
            visits = await flooding.visits()
    accepted = [visit for visit in visits if visit.status == HTTPStatus.ACCEPTED]
    refused = sum(visit.status == HTTPStatus.SERVICE_UNAVAILABLE and bool(visit.retry_after) for visit in visits)
    mistold = POSTS - len(accepted) - refused
    return _Flooded(len(accepted), mistold, not_exact(accepted, FLOOD_SCRIPT), late, 1000 * spent / POSTS)


async def thousand_runs(url: str) -> list[Figure]:
    """1,000 runs at a time on one worker: each model thinks 20 s and then streams 40 chunks at 2/s to one follower."""
    async with overloaded_app(url) as (host, model):
        job = Job(host.base_url, [RUN_SCRIPT.message] * RUNS)
        async with clients(job) as following:
            await until_open(model, RUNS)
            threads = psutil.Process(host.worker_pid).num_threads()
            visits = await following.visits()
    at_a_time = await framework_runs_at_a_time(url)
    firsts = [visit.messages[0] for visit in visits if visit.messages]
    first = percentile([(at - sent_ns(chunk)) / 1e9 for at, chunk in firsts], 99)
    resets = sum(event == "reset" for visit in visits for _, event, _ in visit.received)
    each = [(at - sent_ns(chunk)) / 1e6 for visit in visits for at, chunk in visit.messages]
    name = f"{RUNS:,} runs at a time, one follower each: "
    return [
        Figure(f"{name}not done or not exact", "", {OURS: [not_exact(visits, RUN_SCRIPT)]}, wanted={OURS: 0}),
        Figure(f"{name}told again by a reset", "", {OURS: [resets]}, wanted={OURS: 0}),
        Figure(f"{name}first chunk from model to follower, p99", "s", {OURS: [first]}, wanted={OURS: 1}),
        Figure(f"{name}chunk from model to follower, p50", "ms", {OURS: [percentile(each, 50)]}),
        Figure(f"{name}chunk from model to follower, p99", "ms", {OURS: [percentile(each, 99)]}),
        Figure(f"{name}threads", "", {OURS: [threads]}, wanted={OURS: 80}),
        Figure(
            f"runs at a time, of {THREADS} threads",
            "",
            {OURS: [RUNS], "framework": [at_a_time]},
            more_is_better=True,
            wanted={"framework": 10},
        ),
    ]


async def framework_runs_at_a_time(url: str) -> int:
    """Return how many runs the framework's own entity function executes at a time."""
    settings = {"PYTHON_THREADPOOL_THREAD_COUNT": THREADS}
    async with overloaded_app(url, FRAMEWORK_APP, **settings) as (host, model), http_client(host) as client:
        body = {"message": FRAMEWORK_SCRIPT.message, "wait_for_response": False}
        for _ in range(FRAMEWORK_RUNS):
            async with client.post("/api/agents/TravelPlanner/run", json=body) as accepted:
                accepted.raise_for_status()
        await asyncio.sleep(FRAMEWORK_SECONDS)
        return (await model.open_calls())[1]


async def memory(url: str) -> list[Figure]:
    """What one open run holds that waits for its model, and what its follower holds."""
    async with overloaded_app(url) as (host, model), http_client(host) as client:
        process = psutil.Process(host.worker_pid)
        # What is made once, on first use.
        async with clients(Job(host.base_url, paths=await started(client, 20))) as early:
            await until_open(model, 20)
            await early.connected()
            before = process.memory_info().rss
            paths = await started(client, MEMORY_RUNS)
            await until_open(model, 20 + MEMORY_RUNS)
            waiting = process.memory_info().rss
            async with clients(Job(host.base_url, paths=paths)) as following:
                await following.connected()
                followed = process.memory_info().rss
    run, follower = (waiting - before) / MEMORY_RUNS / 1024, (followed - waiting) / MEMORY_RUNS / 1024
    contenders = {OURS: [follower], "a response that only stays open": [await open_response_kb(url)]}
    return [
        Figure("resident memory of an open run that waits for its model", "KB", {OURS: [run]}, wanted={OURS: 120}),
        Figure("resident memory of its follower", "KB", contenders, wanted={OURS: 40}),
    ]


async def open_response_kb(url: str) -> float:
    """Return what a streaming response holds in any app on the worker's server."""
    # Its first piece comes after a while, and others for longer than is looked at.
    path = "/api/send/100?pace_seconds=4"
    async with overloaded_app(url, REFERENCE_APP) as (host, _):
        process = psutil.Process(host.worker_pid)
        async with clients(Job(host.base_url, paths=[path] * 20)) as first:
            await first.connected()
            before = process.memory_info().rss
            async with clients(Job(host.base_url, paths=[path] * MEMORY_RUNS)) as following:
                await following.connected()
                return (process.memory_info().rss - before) / MEMORY_RUNS / 1024


@asynccontextmanager
async def overloaded_app(
    url: str, app_dir: Path = REPOSITORY, **settings: str
) -> AsyncIterator[tuple[HostProcess, ModelProcess]]:
    """Run an app, and its model in another process."""
    with tempfile.TemporaryDirectory() as state:
        async with running_model() as model, hosted(url, model.base_url, Path(state), app_dir, **settings) as host:
            yield host, model


@asynccontextmanager
async def asking_for_health(host: HostProcess) -> AsyncIterator[list[float]]:
    """Ask for health at a steady pace while the block runs, each time over a new connection and however long the
    answers before take; yields how many seconds each answer took, failures counted as endless."""
    delays: list[float] = []

    async def ask(client: aiohttp.ClientSession) -> None:
        start = time.perf_counter()
        async with client.get("/api/health") as response:
            await response.read()
        delays.append(time.perf_counter() - start if response.status == HTTPStatus.OK else float("inf"))

    async def keep_asking(client: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(ask(client))
                await asyncio.sleep(HEALTH_SECONDS)

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(host.base_url, connector=connector) as client:
        asking = asyncio.create_task(keep_asking(client))
        try:
            yield delays
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def started(client: aiohttp.ClientSession, runs: int) -> Sequence[str]:
    """Start so many runs, a few at a time, and return the paths of their streams."""
    paths, waiting = list[str](), itertools.repeat(MEMORY_SCRIPT.message, runs)

    async def start_one_after_another() -> None:
        for message in waiting:
            async with client.post("/api/agents/TravelPlanner/run", json={"message": message}) as accepted:
                paths.append((await accepted.json())["stream_url"])

    await asyncio.gather(*(start_one_after_another() for _ in range(10)))
    return paths


async def until_open(model: ModelProcess, calls: int) -> None:
    """Wait until so many calls of the model are open.

    Raises:
        TimeoutError: There were never so many.
    """
    async with asyncio.timeout(SETTLE_SECONDS):
        # The model is another process, which tells only who asks.
        while (await model.open_calls())[0] < calls:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


def not_exact(visits: Sequence[Visit], script: Script) -> int:
    """Return how many clients do not hold exactly what the model sent, or were not told that it is all."""
    return sum(not (visit.is_done and is_whole(visit.text, script.chunks)) for visit in visits)
