"""The streams of all conversations in Redis: what is appended to them, what is known of their runs, what they hold."""

import asyncio
import contextlib
import json
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError, NoScriptError, RedisError, ResponseError

from agentstream import telemetry
from agentstream.model import (
    DONE,
    FIRST_CURSOR,
    FURTHER_KINDS,
    MAX_CURSOR_PART,
    MESSAGE,
    Acceptance,
    BeingErasedError,
    Chunk,
    ErasedError,
    Event,
    Look,
    LostRun,
    Outcome,
    RunRecord,
    RunStatus,
    UnknownRunError,
    Verdict,
    cursor_order,
    now_ms,
    split_answer,
)
from agentstream.stream import scripts
from agentstream.stream.cluster_watcher import ClusterWatcher, cluster_errors
from agentstream.stream.listening import ANSWER_SECONDS
from agentstream.stream.reader import Page, Reading
from agentstream.stream.shared_pipeline import Argument, SharedPipeline
from agentstream.stream.watcher import StreamWatcher, entry_characters

# What one follower reads at a time. XRANGE counts entries: how large the next ones are is guessed from those before.
PAGE_ENTRIES = 500
PAGE_CHARACTERS = 65_536
# How long the request that registered a run has to start it before another request with its key may.
START_CLAIM_MS = 10_000
# An erasure is remembered for longer than any message, lease or retry of the durable runtime can live: its longest
# lived messages are those of a storage queue, 7 days.
ERASURE_SECONDS = 8 * 24 * 3600
# How long the durable runtime may take to forget a conversation.
ERASING_SECONDS = 60
# A cancellation is sent to the durable runtime once, and again when it is asked for again after this long.
CANCEL_RESEND_MS = 5_000
# When the script that ends a run leaves it alone.
UNLESS_BEGUN, UNLESS_ANSWERED = 1, 2
# For commands that answer at once a few connections carry the load of many callers, who wait for their turn. With those
# of the watcher, which listens and reads, and of the health check, a process with two event loops has 9 at most.
MAX_COMMANDS_AT_ONCE = 3
# The name of the mark that a conversation has while it lacks the runs that Redis lost (``scripts``).
LOST_MARK = ""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of the keys in Redis. Those of the conversation ``abc`` are in one cluster slot:

    ``agent-stream:abc``                   a Stream with one entry per event
    ``agent-runs:{agent-stream:abc}``      a hash with one record per run (``scripts``)
    ``agent-erased:{agent-stream:abc}``    when the conversation was erased, if it was

    Args:
        prefix: What all names begin with, which keeps apart the apps that share a Redis.
    """

    prefix: str = "agent"

    def stream(self, conversation_id: str) -> str:
        return f"{self.prefix}-stream:{conversation_id}"

    def runs(self, conversation_id: str) -> str:
        return f"{self.prefix}-runs:{{{self.stream(conversation_id)}}}"

    def erasure(self, conversation_id: str) -> str:
        return f"{self.prefix}-erased:{{{self.stream(conversation_id)}}}"

    def idempotency(self, correlation_id: str) -> str:
        return f"{self.prefix}-idempotency:{correlation_id}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The cursor up to which a stream was trimmed, and that of its newest entry of all; and whether it lacks what Redis
    lost before."""

    trimmed: str
    newest: str
    is_incomplete: bool = False


class LostEntriesError(RedisError):
    """Redis never had, or has lost, the entry from which to read on: after a failover, say."""


class OverloadedError(RedisError):
    """This process is asked for more than it gets done in time, though Redis answers. Nothing was done."""


class Closable(Protocol):
    """What is closed with the connections that use it."""

    async def aclose(self) -> None: ...


