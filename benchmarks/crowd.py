"""Many live followers at once, all in this process, which writes what they follow too."""

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import psutil

from agentstream.attempt.writer import AttemptWriter
from agentstream.model import RunKey
from agentstream.stream.handler import RedisStreamHandler
from benchmarks.apps import TEXT, http_client, new_name, running_app, stream_handler
from benchmarks.measure import OURS, Figure, cpu_seconds, percentile
from devhost.testing import HostProcess
from tests.event_stream import parse

ROUNDS = 3


@dataclass(frozen=True)
class Load:
    """So many followers of so many streams, with so many chunks per second in each, for so long."""

    followers: int
    streams: int
    chunks_per_second: float
    seconds: float

    @property
    def chunks(self) -> int:
        """How many chunks each stream gets."""
        return round(self.chunks_per_second * self.seconds)


@dataclass(frozen=True)
class Outcome:
    """What became of a load.

    Attributes:
        wrong: How many followers did not get exactly what was written, in order.
        delivery_ms: From the agent's writing to the receipt, of each chunk by each follower.
        cpu_us: The worker's processor time per delivery, in microseconds.
        connections: The worker's connections to Redis.
        resident_kb: The growth of the worker's resident memory per follower.
    """

    wrong: int
    delivery_ms: list[float]
    cpu_us: float
    connections: int
    resident_kb: float


class _Follower:
    def __init__(self, client: aiohttp.ClientSession, name: str) -> None:
        self.connected = asyncio.Event()
        self._client = client
        self._name = name
        self._received: list[tuple[int, bytes]] = []

    async def follow(self) -> None:
        timeout = aiohttp.ClientTimeout(total=120)
        async with self._client.get(f"/api/agent/stream/{self._name}", timeout=timeout) as response:
            response.raise_for_status()
            while data := await response.content.readany():
                self._received.append((time.monotonic_ns(), data))
                self.connected.set()

    def texts(self) -> list[str]:
        return [event.data for event in parse(b"".join(data for _, data in self._received))]

    def delays_ms(self) -> list[float]:
        return [
            (received - int(event.data.split()[0])) / 1e6
            for received, data in self._received
            for event in parse(data)
            if event.event == "message"
        ]


async def follow_live(url: str, host: HostProcess, handler: RedisStreamHandler, load: Load) -> Outcome:
    """Let the host serve the load, and check every follower."""
    names = [new_name() for _ in range(load.streams)]
    for name in names:
        await handler.accept_run(name, "run", "TravelPlanner")
    process = psutil.Process(host.worker_pid)
    async with http_client(host) as client:
        resident = process.memory_info().rss
        followers = [_Follower(client, names[number % load.streams]) for number in range(load.followers)]
        following = [asyncio.create_task(follower.follow()) for follower in followers]
        await asyncio.gather(*(follower.connected.wait() for follower in followers))
        before = cpu_seconds(process.pid)
        writing = [asyncio.create_task(write(load, name, number)) for number, name in enumerate(names)]
        await asyncio.sleep(load.seconds / 2)
        resident_kb = (process.memory_info().rss - resident) / load.followers / 1024
        connections = _connections(process, url)
        written = dict(zip(names, await asyncio.gather(*writing), strict=True))
        for name in names:
            await handler.write_completion(name, correlation_id="run")
        await asyncio.gather(*following)
        spent = cpu_seconds(process.pid) - before
    wanted = [[*written[names[number % load.streams]], "[DONE]"] for number in range(load.followers)]
    wrong = sum(follower.texts() != texts for follower, texts in zip(followers, wanted, strict=True))
    return Outcome(
        wrong,
        [delay for follower in followers for delay in follower.delays_ms()],
        spent * 1e6 / (load.followers * load.chunks),
        connections,
        resident_kb,
    )


async def write(load: Load, name: str, number: int) -> list[str]:
    """Write a stream at its pace, and return the chunks; each begins with the time at which the agent had it."""
    writer = AttemptWriter(RunKey(name, "run"))
    await writer.start()
    start = time.perf_counter() + number / load.streams / load.chunks_per_second
    texts = []
    for chunk in range(load.chunks):
        await asyncio.sleep(max(0, start + chunk / load.chunks_per_second - time.perf_counter()))
        texts.append(f"{time.monotonic_ns()} {TEXT}")
        writer.write(texts[-1])
    await writer.close()
    return texts


def _connections(process: psutil.Process, url: str) -> int:
    redis_port = urlsplit(url).port
    return sum(bool(each.raddr) and each.raddr.port == redis_port for each in process.net_connections("tcp"))


async def crowd(url: str) -> list[Figure]:
    """1,000 live followers of 20 streams with 10 chunks per second each."""
    load = Load(followers=1_000, streams=20, chunks_per_second=10, seconds=10)
    async with stream_handler() as handler:
        outcomes = []
        for _ in range(ROUNDS):
            async with running_app(url) as host:
                outcomes.append(await follow_live(url, host, handler, load))
    name = "1,000 live followers, 10,000 deliveries/s: "
    deliveries = [outcome.delivery_ms for outcome in outcomes]
    return [
        Figure(f"{name}not exact", "", {OURS: [outcome.wrong for outcome in outcomes]}, wanted={OURS: 0}),
        Figure(f"{name}delivery, p50", "ms", {OURS: [percentile(delays, 50) for delays in deliveries]}),
        Figure(
            f"{name}delivery, p99", "ms", {OURS: [percentile(delays, 99) for delays in deliveries]}, wanted={OURS: 500}
        ),
        Figure(f"{name}Redis connections", "", {OURS: [outcome.connections for outcome in outcomes]}, wanted={OURS: 8}),
        Figure(f"{name}resident each", "KB", {OURS: [outcome.resident_kb for outcome in outcomes]}, wanted={OURS: 80}),
        Figure(f"{name}the worker's CPU each", "µs", {OURS: [outcome.cpu_us for outcome in outcomes]}),
    ]
