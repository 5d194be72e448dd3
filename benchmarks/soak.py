"""A mixed load for minutes: what grows that should not."""

import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import aiohttp
import psutil
from redis.asyncio import Redis

from benchmarks.apps import hosted, http_client
from benchmarks.measure import OURS, Figure, late_growth
from tests.model_server import ModelServer
from tests.scripts import script, scripted_reply

RUN_ROUTE = "/api/agents/TravelPlanner/run"
DEFAULT_MINUTES = "1.5"
SAMPLE_SECONDS = 5.0
VISITORS = 8
CHUNKS = 20
MESSAGE = script(chunks=["a chunk of an answer. "] * CHUNKS, delay_seconds=0.05)
# The stream's own life is short, so that what expires does so many times meanwhile.
TTL_MINUTES = "0.5"


@dataclass(frozen=True)
class Sample:
    """What the host and Redis hold at one time."""

    seconds: float
    resident_mb: float
    descriptors: int
    threads: int
    keys: int
    keys_without_ttl: int
    state_mb: float

    @property
    def row(self) -> str:
        return (
            f"  {self.seconds:6.0f} s: {self.resident_mb:6.1f} MB resident, {self.descriptors} descriptors, "
            f"{self.threads} threads, {self.keys} keys, {self.keys_without_ttl} without TTL, "
            f"durable state {self.state_mb:.1f} MB"
        )


async def soak(url: str) -> list[Figure]:
    """Runs that are followed, left, resumed, cancelled, repeated and deleted, for ``SOAK_MINUTES`` (1.5)."""
    deadline = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES", DEFAULT_MINUTES))
    failures: list[str] = []
    async with ModelServer(scripted_reply) as model, Redis.from_url(url) as redis:
        with tempfile.TemporaryDirectory() as state:
            path = Path(state)
            async with (
                hosted(url, model.base_url, path, REDIS_STREAM_TTL_MINUTES=TTL_MINUTES) as host,
                http_client(host) as client,
            ):
                visiting = [
                    asyncio.create_task(_visit(client, random.Random(number), deadline, failures))
                    for number in range(VISITORS)
                ]
                samples = await _sample(psutil.Process(host.worker_pid), redis, path, deadline)
                await asyncio.gather(*visiting)
    print("\n".join(sample.row for sample in samples), flush=True)
    print("\n".join(f"  failed: {failure}" for failure in failures[:10]))
    growth = late_growth([sample.resident_mb for sample in samples])
    descriptors = late_growth([sample.descriptors for sample in samples])
    return [
        Figure("soak: what failed", "", {OURS: [len(failures)]}, wanted={OURS: 0}),
        Figure(
            "soak: resident memory, last third against the one before", "times", {OURS: [growth]}, wanted={OURS: 1.1}
        ),
        Figure("soak: descriptors, the same", "times", {OURS: [descriptors]}, wanted={OURS: 1.2}),
        Figure(
            "soak: Redis keys without TTL, at most",
            "",
            {OURS: [max(sample.keys_without_ttl for sample in samples)]},
            wanted={OURS: 0},
        ),
    ]


async def _sample(process: psutil.Process, redis: Redis, state: Path, deadline: float) -> list[Sample]:
    start, samples = time.monotonic(), []
    while time.monotonic() < deadline:
        await asyncio.sleep(SAMPLE_SECONDS)
        keys = [key async for key in redis.scan_iter(count=1_000)]
        ttls = [await redis.pttl(key) for key in keys]
        samples.append(
            Sample(
                time.monotonic() - start,
                process.memory_info().rss / 2**20,
                process.num_fds(),
                process.num_threads(),
                len(keys),
                # -1 is without one; a key that expired meanwhile has -2.
                sum(ttl == -1 for ttl in ttls),
                _megabytes(state),
            )
        )
    return samples


def _megabytes(state: Path) -> float:
    return sum(path.stat().st_size for path in state.glob("durable.sqlite*")) / 2**20


async def _visit(client: aiohttp.ClientSession, chance: random.Random, deadline: float, failures: list[str]) -> None:
    visits: list[Callable[[aiohttp.ClientSession, random.Random], Awaitable[None]]] = [_cut, _cancel, _repeat, _delete]
    while time.monotonic() < deadline:
        visit = chance.choice(visits)
        try:
            await visit(client, chance)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            failures.append(f"{visit.__name__}: {error!r}")


async def _cut(client: aiohttp.ClientSession, chance: random.Random) -> None:
    """Follow a run over connections that end anywhere, and check what was read."""
    path, received, last = (await _start(client))["stream_url"], b"", ""
    for cut in itertools.chain((chance.uniform(0, 0.5) for _ in range(chance.randrange(4))), [60.0]):
        try:
            async with (
                asyncio.timeout(cut),
                client.get(path, headers={"Last-Event-ID": last} if last else {}) as response,
            ):
                async for part in response.content.iter_any():
                    received += part
        except TimeoutError:
            pass
        received = received[: received.rfind(b"\n\n") + 2]
        ids = [line.removeprefix(b"id: ") for line in received.splitlines() if line.startswith(b"id: ")]
        last = ids[-1].decode() if ids else ""
    if received.count(b"event: message") != CHUNKS or b"event: done" not in received:
        raise ValueError(f"{received.count(b'event: message')} chunks")


async def _cancel(client: aiohttp.ClientSession, chance: random.Random) -> None:
    run = await _start(client)
    await asyncio.sleep(chance.uniform(0, 1))
    async with client.post(f"{run['status_url']}/cancel") as cancelled:
        if cancelled.status not in (HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
            raise ValueError(f"cancel was answered {cancelled.status}")
    await _end(client, run["stream_url"])


async def _repeat(client: aiohttp.ClientSession, chance: random.Random) -> None:
    """Send the same message under the same key, and another one to the same conversation."""
    key = {"Idempotency-Key": str(chance.getrandbits(64))}
    first, second = [await _start(client, headers=key) for _ in range(2)]
    if first["correlation_id"] != second["correlation_id"]:
        raise ValueError("a key has started two runs")
    third = await _start(client, conversation_id=first["conversation_id"])
    await _end(client, third["stream_url"])


async def _delete(client: aiohttp.ClientSession, _chance: random.Random) -> None:
    run = await _start(client)
    await _end(client, run["stream_url"])
    async with client.delete(f"/api/agent/conversations/{run['conversation_id']}") as deleted:
        deleted.raise_for_status()


async def _start(client: aiohttp.ClientSession, headers: dict[str, str] | None = None, **fields: str) -> dict[str, str]:
    async with client.post(RUN_ROUTE, json={"message": MESSAGE, **fields}, headers=headers) as accepted:
        accepted.raise_for_status()
        run: dict[str, str] = await accepted.json()
        return run


async def _end(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as response:
        content = await response.read()
    if not any(end in content for end in (b"event: done", b"event: cancelled")):
        raise ValueError("a run did not end well")
