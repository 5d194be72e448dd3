"""The durable entity of an agent: it holds the agent's memory of a conversation, and answers its runs.

It replaces the framework's own entity function, which holds a thread for as long as the model takes, commits whatever
comes of an operation, and cannot leave one to another execution. Names, operations and state are the framework's.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from agent_framework import SupportsAgentRun
from agent_framework_durabletask import AgentEntity, AgentSessionId, RunRequest

from agentstream import telemetry
from agentstream.agent_memory import AgentMemory, to_json
from agentstream.attempt.agent_loop import AgentLoop
from agentstream.attempt.attempt import AbandonedError, DeadRunError, answer_run
from agentstream.model import RunKey
from agentstream.settings import MAX_TOOL_RESULT_BYTES
from agentstream.stream.clients import GetStream, get_stream_handler

logger = telemetry.logger(__name__)


def create_agent_entities(
    agents: Sequence[SupportsAgentRun],
    *,
    fallback: bool,
    max_runs: int,
    max_tool_result_bytes: int,
    max_tools: int,
    get_stream: GetStream = get_stream_handler,
) -> df.Blueprint:
    """Return the agents' entity functions, to be registered with the function app.

    Args:
        agents: The agents, each with a name of its own.
        fallback: Whether the framework may call the model a second time, without streaming, when the first call fails.
        max_runs: How many runs of all agents are executed at a time; the others wait for their turn.
        max_tool_result_bytes: After so many bytes a tool's result is cut in the stream.
        max_tools: How many tools that are plain functions are executed at a time, each on a thread.
        get_stream: Returns the stream handler of the running event loop.
    """
    blueprint, loop, turns = df.Blueprint(), AgentLoop(max_tools), asyncio.Semaphore(max_runs)
    for agent in agents:
        name = AgentSessionId.to_entity_name(str(agent.name))
        entity = Entity(
            agent, turns, fallback=fallback, max_tool_result_bytes=max_tool_result_bytes, get_stream=get_stream
        )
        function = _entity_function(entity, loop)
        # The SDK's own decorator knows only functions that are not async.
        triggered = blueprint.generic_trigger(arg_name="context", type="entityTrigger", entityName=name)(function)
        blueprint.function_name(name)(triggered)
    return blueprint


def _entity_function(entity: "Entity", loop: AgentLoop) -> Callable[..., Any]:
    async def execute(context: func.EntityContext) -> str:
        return await loop.run(entity.execute(context.body))

    return execute


class Entity:
    """The entity of an agent.

    Args:
        agent: The agent.
        turns: Of which a run takes one while it is executed.
        fallback: Whether the framework may call the model a second time, without streaming, when the first call fails.
        max_tool_result_bytes: After so many bytes a tool's result is cut in the stream.
        get_stream: Returns the stream handler of the running event loop.
    """

    def __init__(
        self,
        agent: SupportsAgentRun,
        turns: asyncio.Semaphore,
        *,
        fallback: bool,
        max_tool_result_bytes: int = MAX_TOOL_RESULT_BYTES,
        get_stream: GetStream = get_stream_handler,
    ) -> None:
        self._agent = agent
        self._turns = turns
        self._fallback = fallback
        self._max_tool_result_bytes = max_tool_result_bytes
        self._get_stream = get_stream

    async def execute(self, batch_json: str) -> str:
        """Execute the operations of a batch, one after another, and return what came of them.

        The formats are those of the Durable extension's out-of-process protocol (``TaskEntityShim.cs``; in Python
        ``DurableEntityContext.from_json`` and ``EntityState.to_json``).

        Raises:
            AbandonedError: The operation is to be executed again, and nothing comes of this execution.
        """
        batch = json.loads(batch_json)
        state = json.loads(batch["state"]) if batch["state"] else None
        memory = AgentMemory(state if isinstance(state, dict) else None, batch["self"]["key"])
        results = [await self._execute(memory, operation) for operation in batch["batch"]]
        new_state = to_json(memory.committed)
        self._watch_size(batch["self"]["key"], new_state)
        return json.dumps(
            {
                "entityExists": memory.committed is not None,
                "entityState": new_state,
                "results": results,
                "signals": [],
            }
        )

    def _watch_size(self, conversation_id: str, state: str) -> None:
        size = len(state.encode())
        if telemetry.memory_written(size, str(self._agent.name)):
            logger.warning("conversation %s: its memory has grown to %d KiB", conversation_id, size // 1024)

    async def _execute(self, memory: AgentMemory, operation: dict[str, Any]) -> dict[str, Any]:
        began = time.time()
        try:
            result = await self._operate(memory, operation["name"], _decoded(operation["input"]))
            failed = False
        except AbandonedError:
            raise
        except Exception as error:
            logger.exception("entity of %s: the operation %s failed", self._agent.name, operation["name"])
            result, failed = str(error), True
        return {
            "isError": failed,
            "duration": int((time.time() - began) * 1000),
            "startTime": int(began * 1000),
            "result": to_json(result),
        }

    async def _operate(self, memory: AgentMemory, name: str, argument: Any) -> Any:
        match name:
            case "run" | "run_agent":
                telemetry.open_runs.add(1)
                try:
                    async with self._turns:
                        return await self._run(memory, argument)
                finally:
                    telemetry.open_runs.add(-1)
            case "reset":
                memory.reset()
                return {"status": "reset"}
            case "erase":
                memory.erase(int(argument))
                return {"status": "erased"}
            case _:
                raise ValueError(f"there is no operation {name}")

    async def _run(self, memory: AgentMemory, argument: Any) -> dict[str, Any]:
        run = None
        if isinstance(argument, dict):
            request = RunRequest.from_dict(argument)
            run = RunKey.take_from(request.options)
        if run is None:
            # Another orchestration calls the agent, and nobody follows.
            return (await AgentEntity(self._agent, state_provider=memory).run(argument)).to_dict()
        ids = telemetry.run_ids(run.conversation_id, run.correlation_id, str(self._agent.name), run.owner)
        try:
            with telemetry.run_span("execute run", ids, continues=run.traceparent):
                response = await answer_run(
                    self._agent,
                    memory,
                    request,
                    run,
                    fallback=self._fallback,
                    max_tool_result_bytes=self._max_tool_result_bytes,
                    get_stream=self._get_stream,
                )
        except DeadRunError as dead:
            return {"status": str(dead)}
        return response.to_dict()


def _decoded(text: str | None) -> Any:
    # The SDKs encode an input as JSON, and then the JSON text as JSON.
    value = None if text is None else json.loads(text)
    return json.loads(value) if isinstance(value, str) else value
