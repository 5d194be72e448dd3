"""An agent whose every call is an attempt of a run: fenced, streamed, and stopped when the run is cancelled."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeVar

from agent_framework import (
    AgentResponse,
    AgentResponseUpdate,
    AgentSession,
    Content,
    Message,
    ResponseStream,
    SupportsAgentRun,
)
from agent_framework_durabletask import RunRequest

from attempt_writer import AttemptWriter
from callbacks import answer_text, current_writer
from redis_stream_handler import Verdict

# The run of a call travels in the request's options, the only part of it that reaches the agent.
RUN_OPTION = "streamed_run"

T = TypeVar("T")

logger = logging.getLogger(__name__)

_stream_error: ContextVar[Exception | None] = ContextVar("_stream_error", default=None)


def streamed_request(message: str, conversation_id: str, correlation_id: str, created_at: datetime) -> dict[str, Any]:
    """Return the input of the agent entity's ``run`` operation that makes its answer stream."""
    run = {"conversation_id": conversation_id, "correlation_id": correlation_id}
    request = RunRequest(
        message=message, correlation_id=correlation_id, created_at=created_at, options={RUN_OPTION: run}
    )
    return request.to_dict()


class StreamingAgent:
    """Wraps an agent so that its answer streams while ``RedisStreamCallback`` watches.

    A call whose options hold no run (``RUN_OPTION``) is passed on as it is.

    Args:
        agent: The agent.
        fallback: Whether to allow the second, non-streaming call to the model that the framework makes when the first
            one fails while streaming. It costs a second bill, and answers where only streaming is broken.
    """

    def __init__(self, agent: SupportsAgentRun, *, fallback: bool) -> None:
        # The protocol leaves out the options, which every agent of the framework takes.
        self._agent: Any = agent
        self._fallback = fallback
        self.id = agent.id
        self.name = agent.name
        self.description = agent.description

    def create_session(self, *, session_id: str | None = None) -> AgentSession:
        session: AgentSession = self._agent.create_session(session_id=session_id)
        return session

    def get_session(self, service_session_id: Any, *, session_id: str | None = None) -> AgentSession:
        session: AgentSession = self._agent.get_session(service_session_id, session_id=session_id)
        return session

    def run(self, messages: Any = None, *, stream: bool = False, options: Any = None, **kwargs: Any) -> Any:
        """Run the agent, as ``SupportsAgentRun.run`` does."""
        options = dict(options or {})
        run = options.pop(RUN_OPTION, None)
        call = {"messages": messages, "options": options, **kwargs}
        if run is None:
            return self._agent.run(stream=stream, **call)
        attempt = _Attempt(self._agent, run["conversation_id"], run["correlation_id"], call)
        if stream:
            return ResponseStream(attempt.updates(), finalizer=attempt.response)
        return attempt.answer(self._fallback)


class _Attempt:
    """One call of the agent for a run."""

    def __init__(self, agent: Any, conversation_id: str, correlation_id: str, call: dict[str, Any]) -> None:
        self._agent = agent
        self._call = call
        self._correlation_id = correlation_id
        self._writer = AttemptWriter(conversation_id, correlation_id, on_end=self._interrupt)
        self._waiting: asyncio.Timeout | None = None
        self._final: AgentResponse | None = None

    async def updates(self) -> AsyncIterator[AgentResponseUpdate]:
        """Yield the agent's updates until it has answered or the attempt should end."""
        async with self._writing() as goes_on:
            if not goes_on:
                return
            stream = self._agent.run(stream=True, **self._call)
            updates = aiter(stream)
            try:
                with contextlib.suppress(StopAsyncIteration):
                    while True:
                        yield await self._unless_ended(anext(updates))
                self._final = await self._unless_ended(stream.get_final_response())
            except _EndedError:
                return
            except Exception as error:
                logger.warning("run %s: the agent failed while streaming", self._correlation_id, exc_info=error)
                _stream_error.set(error)
                raise

    async def answer(self, fallback: bool) -> AgentResponse:
        """Return the agent's answer from one call that does not stream.

        Raises:
            Exception: What the streaming call before this one raised, when no second call is allowed.
        """
        error = _stream_error.get()
        if error is not None:
            if not fallback:
                raise error
            logger.warning("run %s: calling the model a second time, without streaming", self._correlation_id)
        async with self._writing() as goes_on:
            if not goes_on:
                return _response("")
            try:
                response: AgentResponse = await self._unless_ended(self._agent.run(**self._call))
            except _EndedError:
                return _response("")
            self._writer.write(answer_text(response))
            return response

    def response(self, updates: Sequence[AgentResponseUpdate]) -> AgentResponse:
        """Return the response to commit for these updates."""
        if self._final is None:
            # Text alone: a tool call without its result would make the model service refuse the next message.
            return _response(answer_text(AgentResponse.from_updates(updates)))
        # A model service tells whole seconds, or none, and the time of its own clock.
        self._final.created_at = datetime.now(UTC).isoformat()
        return self._final

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[bool]:
        current_writer.set(self._writer)
        try:
            yield await self._writer.start() is Verdict.CONTINUE
        finally:
            await self._writer.close()

    async def _unless_ended(self, step: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(None) as self._waiting:
                if self._writer.verdict is not Verdict.CONTINUE:
                    self._interrupt()
                return await step
        except TimeoutError:
            if self._waiting is not None and self._waiting.expired():
                raise _EndedError from None
            raise
        finally:
            self._waiting = None

    def _interrupt(self) -> None:
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())


class _EndedError(Exception):
    """The run was cancelled, has ended or has a newer attempt."""


def _response(text: str) -> AgentResponse:
    message = Message(role="assistant", contents=[Content.from_text(text)])
    return AgentResponse(messages=[message], created_at=datetime.now(UTC).isoformat())
