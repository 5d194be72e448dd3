"""The stream of a conversation in Redis: its entries, its runs, and the shared clients that reach them.

Keys of the conversation ``abc``, in one cluster slot:

``agent-stream:abc``                   a Stream with one entry per event
``agent-runs:{agent-stream:abc}``      a hash with one record per run (``redis_scripts``)
``agent-erased:{agent-stream:abc}``    when the conversation was erased, if it was
"""

import asyncio
import contextlib
import json
import math
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ValidationError
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError, RedisError, ResponseError

import redis_scripts
from cluster_watcher import ClusterWatcher, cluster_errors
from settings import Settings, load_settings
from stream_watcher import ANSWER_SECONDS, BlockingReadWatcher, Subscription, entry_characters

FIRST_CURSOR = "0-0"
# What one follower reads at a time. XRANGE counts entries: how large the next ones are is guessed from those before.
FIRST_PAGE_ENTRIES = 32
PAGE_ENTRIES = 500
PAGE_CHARACTERS = 65_536
# A committed answer is appended in entries of this many characters when it has to be repaired or restored.
ANSWER_CHUNK_CHARACTERS = 4_000
# How long the request that registered a run has to start it before another request with its key may.
START_CLAIM_MS = 10_000
# An erasure is remembered for longer than any message, lease or retry of the durable runtime can live: its longest
# lived messages are those of a storage queue, 7 days.
ERASURE_SECONDS = 8 * 24 * 3600
# How long the durable runtime may take to forget a conversation.
ERASING_SECONDS = 60
# A cancellation is sent to the durable runtime once, and again when it is asked for again after this long.
CANCEL_RESEND_MS = 5_000
# For commands that answer at once a few connections carry the load of many callers, who wait for their turn. With those
# of the blocking read, of its waking and of the health check, a process with two event loops has 9 at most.
MAX_COMMANDS_AT_ONCE = 3
# The name of the mark that a conversation has while it lacks the runs that Redis lost (``redis_scripts``).
LOST_MARK = ""

_CURSOR = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_MAX_CURSOR_PART = 2**64 - 1


class RunStatus(StrEnum):
    """Where a run is. The last four are its ends."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def is_open(self) -> bool:
        return self in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.CANCELLING)


class Verdict(StrEnum):
    """What a script tells an attempt: wait for the run before; go on; end gracefully, the run was cancelled; stop,
    the run has ended or has a newer attempt."""

    WAIT = "wait"
    CONTINUE = "continue"
    CANCEL = "cancel"
    STOP = "stop"


class Run(BaseModel):
    """A run's record in Redis; times in ms since the epoch."""

    status: RunStatus
    created: int
    attempt: int
    agent: str | None = None


class StreamEvent(NamedTuple):
    """One entry of a stream. ``text`` is the chunk, or the data of the ``event`` that is not a message."""

    id: str
    event: str
    text: str
    correlation_id: str
    attempt: int
    sequence: int

    @property
    def is_terminal(self) -> bool:
        return self.event in ("done", "error", "cancelled")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer, and when it came in ms since the epoch."""

    text: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its status, and the terminal event that tells so."""

    status: RunStatus
    event: str
    data: str


DONE = Outcome(RunStatus.COMPLETED, "done", "[DONE]")
CANCELLED = Outcome(RunStatus.CANCELLED, "cancelled", "[CANCELLED]")


