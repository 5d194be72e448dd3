"""Brings Redis in line with the durable state: restores what expired or was lost, ends runs that nobody else ends."""

import asyncio
import contextlib
import math
import time
from bisect import bisect_right
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from redis.exceptions import RedisError

from agentstream import telemetry
from agentstream.model import (
    MESSAGE,
    ErasedError,
    LostRun,
    Outcome,
    Piece,
    RunInput,
    RunRecord,
    RunResult,
    RunStatus,
    now_ms,
    text_pieces,
)
from agentstream.runs.committed import CommittedAnswer, CommittedRun, CommittedState
from agentstream.runs.orchestration import write_result
from agentstream.runs.shared_calls import SharedCalls
from agentstream.stream.handler import RedisStreamHandler
from agentstream.stream.text import normalized

# A run is started right after it was accepted; one that was not by now has lost its process in between.
NOT_STARTED_SECONDS = 30.0
# An answer that was lost with its state is given again within this time where the runtime still has the operation.
SETTLE_RECOMMIT_SECONDS = 10.0
# How many runs are asked for at a time, of all conversations: the rest of the app needs the durable runtime, too.
READS_AT_ONCE = 8
# How many of a conversation's open runs one look asks for, or more where all of them would not have had their turn in
# this time. Together with the time before a run counts as not started that makes a minute.
RUNS_A_LOOK = 20
ROUND_SECONDS = 30.0
# A conversation that nobody has looked at for this many intervals has no follower any more.
IDLE_INTERVALS = 4

T = TypeVar("T")


@dataclass(slots=True)
class _Look:
    """When a conversation was looked at, in monotonic seconds, and up to which run, by ``_age``."""

    at: float
    last: tuple[int, str]


@dataclass(frozen=True, slots=True)
class Sources:
    """Both that know of a conversation: Redis, and the durable runtime."""

    stream: RedisStreamHandler
    committed: CommittedState


