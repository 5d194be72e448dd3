"""The framework's callback: what the agent streams → the stream in Redis."""

import logging
from contextvars import ContextVar

from agent_framework import AgentResponse, AgentResponseUpdate
from agent_framework_durabletask import AgentCallbackContext, AgentResponseCallbackProtocol
from redis.exceptions import RedisError

from attempt_writer import AttemptWriter
from redis_stream_handler import get_stream_handler
from stream_text import normalized

logger = logging.getLogger(__name__)

# The durable runtime runs each entity operation as a task of its own, so a context variable is that attempt's own.
current_writer: ContextVar[AttemptWriter | None] = ContextVar("current_writer", default=None)


class RedisStreamCallback(AgentResponseCallbackProtocol):
    """Appends an agent's streamed text to its conversation's stream.

    Args:
        completes_stream: False when an orchestration ends the stream, after the durable runtime has committed the
            answer (``run_orchestration``): the callback then only streams the runs that a ``StreamingAgent`` has
            begun. True to use the callback on its own, with a plain ``AgentFunctionApp``: it then begins the attempt
            itself and ends the stream with the agent's final response, which is before the commit.

    No exception leaves the callback: the framework would only log it, and the agent must not be harmed.
    """

    def __init__(self, *, completes_stream: bool = False) -> None:
        self._completes_stream = completes_stream

    async def on_streaming_response_update(self, update: AgentResponseUpdate, context: AgentCallbackContext) -> None:
        """Hand the update's text to the attempt's writer."""
        writer = current_writer.get()
        if writer is None and self._completes_stream:
            writer = await self._begin(context)
        if writer is not None and update.text:
            writer.write(update.text)
            await writer.drain()

    async def on_agent_response(self, response: AgentResponse, context: AgentCallbackContext) -> None:
        """End the stream, when it is this callback that does."""
        if not self._completes_stream:
            return
        writer = current_writer.get()
        if writer is not None:
            await writer.close()
        try:
            async with await get_stream_handler() as handler:
                await handler.write_completion(
                    str(context.session_id),
                    correlation_id=context.correlation_id,
                    answer=normalized(answer_text(response)),
                )
        except RedisError as error:
            logger.warning("run %s: the stream was not completed: %s", context.correlation_id, type(error).__name__)

    async def _begin(self, context: AgentCallbackContext) -> AttemptWriter:
        conversation_id = str(context.session_id)
        try:
            async with await get_stream_handler() as handler:
                await handler.accept_run(conversation_id, context.correlation_id, context.agent_name)
        except RedisError as error:
            logger.warning("run %s: was not registered: %s", context.correlation_id, type(error).__name__)
        writer = AttemptWriter(conversation_id, context.correlation_id)
        current_writer.set(writer)
        await writer.start()
        return writer


def answer_text(response: AgentResponse) -> str:
    """Return the response's text exactly as its updates streamed it.

    ``AgentResponse.text`` joins the text contents of one message with spaces.
    """
    return "".join(
        content.text or "" for message in response.messages for content in message.contents if content.type == "text"
    )
