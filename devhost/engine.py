"""The durable engine: claims ready work from the store, runs it, commits what comes out."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from devhost.faults import Fault, Faults
from devhost.function_timeout import FunctionTimeout
from devhost.functions import Function, FunctionTable, Invoker, Trigger
from devhost.protocol_v1.entities import OperationOutcome, batch_json, entity_name, failed_operation, operation_outcome
from devhost.protocol_v1.episode import FINAL_STATUSES, Episode, OrchestrationWork
from devhost.protocol_v1.history import Event, EventType, new_event
from devhost.store import Store
from devhost.store.work import ActivityWork, EntityWork
from devhost.worker import InvocationFailedError

logger = logging.getLogger(__name__)

# Work of this process is announced at once; polling only finds what other hosts left or sent.
POLL_SECONDS = 0.25
DEAD_OWNER_CHECK_SECONDS = 0.5
PURGE_SECONDS = 60
# Others wait for the write lock while these are deleted.
PURGE_BATCH = 100
RESULT_DROPPED = "the lease was lost or the work is no longer wanted, so its result is dropped"
COMMIT_REFUSED = "the state was changed by another execution, so this one's is not committed, whatever it has sent"

P = ParamSpec("P")
T = TypeVar("T")
Invoked = Episode | ActivityWork | EntityWork


@dataclass(frozen=True)
class Limits:
    """How many ``steps``, of orchestrations and entities together, and ``activities`` are in progress at once at most.

    Entities share the limit of orchestrations, as they do for every SDK that speaks the older protocol
    (``SetUseSeparateQueueForEntityWorkItems`` of DurableTaskExtension.cs).
    ``function_timeout`` is the seconds a function may run, None being for ever; ``retention`` those for which an
    instance that has ended is kept.
    """

    steps: int
    activities: int
    function_timeout: float | None
    retention: float


class Engine:
    """Runs orchestrations, activities and entities of ``functions`` over the store at ``path``.

    ``restart`` replaces this process by a new one of the same command, so that nothing in it gets to end well.

    Raises:
        StateError: the store cannot be used.
    """

    def __init__(
        self,
        path: Path,
        functions: FunctionTable,
        invoker: Invoker,
        lease_seconds: float,
        limits: Limits,
        restart: Callable[[], None],
    ) -> None:
        self._functions = functions
        self._invoker = invoker
        self._lease_seconds = lease_seconds
        self.store = Store(path, uuid.uuid4().hex, os.getpid(), lease_seconds)
        # SQLite serialises writers anyway, and a commit that waits for another process must not stop the event loop.
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._free_steps = limits.steps
        self._free_activities = limits.activities
        self._retention = limits.retention
        self._restart = restart
        self.faults = Faults()
        self.timeout = FunctionTimeout(limits.function_timeout, self._timed_out)
        # By the number of their invocation.
        self._invoked: dict[int, Invoked] = {}
        self._worker_is_dead = False

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
                group.create_task(self._keep(PURGE_SECONDS, self._purge))
                group.create_task(self._keep(0, self._dispatch))
        finally:
            for task in self._tasks:
                task.cancel()

    async def _keep(self, seconds: float, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await action()
            except sqlite3.OperationalError as error:
                logger.error("the durable state: %s; trying again", error)
                await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(seconds)

    async def _renew(self) -> None:
        await self.call(self.store.renew_leases)

    async def _release_dead_owners(self) -> None:
        if await self.call(self.store.release_dead_owners):
            self.wake()

    async def _purge(self) -> None:
        while await self.call(self.store.purge_ended, time.time() - self._retention, PURGE_BATCH):
            pass

    async def _dispatch(self) -> None:
        self._wake.clear()
        work = await self.call(self.store.claim, self._free_steps, self._free_activities)
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
        self._occupy(trigger, 1)
        task = asyncio.create_task(self._attempt(trigger, claim, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _occupy(self, trigger: Trigger, slots: int) -> None:
        if trigger is Trigger.ACTIVITY:
            self._free_activities -= slots
        else:
            self._free_steps -= slots

    async def _attempt(self, trigger: Trigger, claim: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            logger.exception("%s work failed and will be delivered again", trigger)
            await asyncio.sleep(POLL_SECONDS)
            await self._release(claim)
        finally:
            self._occupy(trigger, -1)
            self.wake()

    async def _release(self, claim: int) -> None:
        """Give a claim up, for however long the disk refuses it: else it would be held as long as this host lives."""
        while True:
            try:
                await self.call(self.store.release, claim)
            except sqlite3.OperationalError as error:
                logger.error("work cannot be given up: %s; trying again", error)
                await asyncio.sleep(POLL_SECONDS)
            else:
                return

    @asynccontextmanager
    async def _invoking(self, function: Function, work: Invoked, instance_id: str) -> AsyncIterator[None]:
        with self.timeout.watch(f"{function.name} {instance_id}") as number:
            self._invoked[number] = work
            try:
                yield
            finally:
                del self._invoked[number]
                if self._worker_is_dead:
                    # What came too late to be the worker's result must not change what is recorded of it.
                    await asyncio.Event().wait()

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
            async with self._invoking(function, episode, episode.work.instance_id):
                if self.faults.strikes(Fault.DIE_IN_STEP, episode.work.instance_id):
                    await self.die("the worker process died, as ordered")
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
            async with self._invoking(function, work, work.instance_id):
                result = await self._invoker.invoke(function, work.input_json)
        except (InvocationFailedError, LookupError) as error:
            details = getattr(error, "stack_trace", "")
            logger.warning("activity %s of %s failed: %s\n%s", work.name, work.instance_id, error, details)
            return _activity_failed(work, str(error), details)
        return new_event(EventType.TASK_COMPLETED, TaskScheduledId=work.task_id, Result=result)

    async def _run_operation(self, work: EntityWork) -> None:
        try:
            outcome = await self._execute_operation(work)
        except Exception:
            # As TaskEntityShim.cs does: nothing is sent, and the operation's message is delivered again.
            logger.exception(
                "entity %s: the function failed in %s, to be executed again", work.entity_id, work.request["op"]
            )
            await self.call(self.store.abandon_operation, work)
        else:
            await self._complete_operation(work, outcome)

    async def _execute_operation(self, work: EntityWork) -> OperationOutcome:
        name = entity_name(work.entity_id)
        function = self._functions.find(Trigger.ENTITY, name)
        if function is None:
            # Senders look, too; so it was there when the operation was sent, and may come back with the next start.
            raise LookupError(self._functions.missing(Trigger.ENTITY, name))
        async with self._invoking(function, work, work.entity_id):
            if self.faults.strikes(Fault.OVERLAP, work.entity_id):
                await self._overlap(work)
            result = await self._invoker.invoke(function, batch_json(work))
        return operation_outcome(work, json.loads(result))

    async def _complete_operation(self, work: EntityWork, outcome: OperationOutcome) -> None:
        if outcome.error is not None:
            logger.warning("entity %s: %s failed: %s", work.entity_id, work.request["op"], outcome.error)
        await self.call(self.store.send_outcome, work, outcome.response, outcome.signals)
        self.wake()
        if self.faults.strikes(Fault.CRASH_AFTER_RESPONSE, work.entity_id):
            os.kill(os.getpid(), signal.SIGKILL)
        refused = self.faults.strikes(Fault.REFUSE_COMMIT, work.entity_id)
        if refused or not await self.call(self.store.commit_state, work, outcome.state_json, outcome.present):
            logger.warning("entity %s: %s", work.entity_id, COMMIT_REFUSED)
            await self.call(self.store.abandon_operation, work)
            return
        if self.faults.strikes(Fault.CRASH_AFTER_COMMIT, work.entity_id):
            os.kill(os.getpid(), signal.SIGKILL)
        if not work.deduplicated:
            await self.call(self.store.remove_operation, work)

    # The worker's end

    def _timed_out(self, number: int, name: str) -> None:
        task = asyncio.create_task(self.die(f"{name} ran for longer than functionTimeout", number))
        self._tasks.add(task)

    async def die(self, reason: str, timed_out: int | None = None) -> None:
        """End the worker and restart, having recorded what becomes of its invocations."""
        self._worker_is_dead = True
        print(f"The worker restarts, and everything in it ends: {reason}.", flush=True)
        try:
            for number, work in list(self._invoked.items()):
                await self._record_death(work, reason, is_cause=number == timed_out)
            await self.call(self.store.leave)
        except sqlite3.Error:
            logger.exception("not every end is recorded: what is not will be delivered again when its lease is over")
        finally:
            self._restart()

    async def _record_death(self, work: Invoked, reason: str, *, is_cause: bool) -> None:
        """What becomes of an invocation whose worker is gone, ``is_cause`` telling the one that exceeded its time.

        A step fails its orchestration for good (TaskOrchestrationShim.cs), but is delivered again when it was the cause
        (``OrchestrationMiddleware`` of DurableTaskExtension.cs). An activity fails (TaskActivityShim.cs). An entity's
        operation is executed again, but answers when it was the cause, with an error that is not JSON
        (TaskEntityShim.cs).
        """
        match work:
            case Episode():
                if not is_cause:
                    work.fail_at_once(reason)
                    work.close()
                    await self.call(self.store.commit_episode, work)
            case ActivityWork():
                await self.call(self.store.complete_activity, work, _activity_failed(work, reason))
            case EntityWork():
                if is_cause:
                    await self._complete_operation(work, failed_operation(work, reason))
                else:
                    await self.call(self.store.abandon_operation, work)

    # Faults that a test orders

    async def order(self, fault: Fault, match: str, skip: int = 0) -> Callable[[], Awaitable[None]] | None:
        """Let a fault happen, once; None when there is nothing it could happen to.

        ``match`` is a part of the name of what it is to happen to: a function's, with the entity or instance. What is
        returned is to be done when the order is answered, since it may end this process.
        """
        match fault:
            case Fault.WORKER_DEATH:
                return partial(self.die, "the worker process died, as ordered")
            case Fault.FUNCTION_TIMEOUT:
                found = self.timeout.find(match)
                return found and partial(self.die, f"{found[1]} ran for longer than functionTimeout", found[0])
            case Fault.OVERLAP:
                for work in reversed(self._invoked.values()):
                    if isinstance(work, EntityWork) and match in work.entity_id and await self._overlap(work):
                        return _nothing
        self.faults.order(fault, match, skip)
        return _nothing

    async def _overlap(self, work: EntityWork) -> bool:
        again = await self.call(self.store.claim_again, work)
        if again is None:
            return False
        logger.warning("entity %s: %s is executed twice at once, as ordered", work.entity_id, work.request["op"])
        self._spawn(Trigger.ENTITY, again.claim, self._run_operation(again))
        return True


async def _nothing() -> None:
    """The order is carried out already."""


def _activity_failed(work: ActivityWork, reason: str, details: str = "") -> Event:
    text = f"Activity function '{work.name}' failed: {reason}"
    return new_event(EventType.TASK_FAILED, TaskScheduledId=work.task_id, Reason=text, Details=details)
