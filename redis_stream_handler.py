"""The stream of a conversation in Redis: its entries, its runs, and the shared clients that reach them.

Keys of the conversation ``abc``, in one cluster slot:

``agent-stream:abc``                 a Stream with one entry per event
``agent-runs:{agent-stream:abc}``    a hash with one record per run (``redis_scripts``)
"""

import asyncio
import contextlib
import json
import math
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
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
# For commands that answer at once a few connections carry the load of many callers, who wait for their turn. With those
# of the blocking read, of its waking and of the health check, a process with two event loops has 9 at most.
MAX_COMMANDS_AT_ONCE = 3

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


@dataclass(frozen=True, slots=True)
class LostRun:
    """A run of which only the durable state knows: ``outcome`` is None while it is open, ``answer`` normalized."""

    correlation_id: str
    agent: str
    outcome: Outcome | None
    answer: str

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
        run: dict[str, Any] = {"correlation_id": self.correlation_id, "agent": self.agent}
        if self.outcome is None:
            return run | {"status": RunStatus.QUEUED}
        ending = {"status": self.outcome.status, "event": self.outcome.event, "data": self.outcome.data}
        return run | ending | {"chunks": split_answer(self.answer)}


@dataclass(frozen=True, slots=True)
class Bounds:
    """The cursor up to which a stream was trimmed, and that of its newest entry of all."""

    trimmed: str
    newest: str


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
    """Redis holds no such conversation, or no such run in it."""


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

    async def accept_run(self, conversation_id: str, correlation_id: str, agent: str) -> str | None:
        """Register a run as queued, and trim what the conversation no longer needs.

        Returns:
            A claim, when the caller is the one to start the run, or None when the run is known already. A run that
            nobody started within ``START_CLAIM_MS``, or that ended as ``not_started``, can be claimed again.
        """
        claim = secrets.token_hex(8)
        claimed = await self._run_script(
            redis_scripts.ACCEPT, conversation_id, correlation_id, agent, claim, START_CLAIM_MS
        )
        return claim if claimed else None

    async def withdraw_run(self, conversation_id: str, correlation_id: str, claim: str) -> None:
        """Forget a run that could not be started."""
        await self._run_script(redis_scripts.WITHDRAW, conversation_id, correlation_id, claim)

    async def begin_attempt(
        self, conversation_id: str, correlation_id: str, *, in_order: bool = False
    ) -> tuple[Verdict, int]:
        """Make a new attempt the only one that may append, after a ``reset`` where an older one had streamed.

        Args:
            conversation_id: The conversation.
            correlation_id: The run.
            in_order: Whether not to begin before the same agent's run before this one has its terminal event, which
                comes a moment after the commit that lets this one start.

        Returns:
            The verdict and the attempt's number.
        """
        verdict, attempt = await self._run_script(redis_scripts.BEGIN, conversation_id, correlation_id, int(in_order))
        return Verdict(verdict), int(attempt)

    async def append(
        self, conversation_id: str, correlation_id: str, attempt: int, sequence: int, chunks: Sequence[Chunk]
    ) -> Verdict:
        """Append an attempt's chunks, the first of them with this sequence number, and keep the run alive.

        A repeated call appends nothing twice. Without chunks it only keeps the run alive and asks for the verdict.
        """
        fields = [value for chunk in chunks for value in (chunk.timestamp, chunk.text)]
        return Verdict(
            await self._run_script(redis_scripts.APPEND, conversation_id, correlation_id, attempt, sequence, *fields)
        )

    async def write_chunk(
        self, conversation_id: str, text: str, sequence: int, *, correlation_id: str, attempt: int
    ) -> Verdict:
        """Append one chunk."""
        return await self.append(conversation_id, correlation_id, attempt, sequence, [Chunk(text, now_ms())])

    async def write_completion(
        self, conversation_id: str, *, correlation_id: str, outcome: Outcome = DONE, answer: str | None = None
    ) -> RunStatus:
        """End a run with its terminal event, once: a run that has ended stays as it is.

        Args:
            conversation_id: The conversation.
            correlation_id: The run.
            outcome: How it ended. A run that was being cancelled and completed ends as cancelled.
            answer: The committed answer, normalized (``stream_text``). Where the newest attempt streamed anything
                else, a ``reset`` and this text come before the terminal event.

        Returns:
            The status with which the run ended.
        """
        return await self._finish(conversation_id, correlation_id, outcome, unstarted=False, answer=answer)

    async def end_unstarted(self, conversation_id: str, *, correlation_id: str, outcome: Outcome) -> RunStatus:
        """End a run of which certainly no attempt has begun. One that failed so can be accepted again.

        Returns:
            The run's status.
        """
        return await self._finish(conversation_id, correlation_id, outcome, unstarted=True, answer=None)

    async def _finish(
        self, conversation_id: str, correlation_id: str, outcome: Outcome, *, unstarted: bool, answer: str | None
    ) -> RunStatus:
        status = await self._run_script(
            redis_scripts.FINISH,
            conversation_id,
            correlation_id,
            outcome.status,
            outcome.event,
            outcome.data,
            int(unstarted),
            int(answer is not None),
            *split_answer(answer or ""),
        )
        return RunStatus(status)

    async def cancel_run(self, conversation_id: str, correlation_id: str) -> RunStatus | None:
        """Ask an open run to end; its writer learns it from its next append.

        Returns:
            The run's status before, or None where Redis did not know it.
        """
        status = await self._run_script(redis_scripts.CANCEL, conversation_id, correlation_id)
        return RunStatus(status) if status else None

    async def restore_runs(self, conversation_id: str, runs: Sequence[LostRun]) -> None:
        """Add the runs that Redis does not know: one that has ended as a ``reset``, its answer and its end."""
        records = json.dumps([run.to_json() for run in runs])
        await self._run_script(redis_scripts.RESTORE, conversation_id, "", records)

    async def erase(self, conversation_id: str) -> bool:
        """Forget the conversation's stream and runs, and return True, unless a run is open."""
        return bool(await self._run_script(redis_scripts.ERASE, conversation_id, ""))

    async def bounds(self, conversation_id: str) -> Bounds:
        """Return between which entries the stream is."""
        async with self._turn() as commands:
            return await _bounds(commands, conversation_id)

    async def runs(self, conversation_id: str) -> dict[str, Run]:
        """Return the conversation's runs by their correlation_id, empty when Redis does not know it."""
        async with self._turn() as commands:
            return _runs(await commands.hgetall(_runs_key(conversation_id)))

    async def ping(self) -> float:
        """Return how long Redis took to answer, in ms, however many other callers wait for their turn."""
        async with self._pings:
            start = time.perf_counter()
            async with self._asking() as commands:
                await commands.ping()
            return (time.perf_counter() - start) * 1000

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
            # The connection may have been made anew, unnoticed, to a Redis that has less.
            is_lost = not entries and cursor != FIRST_CURSOR and await _is_beyond(commands, conversation_id, cursor)
        if not runs or (correlation_id is not None and correlation_id not in runs):
            raise UnknownRunError(correlation_id or conversation_id)
        if is_lost:
            raise LostEntriesError(cursor)
        watched = [runs[correlation_id]] if correlation_id is not None else list(runs.values())
        return Page(
            is_open=any(run.status.is_open for run in watched),
            events=[event for entry in entries if (event := _event(*entry)) is not None],
            cursor=entries[-1][0] if entries else cursor,
            is_full=len(entries) == count,
            next_count=_next_count(entries, count),
        )

    async def _run_script(self, script: str, conversation_id: str, correlation_id: str, *arguments: str | int) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._commands.register_script(script)
        keys = [_stream_key(conversation_id), _runs_key(conversation_id)]
        if self._has_channels:
            keys.append(_stream_key(conversation_id))
        async with self._turn():
            return await self._scripts[script](keys=keys, args=[self._ttl_ms, correlation_id, *arguments])

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


async def _bounds(commands: Any, conversation_id: str) -> Bounds:
    try:
        info = await commands.xinfo_stream(_stream_key(conversation_id))
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return Bounds(FIRST_CURSOR, FIRST_CURSOR)
    newest: str = info["last-generated-id"]
    if info["entries-added"] == info["length"]:
        return Bounds(FIRST_CURSOR, newest)
    return Bounds(_before(info["first-entry"][0]) if info["first-entry"] else newest, newest)


async def _is_beyond(commands: Any, conversation_id: str, cursor: str) -> bool:
    return cursor_order(cursor) > cursor_order((await _bounds(commands, conversation_id)).newest)


def _before(cursor: str) -> str:
    milliseconds, sequence = cursor_order(cursor)
    return f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{_MAX_CURSOR_PART}"


def _stream_key(conversation_id: str) -> str:
    return f"agent-stream:{conversation_id}"


def _runs_key(conversation_id: str) -> str:
    return f"agent-runs:{{{_stream_key(conversation_id)}}}"


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
        # A record that is none of ours says nothing of our runs.
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