class Look(NamedTuple):
    """What a stopped attempt sees of its run.

    Attributes:
        kind: ``answered`` by another attempt or ended with an answer; ``failed``; ``not_started``; ``erased``;
            ``open``; ``unknown`` where Redis lost it.
        text: The run's answer, where it is ``answered``.
        silent_ms: For how long nothing was heard of the newest attempt of an ``open`` run.
    """

    kind: str
    text: str
    silent_ms: int


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The right to start a run: ``claim`` names who has it, ``created`` is when the run was accepted, in ms since the
    epoch by the clock of Redis."""

    claim: str
    created: int


@dataclass(frozen=True, slots=True)
class LostRun:
    """A run of which only the durable state knows: ``outcome`` is None while it is open, ``answer`` normalized,
    ``created`` 0 where nobody knows when it was accepted."""

    correlation_id: str
    agent: str
    outcome: Outcome | None
    answer: str
    created: int = 0

    def events(self, entry_id: str) -> list[StreamEvent]:
        """Return the events that tell a follower of a run that has ended, all with this id."""
        if self.outcome is None:
            return []
        pieces = [("message", piece) for piece in split_answer(self.answer)]
        told = [*pieces, (self.outcome.event, self.outcome.data)]
        return [
            reset_event(entry_id, self.correlation_id),
            *(StreamEvent(entry_id, event, text, self.correlation_id, attempt=0, sequence=0) for event, text in told),
        ]

    def to_json(self) -> dict[str, Any]:
        run: dict[str, Any] = {"correlation_id": self.correlation_id, "agent": self.agent, "created": self.created}
        if self.outcome is None:
            return run | {"status": RunStatus.QUEUED}
        ending = {"status": self.outcome.status, "event": self.outcome.event, "data": self.outcome.data}
        return run | ending | {"chunks": split_answer(self.answer)}


@dataclass(frozen=True, slots=True)
class Bounds:
    """The cursor up to which a stream was trimmed, and that of its newest entry of all; and whether it lacks what Redis
    lost before."""

    trimmed: str
    newest: str
    is_incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What one read of a stream brought.

    Attributes:
        is_open: Whether a run that is followed is open.
        events: What the entries tell.
        cursor: The last entry that was read, whoever wrote it.
        is_full: Whether there may be more.
        next_count: How many entries to read next.
    """

    is_open: bool
    events: list[StreamEvent]
    cursor: str
    is_full: bool
    next_count: int


class UnknownRunError(LookupError):
    """Redis holds no such conversation, or no such run in it, or has lost some of it."""


class ErasedError(LookupError):
    """The conversation was erased after the run was accepted."""


class BeingErasedError(Exception):
    """The conversation is being erased at this moment."""


class LostEntriesError(RedisError):
    """Redis never had, or has lost, the entry from which to read on: after a failover, say."""


class OverloadedError(RedisError):
    """Redis answers, but this process asks more of it than it gets done in time. Nothing was asked."""


