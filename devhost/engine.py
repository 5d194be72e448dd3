"""The durable engine: claims ready work from the store, runs it, commits what comes out."""

import asyncio
import json
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from devhost.entities import batch_json, entity_name, failed_operation, operation_outcome
from devhost.functions import FunctionTable, Invoker, Trigger
from devhost.history import Event, EventType, new_event
from devhost.orchestrations import FINAL_STATUSES, Episode, OrchestrationWork
from devhost.store import ActivityWork, EntityWork, Store
from devhost.worker import InvocationFailedError

logger = logging.getLogger(__name__)

# Work of this process is announced at once; polling only finds what other hosts left or sent.
POLL_SECONDS = 0.25
DEAD_OWNER_CHECK_SECONDS = 0.5
RESULT_DROPPED = "the lease was lost or the work is no longer wanted, so its result is dropped"

P = ParamSpec("P")
T = TypeVar("T")


class Engine:
    """Runs orchestrations, activities and entities of ``functions`` over the store at ``path``.

    ``capacity`` is how many of each are in progress at once at most.
    """

    def __init__(
        self,
        path: Path,
        functions: FunctionTable,
        invoker: Invoker,
        lease_seconds: float,
        capacity: dict[Trigger, int],
    ) -> None:
        self._functions = functions
        self._invoker = invoker
        self._lease_seconds = lease_seconds
        self.store = Store(path, uuid.uuid4().hex, os.getpid(), lease_seconds)
        # SQLite serialises writers anyway, and a commit that waits for another process must not stop the event loop.
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._capacity = dict(capacity)
        self._free_threads = invoker.thread_count

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of the store on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, partial(method, *args, **kwargs))

    def wake(self) -> None:
        """There may be new work: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. What is in progress then is delivered again at the next start."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(self._lease_seconds / 4, self._renew))
                group.create_task(self._keep(DEAD_OWNER_CHECK_SECONDS, self._release_dead_owners))
                group.create_task(self._keep(0, self._dispatch))
        finally:
            for task in self._tasks:
                task.cancel()

    async def _keep(self, seconds: float, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await action()
            except sqlite3.OperationalError as error:
                logger.error("%s (by another host?); trying again", error)
                await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(seconds)

    async def _renew(self) -> None:
        await self.call(self.store.renew_leases)

    async def _release_dead_owners(self) -> None:
        if await self.call(self.store.release_dead_owners):
            self.wake()

    async def _dispatch(self) -> None:
        self._wake.clear()
        work = await self.call(
            self.store.claim,
            self._capacity[Trigger.ORCHESTRATION],
            self._capacity[Trigger.ACTIVITY],
            self._capacity[Trigger.ENTITY],
            # Work that would have to wait for a thread here is better left to another host.
            self._free_threads,
        )
        for orchestration in work.orchestrations:
            self._spawn(Trigger.ORCHESTRATION, orchestration.claim, self._run_episode(orchestration))
        for activity in work.activities:
            self._spawn(Trigger.ACTIVITY, activity.claim, self._run_activity(activity))
        for operation in work.entities:
            self._spawn(Trigger.ENTITY, operation.claim, self._run_operation(operation))
        await self._wait_for_work(work.next_due)

    async def _wait_for_work(self, next_due: float | None) -> None:
        pause = POLL_SECONDS if next_due is None else min(POLL_SECONDS, max(0.0, next_due - time.time()))
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _spawn(self, trigger: Trigger, claim: int, work: Coroutine[Any, Any, None]) -> None:
        self._capacity[trigger] -= 1
        self._free_threads -= 1
        task = asyncio.create_task(self._attempt(trigger, claim, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, trigger: Trigger, claim: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            logger.exception("%s work failed and will be delivered again", trigger)
            await asyncio.sleep(POLL_SECONDS)
            await self.call(self.store.release, claim)
        finally:
            self._capacity[trigger] += 1
            self._free_threads += 1
            self.wake()

    async def _run_episode(self, work: OrchestrationWork) -> None:
        episode = Episode(work, self._functions, work.status, work.progress)
        if episode.deliver():
            await self._replay(episode)
        episode.close()
        if not await self.call(self.store.commit_episode, episode):
            logger.warning("orchestration %s: %s", work.instance_id, RESULT_DROPPED)
        elif episode.status in FINAL_STATUSES:
            outcome = f": {episode.failure[0].splitlines()[0]}" if episode.failure and episode.failure[0] else ""
            logger.info("orchestration %s %s %s%s", work.name, work.instance_id, episode.status, outcome)

    async def _replay(self, episode: Episode) -> None:
        function = self._functions.find(Trigger.ORCHESTRATION, episode.work.name)
        if function is None:
            message = self._functions.missing(Trigger.ORCHESTRATION, episode.work.name)
            episode.fail(LookupError(message), "")
            return
        try:
            result = await self._invoker.invoke(function, episode.context_json())
        except InvocationFailedError as error:
            episode.fail(error, error.stack_trace)
        else:
            episode.apply(json.loads(result))

    async def _run_activity(self, work: ActivityWork) -> None:
        event = await self._invoke_activity(work)
        if not await self.call(self.store.complete_activity, work, event):
            logger.warning("activity %s of %s: %s", work.name, work.instance_id, RESULT_DROPPED)

    async def _invoke_activity(self, work: ActivityWork) -> Event:
        function = self._functions.find(Trigger.ACTIVITY, work.name)
        try:
            if function is None:
                raise LookupError(self._functions.missing(Trigger.ACTIVITY, work.name))
            result = await self._invoker.invoke(function, work.input_json)
        except (InvocationFailedError, LookupError) as error:
            details = getattr(error, "stack_trace", "")
            logger.warning("activity %s of %s failed: %s\n%s", work.name, work.instance_id, error, details)
            reason = f"Activity function '{work.name}' failed: {error}"
            return new_event(EventType.TASK_FAILED, TaskScheduledId=work.task_id, Reason=reason, Details=details)
        return new_event(EventType.TASK_COMPLETED, TaskScheduledId=work.task_id, Result=result)

    async def _run_operation(self, work: EntityWork) -> None:
        name = entity_name(work.entity_id)
        function = self._functions.find(Trigger.ENTITY, name)
        try:
            if function is None:
                raise LookupError(self._functions.missing(Trigger.ENTITY, name))
            result = await self._invoker.invoke(function, batch_json(work))
            outcome = operation_outcome(work, json.loads(result))
        except Exception as error:
            logger.debug("the %s function failed", name, exc_info=error)
            outcome = failed_operation(work, str(error))
        if outcome.error is not None:
            logger.warning("entity %s: %s failed: %s", work.entity_id, work.request["op"], outcome.error)
        committed = await self.call(
            self.store.complete_operation, work, outcome.state_json, outcome.present, outcome.response, outcome.signals
        )
        if not committed:
            logger.warning("entity %s: %s", work.entity_id, RESULT_DROPPED)
