"""One follower of a stream, from its first batch of events to the end of its response."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass

from redis.exceptions import RedisError

from agentstream import telemetry
from agentstream.model import (
    FIRST_CURSOR,
    FURTHER_KINDS,
    DurableUnavailableError,
    Event,
    StreamLostError,
    UnknownRunError,
    cursor_order,
    expired_event,
)
from agentstream.runs.recovery import Recovery, Sources

RETRY_SECONDS = 0.5

logger = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Follower:
    """What a follower asked for.

    Args:
        both: Redis and the durable runtime.
        recovery: What the followers of the process share.
        conversation_id: The conversation to follow.
        cursor: Only what came after this entry.
        correlation_id: Only this run, or None for all.
        include: Of the ``FURTHER_KINDS`` of events those that it is told.
        waits: Whether to wait for more while a run is open.
        heartbeat_seconds: After this long without an event there is a silence to tell of.
        deadline: When it ends, in monotonic seconds.
        held: The newest entry that it has already, where it is told all after the cursor once more.
    """

    both: Sources
    recovery: Recovery
    conversation_id: str
    cursor: str
    correlation_id: str | None
    include: Collection[str]
    waits: bool
    heartbeat_seconds: float
    deadline: float
    held: str = FIRST_CURSOR

    async def batches(self) -> AsyncGenerator[list[Event], None]:
        """Yield the events as they come, in batches; an empty one is a silence.

        What Redis does not know is restored from the durable state first. Once it has yielded anything it outlasts an
        outage of Redis. It ends where ``RedisStreamHandler.read_stream`` does, and at the deadline at the latest.

        Raises:
            StreamLostError: Redis has lost the stream after something of it was yielded: the follower is to resume.
            DurableUnavailableError: The durable runtime did not answer at the beginning, where it was needed.
            RedisError: Redis did not answer at the beginning.
            UnknownRunError: Nobody knows what to follow.
        """
        cursor, held, begun, restored = self.cursor, self.held, False, False
        while time.monotonic() < self.deadline:
            try:
                # Also after an outage: the Redis that answers then may be another one, which has lost what came last.
                async with contextlib.aclosing(self._missed(max(cursor, held, key=cursor_order))) as missed:
                    async for events in missed:
                        begun, cursor, held = True, events[-1].id, FIRST_CURSOR
                        yield events
                async with contextlib.aclosing(self._read(cursor)) as reading:
                    async for events in reading:
                        silent = begun and not events
                        begun = True
                        if events:
                            if _is_lost(held, events[0]):
                                yield [expired_event(FIRST_CURSOR, events[0].correlation_id)]
                            cursor, held = events[-1].id, FIRST_CURSOR
                        yield events
                        if silent:
                            await self._settle()
                return
            except UnknownRunError:
                if begun:
                    raise StreamLostError(self.conversation_id) from None
                if restored or not await self.recovery.restore(self.both, self.conversation_id, self.correlation_id):
                    raise
                restored = True
            except (RedisError, DurableUnavailableError) as error:
                if not begun:
                    raise
                logger.info("following %s: %s", self.conversation_id, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
                yield []

    async def _missed(self, cursor: str) -> AsyncGenerator[list[Event], None]:
        """Yield what reading on from the cursor would not bring. The last event's id is where to read on.

        All others have the cursor, so that a follower cut in between gets the whole of it again.
        """
        bounds = await self.both.stream.bounds(self.conversation_id)
        if bounds.is_incomplete and self.correlation_id is None:
            raise UnknownRunError(self.conversation_id)
        if cursor_order(cursor) > cursor_order(bounds.newest):
            # What the follower holds, this Redis never had or has lost: after a failover, say.
            known = await self.both.stream.runs(self.conversation_id)
            runs = [each for each in known if self.correlation_id in (None, each)]
            resets = [expired_event(cursor, each) for each in runs]
            cursor = FIRST_CURSOR
            if resets:
                yield _read_on_from(cursor, resets)
        if self.correlation_id is None and cursor_order(cursor) < cursor_order(bounds.trimmed):
            trimmed = await self.recovery.trimmed_runs(self.both, self.conversation_id)
            ended = [run for run in trimmed if run.outcome is not None]
            for run in ended:
                events = [event for event in run.events(cursor) if self._includes(event)]
                yield _read_on_from(bounds.trimmed, events) if run is ended[-1] else events

    def _includes(self, event: Event) -> bool:
        return event.kind in self.include or event.kind not in FURTHER_KINDS

    def _read(self, cursor: str) -> AsyncGenerator[list[Event], None]:
        return self.both.stream.read_stream(
            self.conversation_id,
            cursor,
            correlation_id=self.correlation_id,
            include=self.include,
            follow=self.waits,
            silence_seconds=self.heartbeat_seconds,
            max_seconds=self.deadline - time.monotonic(),
        )

    async def _settle(self) -> None:
        try:
            await self.recovery.settle(self.both, self.conversation_id)
        except DurableUnavailableError:
            logger.warning("following %s: the durable runtime does not answer", self.conversation_id)


def _is_lost(held: str, first: Event) -> bool:
    """Return whether Redis has lost what a follower holds, by the first event that it is told once more: the attempt
    went on, and what it says now comes after what was lost."""
    return held != FIRST_CURSOR and cursor_order(held) < cursor_order(first.id) and first.kind != "reset"


def _read_on_from(cursor: str, events: list[Event]) -> list[Event]:
    return [*events[:-1], events[-1]._replace(id=cursor)]
