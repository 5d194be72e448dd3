"""The durable entity of an agent: it holds the agent's memory of a conversation, and answers its runs.

It replaces the framework's own entity function, which holds a thread for as long as the model takes, commits whatever
comes of an operation, and cannot leave one to another execution. Names, operations and state are the framework's.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import azure.durable_functions as df
import azure.functions as func
from agent_framework import SupportsAgentRun
from agent_framework_durabletask import AgentEntity, AgentSessionId

from agent_memory import AgentMemory, to_json
from attempt import AbandonedError, DeadRunError, answer_run, run_of

T = TypeVar("T")

logger = logging.getLogger(__name__)


class AgentLoop:
    """An event loop on a thread of its own, on which all agents run.

    Their models' clients stay on one loop, and what holds it up holds up no HTTP request.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await this on the agents' loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._started()))

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="agents", daemon=True).start()
            return self._loop


def create_agent_entities(agents: Sequence[SupportsAgentRun], *, fallback: bool) -> df.Blueprint:
    """Return the agents' entity functions, to be registered with the function app.

    Args:
        agents: The agents, each with a name of its own.
        fallback: Whether the framework may call the model a second time, without streaming, when the first call fails.
    """
    blueprint, loop = df.Blueprint(), AgentLoop()
    for agent in agents:
        name = AgentSessionId.to_entity_name(str(agent.name))
        function = _entity_function(agent, loop, fallback)
        # The SDK's own decorator knows only functions that are not async.
        triggered = blueprint.generic_trigger(arg_name="context", type="entityTrigger", entityName=name)(function)
        blueprint.function_name(name)(triggered)
    return blueprint


def _entity_function(agent: SupportsAgentRun, loop: AgentLoop, fallback: bool) -> Callable[..., Any]:
    async def entity(context: func.EntityContext) -> str:
        return await loop.run(execute_batch(agent, context.body, fallback=fallback))

    return entity


async def execute_batch(agent: SupportsAgentRun, batch_json: str, *, fallback: bool) -> str:
    """Execute the operations of a batch, one after another, and return what came of them.

    The formats are those of the Durable extension's out-of-process protocol (``TaskEntityShim.cs``; in Python
    ``DurableEntityContext.from_json`` and ``EntityState.to_json``).

    Raises:
        AbandonedError: The operation is to be executed again, and nothing comes of this execution.
    """
    batch = json.loads(batch_json)
    state = json.loads(batch["state"]) if batch["state"] else None
    memory = AgentMemory(state if isinstance(state, dict) else None, batch["self"]["key"])
    results = [await _execute(agent, memory, operation, fallback) for operation in batch["batch"]]
    return json.dumps(
        {
            "entityExists": memory.committed is not None,
            "entityState": to_json(memory.committed),
            "results": results,
            "signals": [],
        }
    )


async def _execute(
    agent: SupportsAgentRun, memory: AgentMemory, operation: dict[str, Any], fallback: bool
) -> dict[str, Any]:
    began = time.time()
    try:
        result = await _operate(agent, memory, operation["name"], _decoded(operation["input"]), fallback)
        failed = False
    except AbandonedError:
        raise
    except Exception as error:
        logger.exception("entity of %s: the operation %s failed", agent.name, operation["name"])
        result, failed = str(error), True
    return {
        "isError": failed,
        "duration": int((time.time() - began) * 1000),
        "startTime": int(began * 1000),
        "result": to_json(result),
    }


def _decoded(text: str | None) -> Any:
    # The SDKs encode an input as JSON, and then the JSON text as JSON.
    value = None if text is None else json.loads(text)
    return json.loads(value) if isinstance(value, str) else value


async def _operate(agent: SupportsAgentRun, memory: AgentMemory, name: str, argument: Any, fallback: bool) -> Any:
    match name:
        case "run" | "run_agent":
            return await _run(agent, memory, argument, fallback)
        case "reset":
            memory.reset()
            return {"status": "reset"}
        case "erase":
            memory.erase(int(argument))
            return {"status": "erased"}
        case _:
            raise ValueError(f"there is no operation {name}")


async def _run(agent: SupportsAgentRun, memory: AgentMemory, request: Any, fallback: bool) -> dict[str, Any]:
    run = run_of(request)
    if run is None:
        # Another orchestration calls the agent, and nobody follows.
        response = await AgentEntity(agent, state_provider=memory).run(request)
        return response.to_dict()
    try:
        response = await answer_run(agent, memory, request, run, fallback=fallback)
    except DeadRunError as dead:
        return {"status": str(dead)}
    return response.to_dict()
