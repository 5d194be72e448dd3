"""What each chunk costs the worker on its way from the model to a follower, and whose cost it is."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import aiohttp
from agent_framework import SupportsAgentRun
from agent_framework_durabletask import AgentEntity, RunRequest

from agentstream import Settings
from agentstream.agent_memory import AgentMemory, answer_text
from agentstream.attempt.agent_loop import AgentLoop
from benchmarks.apps import REFERENCE_APP, http_client, running_app
from benchmarks.measure import OURS, Figure, cpu_seconds, interleave, send_us, timer_us
from benchmarks.running import RUN_ROUTE
from devhost.testing import HostProcess
from tests.model_server import ModelServer
from tests.scripts import script, scripted_reply
from travel_planner import create_agents

ROUNDS = 5
RUNS = 10
FEW, MANY = 3, 103
PACE_SECONDS = 0.02
# What the arithmetic of docs/scaling.md assumes of a run, and so many runs that a worker is about half busy.
REAL_RUNS = 60
REAL_PACE_SECONDS = 1 / 15
WORD = "word "
WHOLE, FRAMEWORK, HTTP = "the whole", "the framework", "HTTP"
A_WAIT, A_SEND = "for a wait that a timer ends", "for a send that wakes who waits for it"

# Lets so many chunks come in each of the runs, and returns the processor time of that in seconds.
Measure = Callable[[int], Awaitable[float]]


async def chunk_cost(url: str) -> list[Figure]:
    """The processor time of each further chunk of a followed run: at a pace at which each chunk travels alone, at full
    speed, at which many travel together, and as in real life.

    The framework's is that of its entity code over the same model, without a callback; HTTP's that of an app which only
    sends one piece per chunk, on the worker's server. The rest is ours, with the client of Redis; at full speed with
    HTTP, since nobody knows how many chunks a piece holds. What the machine takes to fall asleep and be woken is in all
    of them at a pace, and shown by itself.
    """
    async with (
        running_app(url) as host,
        running_app(url, REFERENCE_APP) as sender,
        http_client(host) as client,
        http_client(sender) as sender_client,
        ModelServer(scripted_reply) as model,
    ):
        [agent] = create_agents(Settings.model_validate({"openai_base_url": model.base_url}))
        loop = AgentLoop(max_tools=1)

        async def split(pace_seconds: float) -> dict[str, list[float]]:
            message = partial(_message, pace_seconds)
            contenders: dict[str, Measure] = {
                WHOLE: lambda chunks: _cpu_seconds(host, RUNS, partial(_follow, client, message(chunks))),
                FRAMEWORK: lambda chunks: loop.run(_answer_all(agent, message(chunks), chunks)),
            }
            if pace_seconds:
                path = f"?pace_seconds={pace_seconds}"
                contenders[HTTP] = lambda chunks: _cpu_seconds(
                    sender, RUNS, partial(_read, sender_client, f"/api/send/{chunks}{path}")
                )
            for each in contenders.values():
                # What is done once is not a chunk's.
                await each(FEW)
            return await interleave(ROUNDS, {name: partial(_each, RUNS, each) for name, each in contenders.items()})

        def really(chunks: int) -> Awaitable[float]:
            return _cpu_seconds(host, REAL_RUNS, partial(_follow, client, _message(REAL_PACE_SECONDS, chunks)))

        paced, full = await split(PACE_SECONDS), await split(0)
        real = await interleave(ROUNDS, {WHOLE: partial(_each, REAL_RUNS, really)})
    machine = await asyncio.to_thread(lambda: {A_WAIT: [timer_us()], A_SEND: [send_us()]})
    return [
        *_figures(f"CPU per followed chunk, {RUNS} runs at {1 / PACE_SECONDS:.0f} chunks/s", paced, "the rest"),
        *_figures(f"CPU per followed chunk, {RUNS} runs at full speed", full, "HTTP and the rest"),
        Figure(f"CPU per followed chunk, {REAL_RUNS} runs at {1 / REAL_PACE_SECONDS:.0f} chunks/s", "µs", real),
        Figure("the machine's CPU", "µs", machine),
    ]


def _figures(name: str, values: dict[str, list[float]], rest: str) -> list[Figure]:
    ours = [whole - sum(others) for whole, *others in zip(*values.values(), strict=True)]
    return [Figure(name, "µs", values), Figure(f"{name}: {rest}", "µs", {OURS: ours}, wanted={OURS: 80})]


async def _each(runs: int, measure: Measure) -> float:
    """Return what each further chunk of so many runs costs, in µs."""
    few, many = await measure(FEW), await measure(MANY)
    return 1e6 * (many - few) / (MANY - FEW) / runs


async def _cpu_seconds(host: HostProcess, runs: int, follow: Callable[[], Coroutine[Any, Any, None]]) -> float:
    before = cpu_seconds(host.worker_pid)
    await asyncio.gather(*(follow() for _ in range(runs)))
    return cpu_seconds(host.worker_pid) - before


async def _follow(client: aiohttp.ClientSession, message: str) -> None:
    async with client.post(RUN_ROUTE, json={"message": message}) as accepted:
        path = (await accepted.json())["stream_url"]
    await _read(client, path)


async def _read(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as response:
        if b"event: done" not in await response.read():
            raise ValueError("a stream did not end well")


def _message(pace_seconds: float, chunks: int) -> str:
    return script(chunks=[WORD] * chunks, delay_seconds=pace_seconds)


async def _answer_all(agent: SupportsAgentRun, message: str, chunks: int) -> float:
    """Return the processor time of this thread for runs of the framework alone."""
    start = time.thread_time()
    await asyncio.gather(*(_answer(agent, message, WORD * chunks) for _ in range(RUNS)))
    return time.thread_time() - start


async def _answer(agent: SupportsAgentRun, message: str, answer: str) -> None:
    entity = AgentEntity(agent, state_provider=AgentMemory(None, "conversation"))
    response = await entity.run(RunRequest(message, correlation_id="run"))
    if answer_text(response) != answer:
        raise ValueError("a run did not end well")
