"""Removes what has been idle for long: a timer function, registered where ``RETENTION_DAYS`` is on.

What goes is a whole conversation. Its agents' memory keeps what was said, but how a run ended, and which message its
idempotency key stands for, only the run's orchestration knows: without it, a cancelled answer would be restored as a
complete one, and a repeated POST would run again. So a conversation that is still used keeps all of its runs, however
old; and one that is not is erased as a DELETE erases it, which nothing that wakes up late undoes.

The durable client answers the first page of a list, in the order of ids, and cannot ask for the next one. So a list is
asked for by the first character of its ids, and where that page is full by the next one, in an order that chance
decides: what has to stay does not hide for ever what comes after it, and what one tick does not reach another one does.
"""

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import azure.durable_functions as df
import azure.functions as func
from redis.exceptions import RedisError

from agentstream import telemetry
from agentstream.model import DurableUnavailableError, OpenRunError, RunInput, now_ms
from agentstream.runs.committed import CommittedState, Page, memory_of
from agentstream.runs.handles import ConversationHandle, Runs
from agentstream.runs.owner_list import OWNER_LIST
from agentstream.runs.recovery import Recovery, Sources, in_parallel
from agentstream.settings import Settings
from agentstream.stream.clients import GetStream, get_stream_handler
from agentstream.stream.handler import ERASURE_SECONDS

# What a tick has not begun by then it leaves to the next one.
TICK_SECONDS = 300.0
# The rest of the app needs the durable runtime, too.
PURGES_AT_ONCE = 8
# Of the ids of conversations, and of runs, which are UUIDs.
ID_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"
HEX_CHARACTERS = "0123456789abcdef"

T = TypeVar("T")
Pages = AsyncGenerator[list[T], None]
Remove = Callable[[T], Coroutine[Any, Any, bool]]

logger = telemetry.logger(__name__)


def create_retention_function(
    settings: Settings, agents: Sequence[str], get_stream: GetStream = get_stream_handler
) -> df.Blueprint:
    """Return the timer function, to be registered with the function app.

    Args:
        settings: The app's settings, whose ``retention_days`` are more than 0.
        agents: The names of the agents whose conversations there are.
        get_stream: Returns the stream handler of the running event loop.
    """
    recovery = Recovery(settings.heartbeat_seconds)

    async def retention(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
        async with await get_stream() as stream:
            both = Sources(stream, CommittedState(client, agents))
            runs = Runs(both, recovery, settings.run_timeout_seconds, settings.heartbeat_seconds)
            await Retention(runs, timedelta(days=settings.retention_days), settings.retention_batch).tick()

    blueprint = df.Blueprint()
    timed = blueprint.timer_trigger(arg_name="timer", schedule=settings.retention_schedule, use_monitor=True)
    blueprint.function_name("retention")(timed(blueprint.durable_client_input(client_name="client")(retention)))
    return blueprint


@dataclass(frozen=True, slots=True)
class Retention:
    """Removes what has been idle for longer than ``age``, and in one tick no more than ``batch`` of a kind."""

    runs: Runs
    age: timedelta
    batch: int

    async def tick(self) -> None:
        """Remove idle conversations, and what is left of others: ended runs, and memories and lists with nothing in
        them."""
        now, deadline = datetime.now(UTC), time.monotonic() + TICK_SECONDS
        before = now - self.age
        # Until then an erasure is remembered, since messages that were sent before it may still arrive.
        empty_before = min(before, now - timedelta(seconds=ERASURE_SECONDS))
        committed = self.runs.both.committed
        memories = [memory_of(agent) for agent in committed.agents]
        removed = dict.fromkeys(("conversations", "runs", "empty"), 0)

        async def sweep(kind: str, pages: Pages[T], remove: Remove[T]) -> None:
            removed[kind] += await _sweep(pages, remove, self.batch - removed[kind], deadline)

        try:
            for memory in memories:
                idle = pages_of(partial(committed.idle_keys, memory, before), ID_CHARACTERS)
                await sweep("conversations", idle, partial(self._remove_conversation, before))
            ended = pages_of(partial(committed.ended_runs, before), HEX_CHARACTERS)
            await sweep("runs", ended, self._remove_run)
            for entity in (*memories, OWNER_LIST):
                idle = pages_of(partial(committed.idle_keys, entity, empty_before), ID_CHARACTERS)
                await sweep("empty", idle, partial(self._remove_empty, entity))
        except (DurableUnavailableError, RedisError) as error:
            logger.warning("retention: the rest is left to the next time: %r", error.__cause__ or error)
        logger.info("retention: removed %d conversations, %d runs of others, %d empty entities", *removed.values())

    async def _remove_conversation(self, before: datetime, conversation_id: str) -> bool:
        both = self.runs.both
        # An entity's last operation was the end of the agent's newest answer. Of a run without one only Redis knows.
        used = [
            await both.committed.last_operation(memory_of(agent), conversation_id) for agent in both.committed.agents
        ]
        if any(at is not None and at > before for at in used):
            return False
        runs = await both.stream.runs(conversation_id)
        if any(run.status.is_open or run.created > before.timestamp() * 1000 for run in runs.values()):
            return False
        if not await both.committed.remembers(conversation_id, both.committed.agents):
            return False
        owner = await both.committed.owner(conversation_id)
        try:
            await ConversationHandle(replace(self.runs, owner=owner), conversation_id).erase()
        except OpenRunError:
            return False
        return True

    async def _remove_run(self, run: RunInput) -> bool:
        """Remove an ended run of a conversation that nobody knows: it was not answered, or it outlived an erasure that
        was cut off."""
        both = self.runs.both
        if await both.committed.remembers(run.conversation_id, {*both.committed.agents, run.agent}):
            return False
        if await both.stream.runs(run.conversation_id):
            return False
        if run.owner is not None:
            await both.committed.unlist(run.owner, run.conversation_id, now_ms())
        await both.committed.purge_run(run.correlation_id)
        await both.stream.release_keys([run.correlation_id])
        return True

    async def _remove_empty(self, entity: str, key: str) -> bool:
        both = self.runs.both
        if not await both.committed.is_empty(entity, key):
            return False
        # An operation in progress would have to be executed again.
        if entity != OWNER_LIST and await both.stream.runs(key):
            return False
        await both.committed.purge_entity(entity, key)
        return True


async def pages_of(
    list_page: Callable[[str], Awaitable[Page[T]]], characters: str, prefix: str = ""
) -> AsyncGenerator[list[T], None]:
    """Yield all of a list of which only the first page of each prefix is to be had, in an order that chance decides.

    What is in a full page is yielded once more with the pages that it is divided into, unless it is removed meanwhile.

    Args:
        list_page: Returns what has ids with this prefix.
        characters: Those of which ids consist.
        prefix: Of the ids that are wanted.
    """
    for character in random.sample(characters, len(characters)):
        page = await list_page(prefix + character)
        yield random.sample(page.items, len(page.items))
        if page.is_full:
            async with aclosing(pages_of(list_page, characters, prefix + character)) as pages:
                async for items in pages:
                    yield items


async def _sweep(pages: Pages[T], remove: Remove[T], limit: int, deadline: float) -> int:
    """Try to remove all that is in these pages, up to this limit and deadline, and return how many were."""
    removed = 0
    async with aclosing(pages):
        while removed < limit and time.monotonic() < deadline and (items := await anext(pages, None)) is not None:
            while items and removed < limit and time.monotonic() < deadline:
                count = min(PURGES_AT_ONCE, limit - removed)
                removed += sum(await in_parallel(remove(item) for item in items[:count]))
                items = items[count:]
    return removed
