"""One seeded scenario: runs, followers and faults at random instants, judged by the promises of the design."""

import asyncio
import contextlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from agentstream.client import AgentClientError
from agentstream.stream.text import normalized
from tests.chaos.followers import FOLLOWERS, Follower, Held, SseJson
from tests.chaos.world import World
from tests.cutting_transport import CuttingTransport
from tests.scripts import script
from travel_planner.tools import get_weather_forecast

BUSY_SECONDS = 2.5
# Far more than it takes on a machine that does nothing else.
SETTLE_SECONDS = 120.0
RETRY_SECONDS = 0.1
REQUEST_SECONDS = 5.0
# What a client does not know: a request whose response was lost is sent again, under the same key.
UNANSWERED = (httpx.HTTPError,)
STATUSES_OF = {"done": ("completed",), "cancelled": ("cancelled",), "error": ("failed", "timed_out")}
MEMORY_ROUTE = "/runtime/webhooks/durabletask/entities/dafx-TravelPlanner"
TOOL = "get_weather_forecast"
ARGUMENTS = {"destination": "Tokyo", "date": "day 1"}
RESULT = get_weather_forecast(**ARGUMENTS)
MUST_NOT = ("lost", "duplicated", "diverged", "unfinished")
# How many of ten scenarios sign in to Redis with tokens that expire.
SIGN_IN = 3


@dataclass
class Tally:
    """What happened, and what must not: the last four.

    Attributes:
        faults: How often each was done.
        runs: How many were followed, by wire.
        met: The same, by fault that was done meanwhile and wire.
        cut: How many responses were cut, by wire.
        terminal: How many ended with which event.
        tools: How many of those that completed held a tool call with its result at the end.
    """

    faults: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    terminal: Counter[str] = field(default_factory=Counter)
    tools: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.diverged, *self.unfinished]

    def add(self, other: "Tally") -> None:
        self.tools += other.tools
        for name in ("faults", "runs", "met", "cut", "terminal"):
            getattr(self, name).update(getattr(other, name))
        for name in MUST_NOT:
            getattr(self, name).extend(getattr(other, name))


def signs_in(seed: int) -> bool:
    """Return whether this scenario's hosts sign in to Redis with Microsoft Entra ID."""
    return seed * SIGN_IN % 10 < SIGN_IN


@dataclass(frozen=True)
class Script:
    """What a run's model does."""

    message: str
    calls_tool: bool


class Scenario:
    """A scenario in a world; the same seed makes the same schedule."""

    def __init__(self, seed: int, world: World) -> None:
        self._seed = seed
        self._world = world
        self._rng = random.Random(seed)
        self._tally = Tally()

    async def run(self) -> Tally:
        """Play it and return what happened."""
        async with self._client("http://app") as client:
            conversations = [f"c{self._seed}-{number}" for number in range(self._rng.randint(1, 3))]
            wires = self._rng.sample(FOLLOWERS, len(FOLLOWERS)) * 2
            runs = [
                asyncio.create_task(self._run(client, wire, self._rng.choice(conversations), number))
                for number, wire in enumerate(wires[: self._rng.randint(3, 8)])
            ]
            await self._do_harm()
            await asyncio.gather(*runs)
        for fault, (wire, count) in itertools.product(self._tally.faults, self._tally.runs.items()):
            self._tally.met[fault, wire] += count
        return self._tally

    async def _do_harm(self) -> None:
        faults = self._rng.sample(self._world.faults, self._rng.randint(1, 3))
        if self._world.identity:
            faults[0] = self._world.expire_tokens
            self._rng.shuffle(faults)
        rngs = [random.Random(self._rng.random()) for _ in faults]
        for fault, rng in zip(faults, rngs, strict=True):
            await asyncio.sleep(rng.uniform(0, BUSY_SECONDS / len(faults)))
            await fault(rng)
            self._tally.faults[fault.__name__] += 1

    def _client(self, base_url: str, transport: CuttingTransport | None = None) -> httpx.AsyncClient:
        transport = transport or CuttingTransport(lambda: self._world.base_url)
        return httpx.AsyncClient(base_url=base_url, transport=transport, timeout=REQUEST_SECONDS)

    async def _run(self, client: httpx.AsyncClient, wire: type[Follower], conversation_id: str, number: int) -> None:
        rng = random.Random(f"{self._seed}-{number}")
        await asyncio.sleep(rng.uniform(0, BUSY_SECONDS / 2))
        plan = _script(number, rng)
        transport = CuttingTransport(lambda: self._world.base_url, random.Random(rng.random()))
        async with self._client(f"http://app{wire.base_path}", transport) as http:
            follower = wire(http, plan.message, conversation_id, f"{self._seed}-{number}")
            name = f"seed {self._seed}, run {number} ({wire.wire}) in {conversation_id}"
            await self._follow(client, follower, plan, rng, name)
        self._tally.cut[wire.wire] += transport.cut

    async def _follow(
        self, client: httpx.AsyncClient, follower: Follower, plan: Script, rng: random.Random, name: str
    ) -> None:
        self._tally.runs[follower.wire] += 1
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await follower.start()
                await asyncio.gather(follower.follow(), self._maybe_cancel(client, follower.correlation_id, rng))
            await self._judge(client, follower, plan, name)
        except TimeoutError:
            self._tally.unfinished.append(f"{name}: {follower.held}, {follower.ids[-3:]}, {follower.refused[-3:]}")
        except (AssertionError, AgentClientError) as error:
            self._tally.diverged.append(f"{name}: {error!r}, after {follower.ids[-3:]}, {follower.held}")

    async def _maybe_cancel(self, client: httpx.AsyncClient, correlation_id: str, rng: random.Random) -> None:
        if rng.random() < 0.2:
            await asyncio.sleep(rng.uniform(0, 1))
            with contextlib.suppress(*UNANSWERED):
                await client.post(f"/api/agent/runs/{correlation_id}/cancel")

    async def _judge(self, client: httpx.AsyncClient, follower: Follower, plan: Script, name: str) -> None:
        run = await _answer(client, f"/api/agent/runs/{follower.correlation_id}", _has_ended)
        late = SseJson(client, "", run["conversation_id"], "")
        late.correlation_id = follower.correlation_id
        async with asyncio.timeout(SETTLE_SECONDS):
            await late.follow()
        memory = await _answer(client, f"{MEMORY_ROUTE}/{run['conversation_id']}")
        committed = _remembers_call(memory, follower.correlation_id)
        if not _in_order(follower.ids):
            self._tally.duplicated.append(f"{name}: {follower.ids}")
        held = follower.held
        # What the stream holds has been told on every wire, unless it was restored since.
        if held.reset == "unknown" and late.held.reset != "expired":
            held.reset = late.held.reset
        for wrong, each, holds in ((self._tally.diverged, follower, held), (self._tally.lost, late, late.held)):
            wrong.extend(f"{name}: {what}; {holds}, {run}" for what in _wrongs(each, holds, run, plan, committed))
        self._tally.terminal[held.end] += 1
        self._tally.tools += held.end == "done" and bool(held.results)


