"""One follower of a stream, from its first batch of events to the end of its response."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import azure.durable_functions as df
from redis.exceptions import RedisError

from conversations import DurableUnavailableError
from recovery import settle_runs
from redis_stream_handler import RedisStreamHandler, StreamEvent, UnknownRunError
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
        conversation_id: The conversation to follow.
        cursor: Only what came after this entry.
        correlation_id: Only this run, or None for all.
        waits: Whether to wait for more while a run is open.
    """

    handler: RedisStreamHandler
    client: df.DurableOrchestrationClient
    settings: Settings
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
            RedisError: Redis did not answer at the beginning.
            UnknownRunError: Redis does not know what to follow.
        """
        deadline = time.monotonic() + self.settings.stream_max_seconds
        cursor, begun = self.cursor, False
        while (seconds_left := deadline - time.monotonic()) > 0:
            try:
                async for events in self._read(cursor, seconds_left):
                    if events:
                        cursor = events[-1].id
                    elif begun:
                        await self._settle()
                    begun = True
                    yield events
                return
            except UnknownRunError:
                if not begun:
                    raise
                return
            except RedisError as error:
                if not begun:
                    raise
                logger.warning("following %s: Redis does not answer: %s", self.conversation_id, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
                yield []

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