class RedisStreamHandler:
    """Reads and writes the streams of all conversations. Get the shared one from ``get_stream_handler``.

    Args:
        commands: The client for commands that answer at once.
        watcher: Tells all followers what is new.
        ttl_seconds: How long a stream outlives its last write.
        keys: The names of its keys.
        credentials: With what the clients sign in, where that is to be closed after them.

    Every method raises ``redis.exceptions.RedisError`` when Redis does not answer.
    """

    def __init__(
        self,
        commands: Redis | RedisCluster,
        watcher: StreamWatcher[Event] | ClusterWatcher[Event],
        ttl_seconds: float,
        keys: Keys,
        credentials: Closable | None = None,
    ) -> None:
        self._commands: Any = commands
        self._turns = asyncio.Semaphore(MAX_COMMANDS_AT_ONCE)
        self._answered = time.monotonic()
        self._watcher = watcher
        self._ttl_ms = int(ttl_seconds * 1000)
        self._keys = keys
        self._credentials = credentials
        # A cluster's pipeline that fails closes the connections which other callers are using.
        self._appends = SharedPipeline(scripts.APPEND, self._turn) if isinstance(commands, Redis) else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exception_type: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the shared connections open: they belong to the event loop, not to this block."""

    async def accept_run(
        self,
        conversation_id: str,
        correlation_id: str,
        agent: str,
        claim: str | None = None,
        owner: str | None = None,
    ) -> Acceptance | None:
        """Register a run as queued, and trim what the conversation no longer needs.

        Args:
            conversation_id: The conversation.
            correlation_id: The run.
            agent: The name of its agent.
            claim: What names the caller, None for a new name.
            owner: Whose it is, None where nobody signs in.

        Returns:
            The acceptance, when the caller is the one to start the run, or None when the run is known already. A run
            that nobody started within ``START_CLAIM_MS``, or that ended as ``not_started``, can be claimed again.

        Raises:
            BeingErasedError: The conversation is.
            UnknownRunError: The conversation is another owner's.
        """
        claim = claim or secrets.token_hex(8)
        created = int(
            await self._run_script(
                scripts.ACCEPT, conversation_id, correlation_id, 0, agent, claim, START_CLAIM_MS, owner or ""
            )
        )
        if created < 0:
            raise BeingErasedError(conversation_id) if created == -1 else UnknownRunError(conversation_id)
        return Acceptance(claim, created) if created else None

    async def withdraw_run(self, conversation_id: str, correlation_id: str, claim: str) -> None:
        """End a run that could not be started, so that it does nothing should it be started all the same."""
        await self._run_script(scripts.WITHDRAW, conversation_id, correlation_id, 0, claim)

    async def begin_attempt(
        self,
        conversation_id: str,
        correlation_id: str,
        *,
        in_order: bool = False,
        instead_of: int = 0,
        caller: str | None = None,
        created: int = 0,
    ) -> tuple[Verdict, int]:
        """Make a new attempt the only one that may append, after a ``reset`` where an older one had streamed.

        Args:
            conversation_id: The conversation.
            correlation_id: The run.
            in_order: Whether not to begin before the same agent's run before this one has its terminal event, which
                comes a moment after the commit that lets this one start.
            instead_of: The attempt whose place this one takes: it does not begin where a newer one has begun.
            caller: What names the caller, None for a new name: called again after a failure, it begins one attempt.
            created: When the run was accepted.

        Returns:
            The verdict and the attempt's number.
        """
        caller = caller or secrets.token_hex(8)
        verdict, attempt, before, is_reset = await self._run_script(
            scripts.BEGIN, conversation_id, correlation_id, created, int(in_order), instead_of, caller
        )
        telemetry.resets("attempt", int(is_reset))
        if before != "0" and not instead_of:
            telemetry.repeated_attempts.add(1)
        return Verdict(verdict), int(attempt)

    async def append(
        self,
        conversation_id: str,
        correlation_id: str,
        attempt: int,
        sequence: int,
        chunks: Sequence[Chunk],
        *,
        created: int = 0,
    ) -> Verdict:
        """Append an attempt's chunks, the first of them with this sequence number, and keep the run alive.

        A repeated call appends nothing twice. Without chunks it only keeps the run alive and asks for the verdict.
        """
        fields = [
            value
            for chunk in chunks
            for value in (
                chunk.timestamp,
                chunk.text.encode(errors="replace"),
                "" if chunk.kind == MESSAGE else chunk.kind,
            )
        ]
        arguments = self._arguments(conversation_id, correlation_id, created, attempt, sequence, *fields)
        if self._appends is not None:
            return Verdict(await self._appends.call(arguments))
        return Verdict(await self._call_script(scripts.APPEND, arguments))

    async def write_chunk(
        self, conversation_id: str, text: str, sequence: int, *, correlation_id: str, attempt: int
    ) -> Verdict:
        """Append one chunk."""
        return await self.append(conversation_id, correlation_id, attempt, sequence, [Chunk(text, now_ms())])

    async def answer_run(
        self, conversation_id: str, correlation_id: str, attempt: int, *, failed: bool = False, created: int = 0
    ) -> Verdict:
        """Make this attempt the one that answers the run, with what it has appended or by an error.

        Returns:
            The verdict: STOP where the attempt must not answer, for it is not the newest, or the run has ended.
        """
        return Verdict(
            await self._run_script(scripts.ANSWER, conversation_id, correlation_id, created, attempt, int(failed))
        )

    async def look(self, conversation_id: str, correlation_id: str, *, created: int = 0) -> Look:
        """Return what became of a run, for an attempt of it that was stopped."""
        kind, text, silent_ms = await self._run_script(scripts.LOOK, conversation_id, correlation_id, created)
        return Look(kind, text, int(silent_ms))

    async def write_completion(
        self,
        conversation_id: str,
        *,
        correlation_id: str,
        outcome: Outcome = DONE,
        answer: str | None = None,
        unless_answered: bool = False,
        created: int = 0,
    ) -> RunStatus | None:
        """End a run with its terminal event, once: a run that has ended stays as it is.

        Args:
            conversation_id: The conversation.
            correlation_id: The run.
            outcome: How it ended. A run that was being cancelled and completed ends as cancelled.
            answer: The committed answer, normalized (``stream_text``). Where the newest attempt streamed anything
                else, a ``reset`` and this text come before the terminal event.
            unless_answered: Whether to leave alone a run that was answered: its answer is about to be committed. A run
                whose timer has fired is left alone then, too.
            created: When the run was accepted.

        Returns:
            The status with which the run ended; None where it was left alone.

        Raises:
            ErasedError: There is nothing to end any more.
        """
        unless = UNLESS_ANSWERED if unless_answered else 0
        return await self._finish(conversation_id, correlation_id, outcome, created, unless=unless, answer=answer)

    async def end_unstarted(
        self, conversation_id: str, *, correlation_id: str, outcome: Outcome, created: int = 0
    ) -> RunStatus:
        """End a run of which certainly no attempt has begun. One that failed so can be accepted again.

        Returns:
            The run's status.

        Raises:
            ErasedError: There is nothing to end any more.
        """
        status = await self._finish(conversation_id, correlation_id, outcome, created, unless=UNLESS_BEGUN, answer=None)
        return status or RunStatus.RUNNING

    async def _finish(
        self,
        conversation_id: str,
        correlation_id: str,
        outcome: Outcome,
        created: int,
        *,
        unless: int,
        answer: str | None,
    ) -> RunStatus | None:
        status, is_repaired = await self._run_script(
            scripts.FINISH,
            conversation_id,
            correlation_id,
            created,
            outcome.status,
            outcome.event,
            outcome.data,
            unless,
            int(answer is not None),
            *split_answer(answer or ""),
        )
        telemetry.resets("repaired", int(is_repaired))
        if status == "erased":
            raise ErasedError(correlation_id)
        return None if status == "answered" else RunStatus(status)

    async def cancel_run(
        self, conversation_id: str, correlation_id: str, *, created: int = 0
    ) -> tuple[RunStatus | None, bool]:
        """Ask an open run to end; its writer learns it from its next append.

        Returns:
            The run's status before, or None where Redis did not know it; and whether to tell the durable runtime, which
            is so once in ``CANCEL_RESEND_MS`` however many ask.

        Raises:
            ErasedError: There is nothing to cancel any more.
        """
        status, send = await self._run_script(
            scripts.CANCEL, conversation_id, correlation_id, created, CANCEL_RESEND_MS, secrets.token_hex(8)
        )
        if status == "erased":
            raise ErasedError(correlation_id)
        return RunStatus(status) if status else None, send == "1"

    async def erasure(self, conversation_id: str) -> str:
        """Return what is known of the conversation's erasure, to be given to ``restore_runs``."""
        async with self._turn() as commands:
            return str(await commands.get(self._keys.erasure(conversation_id)) or "")

    async def restore_runs(self, conversation_id: str, runs: Sequence[LostRun], erasure: str) -> bool:
        """Add the runs that Redis does not know: one that has ended as a ``reset``, its answer and its end.

        Args:
            conversation_id: The conversation.
            runs: The runs that the durable state knows.
            erasure: What ``erasure`` answered before the durable state was read.

        Returns:
            Whether they are there now: not where the conversation was erased meanwhile.
        """
        records = json.dumps([run.to_json() for run in runs])
        is_there, ended = await self._run_script(scripts.RESTORE, conversation_id, "", 0, erasure, records)
        telemetry.resets("expired", ended)
        return bool(is_there)

    async def erase(self, conversation_id: str, *, finished: bool = False) -> int | None:
        """Forget the conversation's stream and runs: before the durable runtime is made to forget it, and after.

        Args:
            conversation_id: The conversation.
            finished: Whether the durable runtime has forgotten it. Until then, for ``ERASING_SECONDS`` at most, nothing
                of the conversation is accepted or restored.

        Returns:
            The time of the erasure in ms since the epoch: what was accepted up to then is never written again. None,
            and nothing is forgotten, while a run is open.
        """
        erasing_ms = 0 if finished else ERASING_SECONDS * 1000
        since = await self._run_script(scripts.ERASE, conversation_id, "", 0, ERASURE_SECONDS * 1000, erasing_ms)
        return int(since) or None

    async def bounds(self, conversation_id: str) -> Bounds:
        """Return between which entries the stream is."""
        stream = self._keys.stream(conversation_id)
        async with self._turn() as commands:
            is_incomplete = bool(await commands.hexists(self._keys.runs(conversation_id), LOST_MARK))
            bounds = await _bounds(commands, stream) or Bounds(FIRST_CURSOR, FIRST_CURSOR)
            return replace(bounds, is_incomplete=is_incomplete)

    async def runs(self, conversation_id: str) -> dict[str, RunRecord]:
        """Return the conversation's runs by their correlation_id, empty when Redis does not know it."""
        async with self._turn() as commands:
            runs = _runs(await commands.hgetall(self._keys.runs(conversation_id)))
            # Without its stream, a conversation is what an eviction left of it.
            return runs if runs and await commands.exists(self._keys.stream(conversation_id)) else {}

    async def ping(self) -> float:
        """Return how long Redis took to answer, in ms, however many other callers wait for their turn."""
        start = time.perf_counter()
        async with self._asking() as commands:
            await commands.ping()
        return (time.perf_counter() - start) * 1000

    async def claim_key(self, correlation_id: str, value: str, ttl_seconds: float) -> str:
        """Note what the idempotency key of a run was used for, unless that is known, and return what is."""
        key = self._keys.idempotency(correlation_id)
        async with self._turn() as commands:
            existing = await commands.set(key, value, nx=True, get=True, px=int(ttl_seconds * 1000))
        return str(existing) if existing is not None else value

    async def release_keys(self, correlation_ids: Iterable[str]) -> None:
        """Forget what the idempotency keys of these runs were used for."""
        for correlation_id in correlation_ids:
            async with self._turn() as commands:
                await commands.delete(self._keys.idempotency(correlation_id))

    def read_stream(
        self,
        conversation_id: str,
        cursor: str = FIRST_CURSOR,
        *,
        correlation_id: str | None = None,
        include: Collection[str] = FURTHER_KINDS,
        follow: bool = True,
        silence_seconds: float = 15.0,
        max_seconds: float = math.inf,
    ) -> AsyncGenerator[list[Event], None]:
        """Return what comes after the cursor, and then what comes live, until no run is open.

        Args:
            conversation_id: The conversation.
            cursor: An entry's id; only what came after it is read.
            correlation_id: Only this run's events, ending at its terminal event.
            include: Of the ``FURTHER_KINDS`` of events those to read.
            follow: Whether to wait for more while a run is open.
            silence_seconds: After this long without an event, an empty list is yielded.
            max_seconds: After this long from now the reading ends, between two events.

        Yields:
            What each round trip brought, oldest first. The first list comes at once, empty when a run is open that
            has no events yet; nothing at all is yielded when there is nothing and nothing to wait for.

        Raises:
            LostEntriesError: The cursor is later than all that the stream has ever had.
            UnknownRunError: Redis does not know the conversation, or the run, or no longer does.
        """
        reading = Reading(
            read_page=partial(self._read_page, conversation_id, correlation_id),
            subscribe=partial(self._watcher.subscribe, self._keys.stream(conversation_id)),
            cursor=cursor,
            correlation_id=correlation_id,
            include=include,
            follow=follow,
            silence_seconds=silence_seconds,
            deadline=time.monotonic() + max_seconds,
        )
        return reading.batches()

    async def _read_page(self, conversation_id: str, correlation_id: str | None, cursor: str, count: int) -> Page:
        stream = self._keys.stream(conversation_id)
        async with self._turn() as commands:
            # In this order a run that ends between the two commands is not seen as ended without its end. They are no
            # pipeline, because a cluster's that fails closes the connections which other callers are using.
            runs = _runs(await commands.hgetall(self._keys.runs(conversation_id)))
            entries = await commands.xrange(stream, min=f"({cursor}", count=count)
            # Without its stream, a conversation is what an eviction left of it. And the connection may have been made
            # anew, unnoticed, to a Redis that has less.
            bounds = None if entries else await _bounds(commands, stream)
        is_gone = not entries and bounds is None
        if not runs or is_gone or (correlation_id is not None and correlation_id not in runs):
            raise UnknownRunError(correlation_id or conversation_id)
        if bounds is not None and cursor_order(cursor) > cursor_order(bounds.newest):
            raise LostEntriesError(cursor)
        watched = [runs[correlation_id]] if correlation_id is not None else list(runs.values())
        return Page(
            is_open=any(run.status.is_open for run in watched),
            events=[event for entry in entries if (event := decode_entry(*entry)) is not None],
            cursor=entries[-1][0] if entries else cursor,
            is_full=len(entries) == count,
            next_count=_next_count(entries, count),
        )

    async def _run_script(
        self, script: str, conversation_id: str, correlation_id: str, created: int, *arguments: str | int
    ) -> Any:
        return await self._call_script(script, self._arguments(conversation_id, correlation_id, created, *arguments))

    def _arguments(
        self, conversation_id: str, correlation_id: str, created: int, *arguments: Argument
    ) -> tuple[Argument, ...]:
        """Return what every script is called with: how many keys it has, the keys, and its arguments."""
        return (
            3,
            self._keys.stream(conversation_id),
            self._keys.runs(conversation_id),
            self._keys.erasure(conversation_id),
            self._ttl_ms,
            correlation_id,
            created,
            *arguments,
        )

    async def _call_script(self, script: str, arguments: Sequence[Argument]) -> Any:
        async with self._turn() as commands:
            try:
                return await commands.execute_command("EVALSHA", scripts.digest(script), *arguments)
            except NoScriptError:
                return await commands.execute_command("EVAL", script, *arguments)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[Any]:
        if self._turns.locked():
            await self._wait_for_turn()
        else:
            await self._turns.acquire()
        try:
            async with self._asking() as commands:
                yield commands
        finally:
            self._turns.release()

    async def _wait_for_turn(self) -> None:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            if self._answered < asked:
                raise ConnectionError("Redis does not answer") from None
            raise OverloadedError("too many callers wait for Redis") from None
        telemetry.redis_wait.record(time.monotonic() - asked)

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with cluster_errors():
                    yield self._commands
        except TimeoutError:
            raise ConnectionError("Redis does not answer") from None
        self._answered = time.monotonic()

    async def aclose(self) -> None:
        """Close the shared connections."""
        await self._commands.aclose()
        await self._watcher.aclose()
        if self._credentials is not None:
            await self._credentials.aclose()