class RedisStreamHandler:
    """Reads and writes the streams of all conversations. Get the shared one from ``get_stream_handler``.

    Args:
        commands: The client for commands that answer at once.
        watcher: Tells all followers what is new. That of a cluster has to be told itself, on the stream's channel.
        ttl_seconds: How long a stream outlives its last write.

    Every method raises ``redis.exceptions.RedisError`` when Redis does not answer.
    """

    def __init__(
        self,
        commands: Redis | RedisCluster,
        watcher: BlockingReadWatcher[StreamEvent] | ClusterWatcher[StreamEvent],
        ttl_seconds: float,
    ) -> None:
        self._commands: Any = commands
        self._turns = asyncio.Semaphore(MAX_COMMANDS_AT_ONCE)
        self._pings = asyncio.Semaphore(1)
        self._answered = time.monotonic()
        self._watcher = watcher
        self._has_channels = isinstance(watcher, ClusterWatcher)
        self._ttl_ms = int(ttl_seconds * 1000)
        self._scripts: dict[str, AsyncScript] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exception_type: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the shared connections open: they belong to the event loop, not to this block."""

    async def accept_run(
        self, conversation_id: str, correlation_id: str, agent: str, claim: str | None = None
    ) -> Acceptance | None:
        """Register a run as queued, and trim what the conversation no longer needs.

        Args:
            conversation_id: The conversation.
            correlation_id: The run.
            agent: The name of its agent.
            claim: What names the caller, None for a new name.

        Returns:
            The acceptance, when the caller is the one to start the run, or None when the run is known already. A run
            that nobody started within ``START_CLAIM_MS``, or that ended as ``not_started``, can be claimed again.

        Raises:
            BeingErasedError: The conversation is.
        """
        claim = claim or secrets.token_hex(8)
        created = int(
            await self._run_script(
                redis_scripts.ACCEPT, conversation_id, correlation_id, 0, agent, claim, START_CLAIM_MS
            )
        )
        if created < 0:
            raise BeingErasedError(conversation_id)
        return Acceptance(claim, created) if created else None

    async def withdraw_run(self, conversation_id: str, correlation_id: str, claim: str) -> None:
        """End a run that could not be started, so that it does nothing should it be started all the same."""
        await self._run_script(redis_scripts.WITHDRAW, conversation_id, correlation_id, 0, claim)

    async def begin_attempt(
        self,
        conversation_id: str,
        correlation_id: str,
        *,
        in_order: bool = False,
        instead_of: int = 0,
        created: int = 0,
    ) -> tuple[Verdict, int]:
        """Make a new attempt the only one that may append, after a ``reset`` where an older one had streamed.

        Args:
            conversation_id: The conversation.
            correlation_id: The run.
            in_order: Whether not to begin before the same agent's run before this one has its terminal event, which
                comes a moment after the commit that lets this one start.
            instead_of: The attempt whose place this one takes: it does not begin where a newer one has begun.
            created: When the run was accepted.

        Returns:
            The verdict and the attempt's number.
        """
        verdict, attempt = await self._run_script(
            redis_scripts.BEGIN, conversation_id, correlation_id, created, int(in_order), instead_of
        )
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
        fields = [value for chunk in chunks for value in (chunk.timestamp, chunk.text)]
        return Verdict(
            await self._run_script(
                redis_scripts.APPEND, conversation_id, correlation_id, created, attempt, sequence, *fields
            )
        )

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
            await self._run_script(redis_scripts.ANSWER, conversation_id, correlation_id, created, attempt, int(failed))
        )

    async def look(self, conversation_id: str, correlation_id: str, *, created: int = 0) -> Look:
        """Return what became of a run, for an attempt of it that was stopped."""
        kind, text, silent_ms = await self._run_script(redis_scripts.LOOK, conversation_id, correlation_id, created)
        return Look(kind, text, int(silent_ms))

    async def write_completion(
        self,
        conversation_id: str,
        *,
        correlation_id: str,
        outcome: Outcome = DONE,
        answer: str | None = None,
        created: int = 0,
    ) -> RunStatus | None:
        """End a run with its terminal event, once: a run that has ended stays as it is.

        Args:
            conversation_id: The conversation.
            correlation_id: The run.
            outcome: How it ended. A run that was being cancelled and completed ends as cancelled.
            answer: The committed answer, normalized (``stream_text``). Where the newest attempt streamed anything
                else, a ``reset`` and this text come before the terminal event.
            created: When the run was accepted.

        Returns:
            The status with which the run ended; None where it is not ended as timed out, since it had answered before.

        Raises:
            ErasedError: There is nothing to end any more.
        """
        return await self._finish(conversation_id, correlation_id, outcome, created, unstarted=False, answer=answer)

    async def end_unstarted(
        self, conversation_id: str, *, correlation_id: str, outcome: Outcome, created: int = 0
    ) -> RunStatus:
        """End a run of which certainly no attempt has begun. One that failed so can be accepted again.

        Returns:
            The run's status.

        Raises:
            ErasedError: There is nothing to end any more.
        """
        status = await self._finish(conversation_id, correlation_id, outcome, created, unstarted=True, answer=None)
        return status or RunStatus.RUNNING

    async def _finish(
        self,
        conversation_id: str,
        correlation_id: str,
        outcome: Outcome,
        created: int,
        *,
        unstarted: bool,
        answer: str | None,
    ) -> RunStatus | None:
        status = await self._run_script(
            redis_scripts.FINISH,
            conversation_id,
            correlation_id,
            created,
            outcome.status,
            outcome.event,
            outcome.data,
            int(unstarted),
            int(answer is not None),
            *split_answer(answer or ""),
        )
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
            redis_scripts.CANCEL, conversation_id, correlation_id, created, CANCEL_RESEND_MS
        )
        if status == "erased":
            raise ErasedError(correlation_id)
        return RunStatus(status) if status else None, send == "1"

    async def erasure(self, conversation_id: str) -> str:
        """Return what is known of the conversation's erasure, to be given to ``restore_runs``."""
        async with self._turn() as commands:
            return str(await commands.get(_erasure_key(conversation_id)) or "")

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
        return bool(await self._run_script(redis_scripts.RESTORE, conversation_id, "", 0, erasure, records))

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
        since = await self._run_script(redis_scripts.ERASE, conversation_id, "", 0, ERASURE_SECONDS * 1000, erasing_ms)
        return int(since) or None

    async def bounds(self, conversation_id: str) -> Bounds:
        """Return between which entries the stream is."""
        async with self._turn() as commands:
            is_incomplete = bool(await commands.hexists(_runs_key(conversation_id), LOST_MARK))
            bounds = await _bounds(commands, conversation_id) or Bounds(FIRST_CURSOR, FIRST_CURSOR)
            return replace(bounds, is_incomplete=is_incomplete)

    async def runs(self, conversation_id: str) -> dict[str, Run]:
        """Return the conversation's runs by their correlation_id, empty when Redis does not know it."""
        async with self._turn() as commands:
            runs = _runs(await commands.hgetall(_runs_key(conversation_id)))
            # Without its stream, a conversation is what an eviction left of it.
            return runs if runs and await commands.exists(_stream_key(conversation_id)) else {}

    async def ping(self) -> float:
        """Return how long Redis took to answer, in ms, however many other callers wait for their turn."""
        async with self._pings:
            start = time.perf_counter()
            async with self._asking() as commands:
                await commands.ping()
            return (time.perf_counter() - start) * 1000

    async def release_keys(self, keys: Iterable[str]) -> None:
        """Delete these keys."""
        for key in keys:
            async with self._turn() as commands:
                await commands.delete(key)

    async def claim_key(self, key: str, value: str, ttl_seconds: float) -> str:
        """Set the key, unless it is set, and return its value."""
        async with self._turn() as commands:
            existing = await commands.set(key, value, nx=True, get=True, px=int(ttl_seconds * 1000))
        return str(existing) if existing is not None else value

    async def read_stream(
        self,
        conversation_id: str,
        cursor: str = FIRST_CURSOR,
        *,
        correlation_id: str | None = None,
        follow: bool = True,
        silence_seconds: float = 15.0,
        max_seconds: float = math.inf,
    ) -> AsyncGenerator[list[StreamEvent], None]:
        """Read what comes after the cursor, and follow it live until no run is open.

        Args:
            conversation_id: The conversation.
            cursor: An entry's id; only what came after it is read.
            correlation_id: Only this run's events, ending at its terminal event.
            follow: Whether to wait for more while a run is open.
            silence_seconds: After this long without an event, an empty list is yielded.
            max_seconds: After this long the reading ends, between two events.

        Yields:
            What each round trip brought, oldest first. The first list comes at once, empty when a run is open that
            has no events yet; nothing at all is yielded when there is nothing and nothing to wait for.

        Raises:
            LostEntriesError: The cursor is later than all that the stream has ever had.
            UnknownRunError: Redis does not know the conversation, or the run, or no longer does.
        """
        deadline = time.monotonic() + max_seconds
        live: Subscription[StreamEvent] | None = None
        yielded = False
        count = FIRST_PAGE_ENTRIES
        try:
            while time.monotonic() < deadline:
                if live is not None:
                    # Before the reading: what comes after it is told.
                    live.rejoin()
                page = await self._catch_up(conversation_id, cursor, correlation_id, count)
                cursor, count = page.cursor, page.next_count
                events = _of_run(page.events, correlation_id)
                if events or (page.is_open and not yielded):
                    yield events
                    yielded = True
                if _ends(events) and correlation_id is not None:
                    return
                if page.is_full or _ends(events):
                    continue
                if not (page.is_open and follow):
                    return
                if live is None:
                    # What comes between the catching up and the subscription is read in one more round.
                    live = self._watcher.subscribe(_stream_key(conversation_id), cursor)
                    continue
                # Silence, or a terminal event, is the time to ask again whether there is more to wait for.
                while (seconds_left := deadline - time.monotonic()) > 0:
                    told = await live.next(min(silence_seconds, seconds_left))
                    entries = _after(cursor, told)
                    cursor = entries[-1].id if entries else cursor
                    events = _of_run(entries, correlation_id)
                    if events or not (told or live.behind):
                        yield events
                    if _ends(events) and correlation_id is not None:
                        return
                    if not told or _ends(events):
                        break
        finally:
            if live is not None:
                live.end()

    async def _catch_up(self, conversation_id: str, cursor: str, correlation_id: str | None, count: int) -> Page:
        async with self._turn() as commands:
            # In this order a run that ends between the two commands is not seen as ended without its end. They are no
            # pipeline, because a cluster's that fails closes the connections which other callers are using.
            runs = _runs(await commands.hgetall(_runs_key(conversation_id)))
            entries = await commands.xrange(_stream_key(conversation_id), min=f"({cursor}", count=count)
            # Without its stream, a conversation is what an eviction left of it. And the connection may have been made
            # anew, unnoticed, to a Redis that has less.
            bounds = None if entries else await _bounds(commands, conversation_id)
        is_gone = not entries and bounds is None
        if not runs or is_gone or (correlation_id is not None and correlation_id not in runs):
            raise UnknownRunError(correlation_id or conversation_id)
        if bounds is not None and cursor_order(cursor) > cursor_order(bounds.newest):
            raise LostEntriesError(cursor)
        watched = [runs[correlation_id]] if correlation_id is not None else list(runs.values())
        return Page(
            is_open=any(run.status.is_open for run in watched),
            events=[event for entry in entries if (event := _event(*entry)) is not None],
            cursor=entries[-1][0] if entries else cursor,
            is_full=len(entries) == count,
            next_count=_next_count(entries, count),
        )

    async def _run_script(
        self, script: str, conversation_id: str, correlation_id: str, created: int, *arguments: str | int
    ) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._commands.register_script(script)
        keys = [_stream_key(conversation_id), _runs_key(conversation_id), _erasure_key(conversation_id)]
        if self._has_channels:
            keys.append(_stream_key(conversation_id))
        async with self._turn():
            return await self._scripts[script](keys=keys, args=[self._ttl_ms, correlation_id, created, *arguments])

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[Any]:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            if self._answered < asked:
                raise ConnectionError("Redis does not answer") from None
            raise OverloadedError("too many callers wait for Redis") from None
        try:
            async with self._asking() as commands:
                yield commands
        finally:
            self._turns.release()

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


