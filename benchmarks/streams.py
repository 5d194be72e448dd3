"""Streams with one follower each, which is real life, against fewer streams."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from agentstream.stream.handler import RedisStreamHandler
from benchmarks.apps import new_name, running_app, stream_handler
from benchmarks.client_process import Job, clients
from benchmarks.crowd import Load, write
from benchmarks.measure import OURS, Curve, Figure, cpu_seconds, percentile
from devhost.testing import HostProcess

ROUNDS = 3
SETTLE_SECONDS = 0.5
FOLLOWERS = 1_000
FEW = 20
STREAMS = (1, 20, 200, 1_000, 2_000)
GROWING_CHUNKS_PER_SECOND = 100.0
# Followers are told of silence, which costs the worker something for each of them, whatever is delivered.
HEARTBEAT_SECONDS = "120"


@dataclass(frozen=True)
class Outcome:
    """What became of a load.

    Attributes:
        wrong: How many followers did not get exactly what was written, in order.
        delivery_ms: From the agent's writing to the receipt, of each chunk by each follower.
        cpu_us: The worker's processor time per delivery, in microseconds.
    """

    wrong: int
    delivery_ms: list[float]
    cpu_us: float


async def follow_apart(host: HostProcess, handler: RedisStreamHandler, load: Load) -> Outcome:
    """Let the host serve the load to followers in a process of their own, and check every one of them."""
    names = [new_name() for _ in range(load.streams)]
    for name in names:
        await handler.accept_run(name, "run", "TravelPlanner")
    followed = [names[number % load.streams] for number in range(load.followers)]
    async with clients(Job(host.base_url, paths=[f"/api/agent/stream/{name}" for name in followed])) as following:
        await following.connected()
        await asyncio.sleep(SETTLE_SECONDS)
        before = cpu_seconds(host.worker_pid)
        texts = await asyncio.gather(*(write(load, name, number) for number, name in enumerate(names)))
        spent = cpu_seconds(host.worker_pid) - before
        for name in names:
            await handler.write_completion(name, correlation_id="run")
        visits = await following.visits()
    written = dict(zip(names, texts, strict=True))
    wrong = sum(
        [chunk for _, chunk in visit.messages] != written[name] or not visit.is_done
        for name, visit in zip(followed, visits, strict=True)
    )
    delays = [(at - int(chunk.split()[0])) / 1e6 for visit in visits for at, chunk in visit.messages]
    return Outcome(wrong, delays, spent * 1e6 / (load.followers * load.chunks))


async def streams(url: str) -> list[Figure]:
    """1,000 followers of a stream each with 2 chunks per second, against the same deliveries from 20 streams: to a
    follower each, and to 50 each, for whom a chunk is read and parsed once.
    """
    many = Load(FOLLOWERS, FOLLOWERS, chunks_per_second=2, seconds=10)
    few = Load(FEW, FEW, chunks_per_second=100, seconds=10)
    shared = Load(FOLLOWERS, FEW, chunks_per_second=2, seconds=10)
    outcomes: dict[Load, list[Outcome]] = {many: [], few: [], shared: []}
    async with stream_handler() as handler:
        for _ in range(ROUNDS):
            for load, measured in outcomes.items():
                async with running_app(url, HEARTBEAT_SECONDS=HEARTBEAT_SECONDS) as host:
                    measured.append(await follow_apart(host, handler, load))
    name = "1,000 streams with a follower each, 2,000 deliveries/s: "
    each = f"{name}the worker's CPU each"
    wrong = [sum(one.wrong for one in round_) for round_ in zip(*outcomes.values(), strict=True)]
    return [
        Figure(f"{name}not exact", "", {OURS: wrong}, wanted={OURS: 0}),
        _delivery(name, outcomes[many], 50, wanted=10),
        _delivery(name, outcomes[many], 99, wanted=250),
        Figure(each, "µs", {OURS: [outcome.cpu_us for outcome in outcomes[many]]}),
        _ratio(f"{each}, against 20 streams with a follower each", outcomes[many], outcomes[few], {OURS: 1.3}),
        _ratio(f"{each}, against 20 streams with 50 each", outcomes[many], outcomes[shared], {}),
    ]


def _ratio(name: str, ones: Sequence[Outcome], others: Sequence[Outcome], wanted: dict[str, float]) -> Figure:
    ratios = [one.cpu_us / other.cpu_us for one, other in zip(ones, others, strict=True)]
    return Figure(name, "times", {OURS: ratios}, wanted=wanted)


def _delivery(name: str, outcomes: Sequence[Outcome], percent: int, wanted: float) -> Figure:
    values = [percentile(outcome.delivery_ms, percent) for outcome in outcomes]
    return Figure(f"{name}delivery, p{percent}", "ms", {OURS: values}, wanted={OURS: wanted})


async def grow_streams(url: str) -> list[Curve]:
    """One delivery's cost with 1 to 2,000 streams of a follower each, with 100 chunks per second in all."""
    costs = {}
    async with stream_handler() as handler:
        for number in STREAMS:
            load = Load(number, number, GROWING_CHUNKS_PER_SECOND / number, seconds=max(5.0, number / 100))
            async with running_app(
                url, STREAM_MAX_FOLLOWERS=str(max(STREAMS)), HEARTBEAT_SECONDS=HEARTBEAT_SECONDS
            ) as host:
                outcome = await follow_apart(host, handler, load)
            if outcome.wrong:
                raise ValueError(f"{outcome.wrong} of {number} followers did not get what was written")
            costs[number] = outcome.cpu_us
    return [Curve("the worker's CPU for a delivery, one follower a stream", "µs", "streams", costs, wanted=1.3)]