async def _bounds(commands: Any, stream: str) -> Bounds | None:
    try:
        info = await commands.xinfo_stream(stream)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return None
    newest: str = info["last-generated-id"]
    if info["entries-added"] == info["length"]:
        return Bounds(FIRST_CURSOR, newest)
    return Bounds(_before(info["first-entry"][0]) if info["first-entry"] else newest, newest)


def _before(cursor: str) -> str:
    milliseconds, sequence = cursor_order(cursor)
    return f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{MAX_CURSOR_PART}"


def _runs(records: Mapping[str, str]) -> dict[str, RunRecord]:
    runs = {}
    for correlation_id, record in records.items():
        # The mark of lost runs is no record, nor is what others may have put there.
        with contextlib.suppress(ValidationError):
            runs[correlation_id] = RunRecord.model_validate_json(record)
    return runs


def decode_entry(entry_id: str, fields: Mapping[str, str]) -> Event | None:
    """Return what an entry tells, or None for one that is none of ours."""
    try:
        return Event(
            id=entry_id,
            kind=fields.get("event", MESSAGE),
            data=fields["text"],
            correlation_id=fields["correlation_id"],
            attempt=int(fields["attempt"]),
            sequence=int(fields["sequence"]),
        )
    except (KeyError, ValueError):
        return None


def _next_count(entries: Sequence[tuple[str, Mapping[str, str]]], count: int) -> int:
    if not entries:
        return count
    characters = max(1, sum(entry_characters(fields) for _, fields in entries))
    return max(1, min(PAGE_ENTRIES, PAGE_CHARACTERS * len(entries) // characters))