# An asyncio client belongs to the loop that made it, and the durable runtime runs entities on a loop of its own.
_handlers: WeakKeyDictionary[asyncio.AbstractEventLoop, RedisStreamHandler] = WeakKeyDictionary()


async def get_stream_handler() -> RedisStreamHandler:
    """Return the running event loop's handler, made from the settings on first use.

    Use it as ``async with await get_stream_handler() as handler:``; leaving the block closes nothing.
    """
    loop = asyncio.get_running_loop()
    if loop not in _handlers:
        _handlers[loop] = create_stream_handler(load_settings())
    return _handlers[loop]


def create_stream_handler(settings: Settings) -> RedisStreamHandler:
    """Return a new handler with its own connections, to be closed by the caller."""
    url, ttl_seconds = settings.redis_connection_string.get_secret_value(), settings.redis_stream_ttl_minutes * 60
    # Without redis-py's own timeout of a command, whose asyncio.wait_for may swallow a cancellation in Python 3.11
    # (https://github.com/python/cpython/issues/86296): every wait here has a timeout around it.
    options: dict[str, Any] = {
        "decode_responses": True,
        # What others wrote need not be UTF-8.
        "encoding_errors": "replace",
        "socket_connect_timeout": ANSWER_SECONDS,
        "socket_timeout": None,
    }
    # Every script can be repeated, so a connection that broke is tried again at once.
    patient = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2)
    # A blocking read is woken by its connection's id, and a connection's subscriptions are told of what comes after
    # them, so a new connection must not take the old one's place unnoticed.
    impatient = Retry(NoBackoff(), retries=0)

    def shard(node: ClusterNode) -> Redis:
        client = Redis.from_url(url, retry=impatient, **options)
        client.connection_pool.connection_kwargs.update(host=node.host, port=node.port)
        return client

    if settings.redis_cluster:
        cluster = RedisCluster.from_url(url, retry=patient, **options)
        return RedisStreamHandler(cluster, ClusterWatcher(cluster, shard, _event), ttl_seconds)
    commands = Redis.from_url(url, retry=patient, **options)
    reader = Redis.from_url(url, retry=impatient, single_connection_client=True, **options)
    return RedisStreamHandler(commands, BlockingReadWatcher(reader, commands, _event), ttl_seconds)