class Recovery:
    """Restores and settles for all requests of a process: once, however many of them need it.

    Args:
        interval_seconds: How often a conversation's open runs are looked at.

    Its methods raise DurableUnavailableError when the durable runtime, and RedisError when Redis does not answer.
    """

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._calls = SharedCalls()
        # The one that was asked for longest ago is the first.
        self._looks: dict[str, _Look] = {}

    async def restore(self, both: Sources, conversation_id: str, correlation_id: str | None) -> bool:
        """Rebuild the conversation's stream from the durable state.

        One run of it would not do: the stream would seem to be that run alone.

        Args:
            both: Redis and the durable runtime.
            conversation_id: The conversation.
            correlation_id: The run that is asked for, which may not have been answered yet.

        Returns:
            Whether the durable state knows the conversation, or the run in it; not where it was erased meanwhile.
        """
        return await self._calls.call(
            ("restore", conversation_id, correlation_id), lambda: self._restore(both, conversation_id, correlation_id)
        )

    async def owner(self, both: Sources, conversation_id: str, correlation_id: str | None = None) -> str | None:
        """Return whose a conversation is: its first run's owner. Empty where that has none, None for an unknown one.

        Args:
            both: Redis and the durable runtime.
            conversation_id: The conversation.
            correlation_id: A run in it, perhaps the only one that is known of.
        """
        runs: Mapping[str, RunRecord] = {}
        outage: RedisError | None = None
        try:
            runs = await both.stream.runs(conversation_id)
        except RedisError as error:
            outage = error
        oldest_first = sorted(runs, key=lambda each: _age(each, runs[each]))
        owners = [owner for each in oldest_first if (owner := runs[each].owner) is not None]
        if owners:
            return owners[0]
        # Redis had lost them, or does not answer, or they were never anybody's.
        owner = await both.committed.owner(conversation_id)
        for each in oldest_first or filter(None, [correlation_id]):
            owner = owner or await self._owner_of_run(both, conversation_id, each)
        if owner is None and outage is not None:
            raise outage
        return owner or ("" if runs else None)

    async def _owner_of_run(self, both: Sources, conversation_id: str, correlation_id: str) -> str | None:
        run = await _read_run(both, correlation_id, self._reads)
        return None if run is None or run.input.conversation_id != conversation_id else run.input.owner

    async def trimmed_runs(self, both: Sources, conversation_id: str) -> list[LostRun]:
        """Return the committed runs that were trimmed from the stream."""
        return await self._calls.call(("trimmed", conversation_id), lambda: self._trimmed_runs(both, conversation_id))

    async def settle(self, both: Sources, conversation_id: str) -> None:
        """End the open runs that were never started, and those whose end did not reach Redis.

        It does so once in the interval. Whoever asks in between has nothing to wait for: what ends is appended.
        """
        now = time.monotonic()
        self._forget_idle(now)
        look = self._looks.pop(conversation_id, None) or _Look(-math.inf, (0, ""))
        self._looks[conversation_id] = look
        if now - look.at >= self._interval_seconds:
            look.at = now
            await self._calls.call(("settle", conversation_id), lambda: self._settle(both, conversation_id, look))

    async def settle_all(self, both: Sources, conversation_id: str) -> None:
        """Do the same now, and for all open runs."""
        runs = await both.stream.runs(conversation_id)
        open_runs = {correlation_id: run for correlation_id, run in runs.items() if run.status.is_open}
        await _settle_all(both, conversation_id, open_runs, self._reads)

    def _forget_idle(self, now: float) -> None:
        while self._looks:
            conversation_id, look = next(iter(self._looks.items()))
            if now - look.at <= IDLE_INTERVALS * self._interval_seconds:
                return
            del self._looks[conversation_id]

    async def _restore(self, both: Sources, conversation_id: str, correlation_id: str | None) -> bool:
        erasure = await both.stream.erasure(conversation_id)
        lost = await _lost_runs(both, conversation_id, self._reads)
        if correlation_id is not None and all(run.correlation_id != correlation_id for run in lost):
            asked = await _lost_run(both, conversation_id, correlation_id)
            if not asked:
                return False
            lost += asked
        if not lost and not await both.stream.runs(conversation_id):
            return False
        return await both.stream.restore_runs(conversation_id, lost, erasure)

    async def _trimmed_runs(self, both: Sources, conversation_id: str) -> list[LostRun]:
        kept = await both.stream.runs(conversation_id)
        lost = await _lost_runs(both, conversation_id, self._reads)
        return [run for run in lost if run.correlation_id not in kept]

    async def _settle(self, both: Sources, conversation_id: str, look: _Look) -> None:
        runs = await both.stream.runs(conversation_id)
        due = due_runs(runs, look.last, self._interval_seconds, now_ms())
        await _settle_all(both, conversation_id, {each: runs[each] for each in due}, self._reads)
        if due:
            look.last = _age(due[-1], runs[due[-1]])


def due_runs(runs: Mapping[str, RunRecord], last: tuple[int, str], interval_seconds: float, now: int) -> list[str]:
    """Return the open runs that one look asks for: every look goes on where the one before ended.

    Args:
        runs: The conversation's runs.
        last: The run up to which was looked before, as its time of acceptance and its correlation_id.
        interval_seconds: The time between two looks.
        now: In ms since the epoch.
    """
    waiting = sorted(
        _age(correlation_id, run)
        for correlation_id, run in runs.items()
        if run.status.is_open and not _is_just_accepted(run, now)
    )
    count = max(RUNS_A_LOOK, math.ceil(len(waiting) * interval_seconds / ROUND_SECONDS))
    start = bisect_right(waiting, last)
    return [correlation_id for _, correlation_id in (waiting[start:] + waiting[:start])[:count]]


def _age(correlation_id: str, run: RunRecord) -> tuple[int, str]:
    return run.created, correlation_id


def _age_of(iso_time: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(iso_time)).total_seconds()


def _is_just_accepted(run: RunRecord, now: int) -> bool:
    return run.status is RunStatus.QUEUED and run.attempt == 0 and now - run.created <= NOT_STARTED_SECONDS * 1000


