"""The framework's callback, for a plain ``AgentFunctionApp``: what the agent streams → the stream in Redis."""

import asyncio
import logging
from typing import NamedTuple

from agent_framework import AgentResponse, AgentResponseUpdate
from agent_framework_durabletask import AgentCallbackContext, AgentResponseCallbackProtocol
from redis.exceptions import RedisError

from agentstream.agent_events import AgentEvents
from agentstream.agent_memory import answer_text
from agentstream.attempt.writer import AttemptWriter
from agentstream.model import BeingErasedError, ErasedError, RunKey
from agentstream.settings import MAX_TOOL_RESULT_BYTES
from agentstream.stream.clients import GetStream, get_stream_handler
from agentstream.stream.text import normalized

logger = logging.getLogger(__name__)


class _Run(NamedTuple):
    writer: AttemptWriter
    events: AgentEvents


class RedisStreamCallback(AgentResponseCallbackProtocol):
    """Appends what an agent streams to its conversation's stream: text, tool calls and results, reasoning, usage.

    Args:
        completes_stream: Whether to end the stream with the agent's final response. That is before the durable runtime
            has committed it; and a run that fails has no end then, since the framework calls no callback. False where
            an orchestration ends the stream.
        max_tool_result_bytes: After so many bytes a tool's result is cut.
        get_stream: Returns the stream handler of the running event loop.

    No exception leaves the callback: the framework would only log it, and the agent must not be harmed.
    """

    def __init__(
        self,
        *,
        completes_stream: bool = False,
        max_tool_result_bytes: int = MAX_TOOL_RESULT_BYTES,
        get_stream: GetStream = get_stream_handler,
    ) -> None:
        self._completes_stream = completes_stream
        self._max_tool_result_bytes = max_tool_result_bytes
        self._get_stream = get_stream
        self._runs: dict[tuple[str, str], _Run] = {}

    async def on_streaming_response_update(self, update: AgentResponseUpdate, context: AgentCallbackContext) -> None:
        """Hand what the update tells to the run's writer."""
        run = self._runs.get(_key(context)) or await self._begin(context)
        await run.writer.tell(run.events.feed(update.contents))

    async def on_agent_response(self, response: AgentResponse, context: AgentCallbackContext) -> None:
        """End the stream, when it is this callback that does."""
        run = self._runs.pop(_key(context), None)
        if run is not None:
            await run.writer.tell(run.events.rest())
            await run.writer.close()
        if not self._completes_stream:
            return
        try:
            async with await self._get_stream() as handler:
                await handler.write_completion(
                    str(context.session_id),
                    correlation_id=context.correlation_id,
                    answer=normalized(answer_text(response)),
                )
        except (RedisError, ErasedError) as error:
            logger.warning("run %s: the stream was not completed: %s", context.correlation_id, type(error).__name__)

    async def _begin(self, context: AgentCallbackContext) -> _Run:
        conversation_id, correlation_id = key = _key(context)
        created = 0
        try:
            async with await self._get_stream() as handler:
                accepted = await handler.accept_run(conversation_id, correlation_id, context.agent_name)
                created = accepted.created if accepted else 0
        except (RedisError, BeingErasedError) as error:
            logger.warning("run %s: was not registered: %s", correlation_id, type(error).__name__)
        writer = AttemptWriter(RunKey(conversation_id, correlation_id, created), get_stream=self._get_stream)
        run = self._runs[key] = _Run(writer, AgentEvents(correlation_id, self._max_tool_result_bytes))
        owner = asyncio.current_task()
        if owner is not None:
            # A run that fails has no response.
            owner.add_done_callback(lambda _: self._runs.pop(key, None))
        await writer.start()
        return run


def _key(context: AgentCallbackContext) -> tuple[str, str]:
    return str(context.session_id), context.correlation_id