def reset_event(entry_id: str, correlation_id: str) -> StreamEvent:
    """Return the event that tells a follower to drop what it has of a run which is no longer in Redis."""
    reset = json.dumps({"correlation_id": correlation_id, "reason": "expired"})
    return StreamEvent(entry_id, "reset", reset, correlation_id, attempt=0, sequence=0)


def parse_cursor(cursor: str) -> str:
    """Return the cursor when it is an entry id ``<ms>-<seq>``.

    Raises:
        ValueError: It is not.
    """
    if not _CURSOR.fullmatch(cursor) or any(int(part) > _MAX_CURSOR_PART for part in cursor.split("-")):
        raise ValueError(cursor)
    return cursor


def cursor_order(cursor: str) -> tuple[int, int]:
    """Return what sorts cursors by age."""
    milliseconds, sequence = cursor.split("-")
    return int(milliseconds), int(sequence)


def split_answer(answer: str) -> list[str]:
    """Return the answer in pieces for one entry each."""
    return [answer[i : i + ANSWER_CHUNK_CHARACTERS] for i in range(0, len(answer), ANSWER_CHUNK_CHARACTERS)]


def now_ms() -> int:
    """Return the time in ms since the epoch."""
    return time.time_ns() // 1_000_000


async def _bounds(commands: Any, conversation_id: str) -> Bounds | None:
    try:
        info = await commands.xinfo_stream(_stream_key(conversation_id))
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
    return f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{_MAX_CURSOR_PART}"