async def _settle_all(
    both: Sources, conversation_id: str, runs: Mapping[str, RunRecord], reads: asyncio.Semaphore
) -> None:
    async def settle(correlation_id: str, run: RunRecord) -> None:
        committed = await _read_run(both, correlation_id, reads)
        with contextlib.suppress(ErasedError):
            await _settle(both, conversation_id, correlation_id, run, committed)

    await in_parallel(settle(correlation_id, run) for correlation_id, run in runs.items())


async def _settle(
    both: Sources,
    conversation_id: str,
    correlation_id: str,
    run: RunRecord,
    committed: CommittedRun | None,
) -> None:
    if committed is None:
        if run.attempt == 0 and now_ms() - run.created > NOT_STARTED_SECONDS * 1000:
            outcome = Outcome.failure("not_started", correlation_id)
            status = await both.stream.end_unstarted(
                conversation_id, correlation_id=correlation_id, outcome=outcome, created=run.created
            )
            if not status.is_open:
                telemetry.run_ended(run.agent or "", status, run.created, now_ms())
    elif committed.result is not None:
        await write_result(both.stream, committed.input, committed.result)
    elif committed.cut_off:
        result = await both.committed.cut_off_result(committed.input)
        # An answer that was given may be committed yet; one that is not soon never will be.
        waits = result.response is None and _age_of(committed.updated_at) < SETTLE_RECOMMIT_SECONDS
        await write_result(both.stream, committed.input, result, unless_answered=waits)


async def _lost_run(both: Sources, conversation_id: str, correlation_id: str) -> list[LostRun]:
    run = await both.committed.run(correlation_id)
    if run is None or run.input.conversation_id != conversation_id:
        return []
    result = await both.committed.cut_off_result(run.input) if run.cut_off else run.result
    answer = None
    if result is not None and result.response is not None:
        answer = (await both.committed.answers(run.input.agent, conversation_id)).get(correlation_id)
    return [_lost(correlation_id, run.input.agent, result, answer, run.input)]


async def _lost_runs(both: Sources, conversation_id: str, reads: asyncio.Semaphore) -> list[LostRun]:
    async def lost_run(agent: str, correlation_id: str, answer: CommittedAnswer) -> LostRun:
        # The agent's memory knows answers but not which of them were cancelled or came too late.
        run = await _read_run(both, correlation_id, reads)
        if run is None:
            return _lost(correlation_id, agent, answer.result, answer, None)
        return _lost(correlation_id, agent, answer.result if run.cut_off else run.result, answer, run.input)

    lost: list[LostRun] = []
    for agent in both.committed.agents:
        answers = await both.committed.answers(agent, conversation_id)
        lost += await in_parallel(lost_run(agent, correlation_id, answer) for correlation_id, answer in answers.items())
    return lost


async def _read_run(both: Sources, correlation_id: str, reads: asyncio.Semaphore) -> CommittedRun | None:
    async with reads:
        return await both.committed.run(correlation_id)


def _lost(
    correlation_id: str, agent: str, result: RunResult | None, answer: CommittedAnswer | None, run: RunInput | None
) -> LostRun:
    created, owner = (0, None) if run is None else (run.created, run.owner)
    if result is None:
        return LostRun(correlation_id, agent, None, created=created, owner=owner)
    text = normalized(result.response or "")
    pieces = text_pieces(text)
    # How the run ended is what its orchestration says, though its agent may have answered after that.
    if answer is not None and "".join(piece.data for piece in answer.pieces if piece.kind == MESSAGE) == text:
        pieces = [part for piece in answer.pieces for part in _split(piece)]
    return LostRun(correlation_id, agent, result.outcome(correlation_id), pieces, created, owner)


def _split(piece: Piece) -> list[Piece]:
    return text_pieces(piece.data) if piece.kind == MESSAGE else [piece]


async def in_parallel(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what the calls return; when one fails, end the others and raise what it raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
