"""One follower of a stream, from its first batch of events to the end of its response."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import azure.durable_functions as df
from redis.exceptions import RedisError

from conversations import DurableUnavailableError
from recovery import read_trimmed_runs, settle_runs
from redis_stream_handler import RedisStreamHandler, StreamEvent, UnknownRunError, cursor_order
from settings import Settings

RETRY_SECONDS = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Follower:
    """What a follower asked for.

    Args:
        handler: The stream handler of the running event loop.
        client: The durable client of the request.
        settings: The app's settings.
        agents: The names of the agents whose conversations there are.
        conversation_id: The conversation to follow.
        cursor: Only what came after this entry.
        correlation_id: Only this run, or None for all.
        waits: Whether to wait for more while a run is open.
    """

    handler: RedisStreamHandler
    client: df.DurableOrchestrationClient
    settings: Settings
    agents: list[str]
    conversation_id: str
    cursor: str
    correlation_id: str | None
    waits: bool

    async def batches(self) -> AsyncIterator[list[StreamEvent]]:
        """Yield the events as they come, in batches; an empty one is a silence.

        It ends where ``RedisStreamHandler.read_stream`` does, after ``stream_max_seconds`` at the latest. Once it has
        yielded anything it outlasts an outage of Redis, and ends when Redis has lost the stream: the follower then
        resumes and has it restored.

        Raises:
            DurableUnavailableError: The durable runtime did not answer at the beginning, where it was needed.
            RedisError: Redis did not answer at the beginning.
            UnknownRunError: Redis does not know what to follow.
        """
        deadline = time.monotonic() + self.settings.stream_max_seconds
        cursor, trimmed = await self._resume()
        begun = bool(trimmed)
        if trimmed:
            yield trimmed
        while (seconds_left := deadline - time.monotonic()) > 0:
            try:
                async for events in self._read(cursor, seconds_left):
                    silent = begun and not events
                    begun = True
                    if events:
                        cursor = events[-1].id
                    yield events
                    if silent:
                        await self._settle()
                return
            except UnknownRunError:
                if not begun:
                    raise
                return
            except RedisError as error:
                if not begun:
                    raise
                logger.info("following %s: Redis does not answer: %s", self.conversation_id, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
                yield []

    async def _resume(self) -> tuple[str, list[StreamEvent]]:
        """Return from where to read, and first what was trimmed in between, from the durable state."""
        bounds = await self.handler.bounds(self.conversation_id)
        # A cursor from the future would keep out everything until its time has come.
        cursor = min(self.cursor, bounds.newest, key=cursor_order)
        if self.correlation_id is not None or cursor_order(cursor) >= cursor_order(bounds.trimmed):
            return cursor, []
        runs = await read_trimmed_runs(self.handler, self.client, self.agents, self.conversation_id)
        # All but the last keep the cursor, so that a follower cut in between gets the whole of it again.
        events = [event for run in runs for event in run.events(cursor)]
        return bounds.trimmed, [*events[:-1], *(event._replace(id=bounds.trimmed) for event in events[-1:])]

    def _read(self, cursor: str, max_seconds: float) -> AsyncIterator[list[StreamEvent]]:
        return self.handler.read_stream(
            self.conversation_id,
            cursor,
            correlation_id=self.correlation_id,
            follow=self.waits,
            silence_seconds=self.settings.heartbeat_seconds,
            max_seconds=max_seconds,
        )

    async def _settle(self) -> None:
        try:
            await settle_runs(self.handler, self.client, self.conversation_id)
        except DurableUnavailableError:
            logger.warning("following %s: the durable runtime does not answer", self.conversation_id)
