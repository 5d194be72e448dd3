"""One execution of a run: fenced, streamed, stopped when the run is cancelled, and answered once."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

from agent_framework import AgentResponse, AgentResponseUpdate, SupportsAgentRun
from agent_framework_durabletask import (
    AgentCallbackContext,
    AgentEntity,
    AgentResponseCallbackProtocol,
    RunRequest,
)
from redis.exceptions import RedisError

from agentstream import telemetry
from agentstream.agent_events import AgentEvents
from agentstream.agent_memory import (
    AgentMemory,
    answer_text,
    error_response,
    has_failed,
    response_contents,
    text_response,
)
from agentstream.attempt.writer import KEEP_ALIVE_SECONDS, AttemptWriter
from agentstream.model import RunKey, Verdict
from agentstream.stream.clients import GetStream

LOOK_SECONDS = 0.5
# An attempt that is alive is heard of every KEEP_ALIVE_SECONDS.
DEAD_AFTER_SECONDS = 10 * KEEP_ALIVE_SECONDS

logger = telemetry.logger(__name__)


class AbandonedError(Exception):
    """This execution comes to nothing, and the durable runtime is to execute the operation again."""


class DeadRunError(Exception):
    """The run is not to be answered at all. The message says why: ``not_started`` or ``erased``."""


async def answer_run(
    agent: SupportsAgentRun,
    memory: AgentMemory,
    request: RunRequest,
    run: RunKey,
    *,
    fallback: bool,
    max_tool_result_bytes: int,
    get_stream: GetStream,
) -> AgentResponse:
    """Return a run's one answer, and commit it to the agent's memory.

    The durable runtime may execute the operation again, before and after its commit, and twice at once. So the answer
    is the one committed before, if there is one; else that of this attempt, while it is the newest; else that of the
    newer one, for which this one waits.

    Raises:
        AbandonedError: Nobody can tell yet what the answer is.
        DeadRunError: The run is not to be answered, and the memory is left alone.
    """
    committed = memory.response_to(run.correlation_id)
    if committed is not None:
        return committed
    if run.created <= memory.erased_since:
        raise DeadRunError("erased")
    if memory.owner not in (None, run.owner):
        # Its request was let pass when Redis had lost whose the conversation is.
        raise DeadRunError("not_started")
    attempt = _Attempt(agent, run, fallback, max_tool_result_bytes, get_stream)
    answering = memory.copy()
    response = await attempt.answer(answering, request)
    if response is None:
        response = await _answer_of_another(run, get_stream)
    if response is attempt.framework_response:
        memory.state = answering.state
    else:
        memory.remember(request, response)
    memory.give_to(run.owner)
    return response


class _Attempt(AgentResponseCallbackProtocol):
    """Stands between the framework's entity code and the agent, as the agent of the one and the caller of the other."""

    def __init__(
        self, agent: Any, run: RunKey, fallback: bool, max_tool_result_bytes: int, get_stream: GetStream
    ) -> None:
        self.id, self.name, self.description = agent.id, agent.name, agent.description
        self.framework_response: AgentResponse | None = None
        self._agent = agent
        self._run = run
        self._fallback = fallback
        self._max_tool_result_bytes = max_tool_result_bytes
        self._get_stream = get_stream
        self._events = self._new_events()
        self._writer = self._new_writer()
        self._has_streamed = False
        self._scope: asyncio.Timeout | None = None

    async def answer(self, memory: AgentMemory, request: RunRequest) -> AgentResponse | None:
        """Return what this attempt answers, or None where another one does."""
        response: AgentResponse | None = None
        try:
            if await self._writer.start() is Verdict.CONTINUE:
                response = await self._unless_ended(AgentEntity(self, self, state_provider=memory).run(request))
        finally:
            await self._writer.tell(self._events.rest())
            await self._writer.close()
        self.framework_response = response
        if response is None:
            # Text alone: a tool call without its result would make the model service refuse the next message.
            response, failed = text_response(self._writer.text), False
        elif failed := has_failed(response):
            response = error_response(response)
        is_mine = await self._writer.answer(None if failed else answer_text(response))
        telemetry.attempt_ended(self._writer.attempt, ("failed" if failed else "answered") if is_mine else "fenced")
        verb = "answers" if is_mine else "does not answer"
        logger.info("run %s: attempt %d %s", self._run.correlation_id, self._writer.attempt, verb)
        return response if is_mine else None

    def create_session(self, **options: Any) -> Any:
        return self._agent.create_session(**options)

    def get_session(self, *names: Any, **options: Any) -> Any:
        return self._agent.get_session(*names, **options)

    def run(self, messages: Any = None, *, stream: bool = False, **options: Any) -> Any:
        """Run the agent, as ``SupportsAgentRun.run`` does: streaming, or else without.

        Its tools find out whose run it is in ``FunctionInvocationContext.kwargs["owner"]``, where users sign in.
        """
        if self._run.owner is not None:
            options["function_invocation_kwargs"] = {
                **(options.get("function_invocation_kwargs") or {}),
                "owner": self._run.owner,
            }
        if stream:
            updates = self._agent.run(messages, stream=True, **options)
            # An agent that does not stream raises, and has not called its model.
            self._has_streamed = True
            return updates
        return self._run_without_streaming(messages, options)

    async def on_streaming_response_update(self, update: AgentResponseUpdate, context: AgentCallbackContext) -> None:
        await self._writer.tell(self._events.feed(update.contents))

    async def on_agent_response(self, response: AgentResponse, context: AgentCallbackContext) -> None:
        # A model service tells whole seconds, or none, and the time of its own clock.
        response.created_at = datetime.now(UTC).isoformat()

    async def _run_without_streaming(self, messages: Any, options: dict[str, Any]) -> AgentResponse:
        """Run the agent without streaming.

        After a call that streamed it costs a second bill, and answers where only streaming is broken.
        """
        if self._has_streamed:
            if not self._fallback:
                raise RuntimeError("the model failed while streaming")
            logger.warning("run %s: calling the model a second time, without streaming", self._run.correlation_id)
        await self._writer.close()
        self._events = self._new_events()
        self._writer = self._new_writer(instead_of=self._writer.attempt)
        await self._writer.start()
        if self._writer.verdict is not Verdict.CONTINUE:
            self._interrupt()
            # The interruption comes with the loop's next turn, and the model is not to be called before.
            await asyncio.Event().wait()
        response: AgentResponse = await self._agent.run(messages, **options)
        await self._writer.tell(self._events.feed(response_contents(response)))
        return response

    def _new_events(self) -> AgentEvents:
        return AgentEvents(self._run.correlation_id, self._max_tool_result_bytes)

    def _new_writer(self, instead_of: int = 0) -> AttemptWriter:
        return AttemptWriter(self._run, self._interrupt, instead_of=instead_of, get_stream=self._get_stream)

    async def _unless_ended(self, answering: Awaitable[AgentResponse]) -> AgentResponse | None:
        try:
            async with asyncio.timeout(None) as self._scope:
                return await answering
        except TimeoutError:
            # The agent's own time-outs are answers of the framework's entity code.
            return None
        finally:
            self._scope = None

    def _interrupt(self) -> None:
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())


async def _answer_of_another(run: RunKey, get_stream: GetStream) -> AgentResponse:
    """Wait for what the run's newest attempt answers, or how the run has ended.

    To answer nothing and be executed again would fence the newest attempt in its turn, and so on without end.
    """
    while True:
        try:
            async with await get_stream() as handler:
                look = await handler.look(run.conversation_id, run.correlation_id, created=run.created)
        except RedisError as error:
            raise AbandonedError("Redis does not tell what became of the run") from error
        match look.kind:
            case "answered":
                return text_response(look.text)
            case "failed":
                return error_response()
            case "not_started" | "erased":
                raise DeadRunError(look.kind)
            case "unknown":
                raise AbandonedError("Redis has lost the run")
        if look.silent_ms > DEAD_AFTER_SECONDS * 1000:
            raise AbandonedError("the newest attempt is dead")
        await asyncio.sleep(LOOK_SECONDS)
