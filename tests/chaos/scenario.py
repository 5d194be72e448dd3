"""One seeded scenario: runs, followers and faults at random instants, judged by the promises of the design."""

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from agentstream.stream.text import normalized
from tests.app import RUN_ROUTE
from tests.chaos.world import World, running_world
from tests.recording_follower import TERMINAL, RecordingFollower
from tests.scripts import script

BUSY_SECONDS = 2.5
SETTLE_SECONDS = 60.0
RETRY_SECONDS = 0.1
# What a client does not know: a request whose response was lost is sent again, under the same key.
UNANSWERED = (httpx.HTTPError,)
STATUS_OF = {"done": "completed", "cancelled": "cancelled"}


@dataclass
class Tally:
    """What happened, and what must not: the last four."""

    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    terminal: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.diverged, *self.unfinished]

    def add(self, other: "Tally") -> None:
        self.faults += other.faults
        self.runs += other.runs
        self.terminal += other.terminal
        for name in ("lost", "duplicated", "diverged", "unfinished"):
            getattr(self, name).extend(getattr(other, name))


class Scenario:
    """A scenario; the same seed makes the same schedule."""

    def __init__(self, seed: int, directory: Path) -> None:
        self._seed = seed
        self._rng = random.Random(seed)
        self._directory = directory
        self._tally = Tally()

    async def run(self) -> Tally:
        """Play it and return what happened."""
        async with running_world(self._directory) as world, httpx.AsyncClient(timeout=5) as client:
            conversations = [f"c{self._seed}-{number}" for number in range(self._rng.randint(1, 3))]
            runs = [
                asyncio.create_task(self._run(world, client, self._rng.choice(conversations), number))
                for number in range(self._rng.randint(3, 8))
            ]
            await self._do_harm(world)
            await asyncio.gather(*runs)
            return self._tally

    async def _do_harm(self, world: World) -> None:
        faults = self._rng.sample(world.faults, self._rng.randint(1, 3))
        rngs = [random.Random(self._rng.random()) for _ in faults]
        for fault, rng in zip(faults, rngs, strict=True):
            await asyncio.sleep(rng.uniform(0, BUSY_SECONDS / len(faults)))
            await fault(rng)
            self._tally.faults[fault.__name__] += 1

    async def _run(self, world: World, client: httpx.AsyncClient, conversation_id: str, number: int) -> None:
        rng = random.Random(f"{self._seed}-{number}")
        await asyncio.sleep(rng.uniform(0, BUSY_SECONDS / 2))
        run = await self._start(world, client, conversation_id, number, rng)
        self._tally.runs += 1
        follower = RecordingFollower(lambda: world.base_url, run["stream_url"], cuts=rng)
        cancelling = asyncio.create_task(self._maybe_cancel(world, client, run, rng))
        name = f"seed {self._seed}, run {number}"
        try:
            await follower.follow(SETTLE_SECONDS)
            await cancelling
            await self._judge(world, client, run, follower, name)
        except TimeoutError:
            self._tally.unfinished.append(f"{name}: {follower.events[-3:]}, refused {follower.refused[-3:]}")
        finally:
            cancelling.cancel()

    async def _start(
        self, world: World, client: httpx.AsyncClient, conversation_id: str, number: int, rng: random.Random
    ) -> dict[str, Any]:
        message = _message(number, rng)
        headers = {"Idempotency-Key": f"{self._seed}-{number}"}
        body = {"message": message, "conversation_id": conversation_id}
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                with contextlib.suppress(*UNANSWERED):
                    response = await client.post(world.base_url + RUN_ROUTE, json=body, headers=headers)
                    if response.status_code == httpx.codes.ACCEPTED:
                        accepted: dict[str, Any] = response.json()
                        return accepted
                await asyncio.sleep(RETRY_SECONDS)

    async def _maybe_cancel(
        self, world: World, client: httpx.AsyncClient, run: dict[str, Any], rng: random.Random
    ) -> None:
        if rng.random() < 0.2:
            await asyncio.sleep(rng.uniform(0, 1))
            with contextlib.suppress(*UNANSWERED):
                await client.post(f"{world.base_url}{run['status_url']}/cancel")

    async def _judge(
        self,
        world: World,
        client: httpx.AsyncClient,
        run: dict[str, Any],
        follower: RecordingFollower,
        name: str,
    ) -> None:
        end = follower.events[-1].event
        self._tally.terminal[end] += 1
        ids = [event.id for event in follower.events]
        if len(set(ids)) < len(ids):
            self._tally.duplicated.append(f"{name}: {ids}")
        status = await self._ended(world, client, run)
        if status["status"] not in (STATUS_OF.get(end), "failed" if end == "error" else None, _timed_out(end)):
            self._tally.diverged.append(f"{name}: {end}, but {status['status']}")
        answer = normalized(status["response"] or "")
        if end != "error" and follower.text != answer:
            self._tally.diverged.append(f"{name}: {follower.text!r} is not {answer!r}; {follower.events}")
        late = RecordingFollower(lambda: world.base_url, run["stream_url"])
        await late.follow(SETTLE_SECONDS)
        if (end != "error" and late.text != answer) or [late.events[-1].event] != [
            event.event for event in late.events if event.event in TERMINAL
        ]:
            self._tally.lost.append(f"{name}: afterwards {late.events}")

    async def _ended(self, world: World, client: httpx.AsyncClient, run: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                with contextlib.suppress(*UNANSWERED):
                    response = await client.get(world.base_url + run["status_url"])
                    if response.status_code == httpx.codes.OK:
                        status: dict[str, Any] = response.json()
                        if status["status"] not in ("queued", "running"):
                            return status
                await asyncio.sleep(RETRY_SECONDS)


def _message(number: int, rng: random.Random) -> str:
    chunks = [f"{number}.{piece}{rng.choice(['', ' ', chr(10), 'é😀'])}" for piece in range(rng.randint(0, 60))]
    reply: dict[str, Any] = {"chunks": chunks, "delay_seconds": rng.choice([0, 0.005, 0.02, 0.05])}
    if rng.random() < 0.2:
        reply["fails_after"] = rng.randint(0, len(chunks))
        reply["streams_only"] = rng.random() < 0.5
    if rng.random() < 0.2:
        reply["tool_calls"] = [("get_weather_forecast", {"destination": "Tokyo", "date": "day 1"})]
    return script(**reply)


def _timed_out(end: str) -> str | None:
    return "timed_out" if end == "error" else None