async def _answer(
    client: httpx.AsyncClient, path: str, is_wanted: Callable[[dict[str, Any]], bool] = lambda _: True
) -> dict[str, Any]:
    """Return what there is, empty where there is nothing, once it is wanted."""
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            with contextlib.suppress(*UNANSWERED):
                response = await client.get(path)
                body: dict[str, Any] = response.json() if response.status_code == httpx.codes.OK else {}
                if response.status_code in (httpx.codes.OK, httpx.codes.NOT_FOUND) and is_wanted(body):
                    return body
            await asyncio.sleep(RETRY_SECONDS)


def _has_ended(run: dict[str, Any]) -> bool:
    return run.get("status", "queued") not in ("queued", "running")


def _remembers_call(memory: dict[str, Any], correlation_id: str) -> bool:
    """Return whether the agent's memory has a tool call in its response to a run."""
    # An agent whose first run came to nothing remembers nothing.
    entries = memory["data"]["conversationHistory"] if memory else []
    responses = [each for each in entries if each["$type"] == "response" and each["correlationId"] == correlation_id]
    return '"functionCall"' in json.dumps(responses)


def _in_order(ids: list[str]) -> bool:
    """Return whether each frame came once, and after those before it.

    Only a reset that no entry holds may come after anything: Redis has lost what came before, and counts anew.
    """
    places = [tuple(map(int, re.split("[-.]", frame_id))) for frame_id in ids]
    return all(later > earlier or later[:2] == (0, 0) for earlier, later in itertools.pairwise(places))


def _wrongs(follower: Follower, held: Held, run: dict[str, Any], plan: Script, committed: bool) -> Iterator[str]:
    """Yield what is wrong with what a follower holds at the end."""
    status = run["status"]
    statuses = STATUSES_OF[held.end] + (() if follower.tells_cancelled or held.end == "error" else ("cancelled",))
    if status not in statuses:
        yield f"the end is {held.end}, but the status {status}"
    if held.end == "error":
        return
    if held.text != normalized(run["response"] or ""):
        yield "the text is not the committed answer"
    if held.end == "done" and held.reset in ("repaired", "expired") and held.spent:
        yield "usage is told again"
    if follower.tells_tools and not _tools_are_right(held, plan, committed):
        yield f"the tools are not those of the answer, which the agent remembers {'with' if committed else 'without'}"


def _tools_are_right(held: Held, plan: Script, committed: bool) -> bool:
    """Return whether the tool calls and results are those that the API's contract promises.

    An attempt tells what its model called; a repair tells the text only; what expired is told as the agent remembers
    it. Of a run that was cancelled it remembers the text only, and what was told live may lack its end.
    """
    whole = list(held.calls) == list(held.results) and [
        (json.loads(arguments), held.results[call_id]) for call_id, arguments in held.calls.items()
    ] == [(ARGUMENTS, RESULT)]
    none = not held.calls and not held.results
    if held.end == "cancelled" and held.reset in ("", "attempt", "unknown"):
        told = "".join(held.calls.values())
        # A call that was cut before its first argument is told like one that has none.
        is_cut = told == "{}" or json.dumps(ARGUMENTS).startswith(told)
        return none or (plan.calls_tool and len(held.calls) == 1 and is_cut)
    match held.reset:
        case "" | "attempt":
            return whole if plan.calls_tool else none
        case "expired":
            return whole if committed else none
        case "unknown":
            return none or (plan.calls_tool and whole)
    return none


def _script(number: int, rng: random.Random) -> Script:
    chunks = [f"{number}.{piece}{rng.choice(['', ' ', chr(10), 'é😀'])}" for piece in range(rng.randint(0, 60))]
    reply: dict[str, Any] = {"chunks": chunks, "delay_seconds": rng.choice([0, 0.005, 0.02, 0.05]), "usage": [3, 2]}
    if rng.random() < 0.2:
        reply["fails_after"] = rng.randint(0, len(chunks))
        reply["streams_only"] = rng.random() < 0.5
    calls_tool = rng.random() < 0.4
    if calls_tool:
        reply["tool_calls"] = [(TOOL, ARGUMENTS)]
    return Script(script(**reply), calls_tool)