def _stream_key(conversation_id: str) -> str:
    return f"agent-stream:{conversation_id}"


def _runs_key(conversation_id: str) -> str:
    return f"agent-runs:{{{_stream_key(conversation_id)}}}"


def _erasure_key(conversation_id: str) -> str:
    return f"agent-erased:{{{_stream_key(conversation_id)}}}"


def _of_run(entries: list[StreamEvent], correlation_id: str | None) -> list[StreamEvent]:
    return entries if correlation_id is None else [event for event in entries if event.correlation_id == correlation_id]


def _ends(events: list[StreamEvent]) -> bool:
    return any(event.is_terminal for event in events)


def _after(cursor: str, entries: list[StreamEvent]) -> list[StreamEvent]:
    if not entries or cursor_order(entries[0].id) > cursor_order(cursor):
        return entries
    return [entry for entry in entries if cursor_order(entry.id) > cursor_order(cursor)]


def _runs(records: Mapping[str, str]) -> dict[str, Run]:
    runs = {}
    for correlation_id, record in records.items():
        # The mark of lost runs is no record, nor is what others may have put there.
        with contextlib.suppress(ValidationError):
            runs[correlation_id] = Run.model_validate_json(record)
    return runs


def _event(entry_id: str, fields: Mapping[str, str]) -> StreamEvent | None:
    """Return what an entry tells, or None for one that is none of ours."""
    try:
        return StreamEvent(
            id=entry_id,
            event=fields.get("event", "message"),
            text=fields["text"],
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
