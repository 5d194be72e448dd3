"""Handles on runs and conversations: each holds what is needed to ask it anything."""

import contextlib
import itertools
import time
from collections.abc import Collection
from dataclasses import dataclass

from pydantic import BaseModel
from redis.exceptions import RedisError

from agentstream.model import (
    ERROR_MESSAGES,
    FIRST_CURSOR,
    FURTHER_KINDS,
    CommittedMessage,
    DurableUnavailableError,
    ErasedError,
    ListedConversation,
    OpenRunError,
    RunEndedError,
    RunInput,
    RunRecord,
    RunRequest,
    RunResult,
    RunStatus,
    UnknownRunError,
)
from agentstream.runs.committed import CommittedRun
from agentstream.runs.follower import Follower
from agentstream.runs.recovery import Recovery, Sources
from agentstream.runs.starter import RunStarter, run_of_key


class RunError(BaseModel):
    """Why a run failed: a code, and a message for the person who waits for it."""

    code: str
    message: str


class RunView(BaseModel):
    """A run as the outside sees it.

    ``status`` is never ``cancelling``; ``response`` is the committed answer, None until there is one; times are in ISO
    8601, UTC.
    """

    correlation_id: str
    conversation_id: str
    agent: str
    status: RunStatus
    response: str | None
    error: RunError | None
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs and conversations, as one request reaches them.

    Their methods raise DurableUnavailableError when the durable runtime, and RedisError when Redis does not answer.

    Args:
        both: Redis and the durable runtime.
        recovery: What the requests of the process share.
        timeout_seconds: When the run timer ends a run.
        heartbeat_seconds: After how long a silence a follower is told of it.
        owner: The user who is signed in, and who knows of no others'; None where nobody signs in.
    """

    both: Sources
    recovery: Recovery
    timeout_seconds: float
    heartbeat_seconds: float
    owner: str | None = None

    async def start(self, agent: str, request: RunRequest) -> RunInput:
        """Start the run that a client asks for, once for each idempotency key (``RunStarter.start``)."""
        return await RunStarter(self.both, self.recovery, self.timeout_seconds, self.owner).start(agent, request)

    def run(self, correlation_id: str) -> "RunHandle":
        """Return a handle on a run, known or not."""
        return RunHandle(self, correlation_id)

    def run_of_key(self, agent: str, key: str) -> str:
        """Return the correlation_id of the run that an idempotency key of the owner's names."""
        return run_of_key(agent, key, self.owner)

    async def conversation(
        self, conversation_id: str, correlation_id: str | None = None, *, erased_too: bool = False
    ) -> "ConversationHandle":
        """Return a handle on a conversation: where nobody signs in, known or not.

        Args:
            conversation_id: The conversation.
            correlation_id: The run in it that is asked for, if it is one.
            erased_too: Whether also on one that its owner has erased, perhaps not to the end.

        Raises:
            UnknownRunError: Nobody knows it, or it is another owner's.
        """
        if self.owner is not None:
            owner = await self.recovery.owner(self.both, conversation_id, correlation_id)
            is_erased = erased_too and owner is None and await self.both.stream.erasure(conversation_id)
            if owner != self.owner and not is_erased:
                raise UnknownRunError(conversation_id)
        return ConversationHandle(self, conversation_id)

    async def conversations(self) -> list[ListedConversation]:
        """Return the owner's conversations, newest first.

        Raises:
            UnknownRunError: Nobody signs in.
        """
        if self.owner is None:
            raise UnknownRunError
        return await self.both.committed.conversations(self.owner)


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A handle on one run.

    Its methods raise UnknownRunError where nobody knows the run.
    """

    runs: Runs
    correlation_id: str

    async def view(self) -> RunView:
        """Return the run as it is."""
        return await self._view(await self._committed())

    async def cancel(self) -> RunView:
        """Ask the run to end; what it has said so far is committed as its answer.

        Returns:
            The run as it was.

        Raises:
            RunEndedError: It has ended.
        """
        committed = await self._committed()
        view = await self._view(committed)
        if not view.status.is_open:
            raise RunEndedError(self.correlation_id)
        if await self._mark_cancelled(committed.input):
            await self._tell_orchestration()
        return view

    async def wait(self, conversation_id: str, seconds: float) -> RunView | None:
        """Return the run, one of this conversation, once it has ended; None when it has not in so many seconds."""
        reading = self.runs.both.stream.read_stream(
            conversation_id,
            correlation_id=self.correlation_id,
            include=(),
            silence_seconds=self.runs.heartbeat_seconds,
            max_seconds=seconds,
        )
        with contextlib.suppress(RedisError, UnknownRunError):
            async with contextlib.aclosing(reading):
                async for _ in reading:
                    pass
        committed = await self.runs.both.committed.run(self.correlation_id)
        view = None if committed is None else await self._view(committed)
        return None if view is None or view.status.is_open else view

    async def _committed(self) -> CommittedRun:
        committed = await self.runs.both.committed.run(self.correlation_id)
        if committed is None or self.runs.owner not in (None, committed.input.owner):
            raise UnknownRunError(self.correlation_id)
        return committed

    async def _mark_cancelled(self, run: RunInput) -> bool:
        """Tell the writer, by way of Redis, and return whether to tell the orchestration, which does not need Redis."""
        try:
            _, tell = await self.runs.both.stream.cancel_run(
                run.conversation_id, run.correlation_id, created=run.created
            )
        except ErasedError:
            raise UnknownRunError(self.correlation_id) from None
        except RedisError:
            return True
        return tell

    async def _tell_orchestration(self) -> None:
        try:
            await self.runs.both.committed.send_cancel(self.correlation_id)
        except DurableUnavailableError:
            # The runtime refuses events for an orchestration that has ended, or was purged.
            committed = await self._committed()
            if committed.result is None and not committed.cut_off:
                raise
            raise RunEndedError(self.correlation_id) from None

    async def _view(self, committed: CommittedRun) -> RunView:
        result = committed.result or await self._unreported_result(committed)
        error = None if result.code is None else RunError(code=result.code, message=ERROR_MESSAGES[result.code])
        return RunView(
            correlation_id=self.correlation_id,
            conversation_id=committed.input.conversation_id,
            agent=committed.input.agent,
            status=result.status,
            response=result.response,
            error=error,
            created_at=committed.created_at,
            updated_at=committed.updated_at,
        )

    async def _unreported_result(self, committed: CommittedRun) -> RunResult:
        """Return what is known of a run whose orchestration has not said how it ended."""
        run, status = committed.input, RunStatus.RUNNING
        with contextlib.suppress(RedisError, KeyError):
            status = (await self.runs.both.stream.runs(run.conversation_id))[run.correlation_id].status
        match status:
            case RunStatus.COMPLETED | RunStatus.CANCELLED:
                # The terminal event is out, so the answer is in the agent's memory.
                results = await self.runs.both.committed.results(run.agent, run.conversation_id)
                answer = results.get(run.correlation_id, RunResult(status=status))
                return RunResult(status=status, response=answer.response)
            case RunStatus.TIMED_OUT:
                return RunResult.failure("timeout")
            case RunStatus.FAILED:
                results = await self.runs.both.committed.results(run.agent, run.conversation_id)
                failure = results.get(run.correlation_id, RunResult(status=status))
                return RunResult.failure(failure.code or "internal_error")
        if committed.cut_off:
            return await self.runs.both.committed.cut_off_result(run)
        return RunResult(status=status if status is RunStatus.QUEUED else RunStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class ConversationHandle:
    """A handle on one conversation."""

    runs: Runs
    conversation_id: str

    async def messages(self) -> list[CommittedMessage]:
        """Return what was said, oldest first, and then the messages of the runs that are open.

        Raises:
            UnknownRunError: Nobody knows the conversation.
        """
        # First, so that a run whose answer is committed meanwhile is among one or the other.
        runs: dict[str, RunRecord] = {}
        problem: RedisError | None = None
        try:
            runs = await self.runs.both.stream.runs(self.conversation_id)
        except RedisError as error:
            problem = error
        messages = await self.runs.both.committed.messages(self.conversation_id)
        if not messages and problem:
            raise problem
        if not messages and not runs:
            raise UnknownRunError(self.conversation_id)
        known = {message.correlation_id for message in messages}
        waiting = [(run.created, key) for key, run in runs.items() if run.status.is_open and key not in known]
        return messages + [message for _, key in sorted(waiting) for message in await self._asked(key)]

    async def _asked(self, correlation_id: str) -> list[CommittedMessage]:
        """Return a run's own message; none where the durable runtime does not know the run, or as another's."""
        run = await self.runs.both.committed.run(correlation_id)
        if run is None or run.input.conversation_id != self.conversation_id:
            return []
        return [
            CommittedMessage(
                role="user", text=run.input.message, correlation_id=correlation_id, created_at=run.created_at
            )
        ]

    async def said_up_to(self, correlation_id: str) -> list[CommittedMessage]:
        """Return what was said before a run, and the run's own message, oldest first; not what it answered."""
        committed = self.runs.both.committed
        messages = await committed.messages(self.conversation_id)
        before = itertools.takewhile(lambda message: message.correlation_id != correlation_id, messages)
        return [*before, *await self._asked(correlation_id)]

    async def open_run(self) -> str | None:
        """Return the correlation_id of the run that is open, the oldest where others wait for it; None without one."""
        runs = await self.runs.both.stream.runs(self.conversation_id)
        open_runs = [(run.created, correlation_id) for correlation_id, run in runs.items() if run.status.is_open]
        return min(open_runs)[1] if open_runs else None

    def follow(
        self,
        *,
        cursor: str,
        correlation_id: str | None,
        waits: bool,
        seconds: float,
        include: Collection[str] = FURTHER_KINDS,
        held: str = FIRST_CURSOR,
    ) -> Follower:
        """Return a follower of the conversation, or of one run of it, that ends after so many seconds."""
        return Follower(
            self.runs.both,
            self.runs.recovery,
            self.conversation_id,
            cursor=cursor,
            correlation_id=correlation_id,
            include=include,
            waits=waits,
            heartbeat_seconds=self.runs.heartbeat_seconds,
            deadline=time.monotonic() + seconds,
            held=held,
        )

    async def erase(self) -> None:
        """Erase the stream, the runs and the agents' memory of the conversation, for good.

        Raises:
            OpenRunError: A run of it is open.
        """
        stream = self.runs.both.stream
        await self.runs.recovery.settle_all(self.runs.both, self.conversation_id)
        runs = await stream.runs(self.conversation_id)
        since = await stream.erase(self.conversation_id)
        if since is None:
            raise OpenRunError(self.conversation_id)
        if self.runs.owner is not None:
            # First, for without the agents' memory nobody knows any more whose it was.
            await self.runs.both.committed.unlist(self.runs.owner, self.conversation_id, since)
        erased = await self.runs.both.committed.erase(self.conversation_id, runs, since)
        await stream.release_keys(erased)
        # What was restored until the durable state was gone goes, too.
        if await stream.erase(self.conversation_id, finished=True) is None:
            raise OpenRunError(self.conversation_id)
