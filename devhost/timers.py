"""Timer triggers: each is invoked when its schedule is due, once at a time among all hosts of a state directory.

As ``TimerListener.cs`` of ``Azure/azure-webjobs-sdk-extensions`` does it: the schedule's status is durable, so a time
that was missed while no host ran is made up for once, at the next start; times that pass during an invocation are not.
"""

import asyncio
import json
import logging
import sqlite3
import time
from typing import Any

from devhost.engine import Engine
from devhost.functions import Function, FunctionTable, Invoker, Trigger
from devhost.protocol_v1.history import isoformat
from devhost.schedules import next_time
from devhost.store.work import TimerWork
from devhost.worker import InvocationFailedError

logger = logging.getLogger(__name__)

# Another host's end is noticed by then, and whatever changed the clock.
POLL_SECONDS = 0.25
# What .NET tells of a time that never was.
NEVER = "0001-01-01T00:00:00+00:00"


class Timers:
    """Invokes the timer functions among ``functions`` over the store of ``engine``."""

    def __init__(self, engine: Engine, functions: FunctionTable, invoker: Invoker) -> None:
        self._engine = engine
        self._functions = [function for function in functions.all if function.trigger is Trigger.TIMER]
        self._invoker = invoker
        self._began = time.time()

    async def run(self) -> None:
        """Work until cancelled. An invocation in progress then is made again at the next start."""
        async with asyncio.TaskGroup() as group:
            for function in self._functions:
                group.create_task(self._keep(function))

    async def _keep(self, function: Function) -> None:
        is_set = False
        while True:
            pause = POLL_SECONDS
            try:
                if not is_set:
                    await self._set(function)
                    is_set = True
                pause = await self._look(function)
            except sqlite3.OperationalError as error:
                logger.error("the durable state: %s; trying again", error)
            await asyncio.sleep(pause)

    async def _set(self, function: Function) -> None:
        now = time.time()
        due, at_once = next_time(function.schedule, now), now if function.run_on_startup else None
        await self._engine.call(self._engine.store.set_timer, function.name, function.schedule, due, at_once)

    async def _look(self, function: Function) -> float:
        """Invoke the function if it is due, and return for how many seconds it cannot be due again."""
        work, due = await self._engine.call(self._engine.store.claim_timer, function.name)
        if work is None:
            left = due - time.time()
            # One that is due is in the hands of another host.
            return min(POLL_SECONDS, left) if left > 0 else POLL_SECONDS
        began = time.time()
        await self._invoke(function, work)
        due = next_time(function.schedule, time.time())
        if not await self._engine.call(self._engine.store.complete_timer, work, began, due):
            logger.warning("timer %s: the lease was lost, so another host may have invoked it, too", function.name)
        return 0.0

    async def _invoke(self, function: Function, work: TimerWork) -> None:
        try:
            with self._engine.timeout.watch(function.name):
                await self._invoker.invoke_timer(function, json.dumps(_payload(work, self._began)))
        except InvocationFailedError as error:
            logger.warning("timer %s failed: %s\n%s", function.name, error, error.stack_trace)


def _payload(work: TimerWork, began: float) -> dict[str, Any]:
    last = NEVER if work.last is None else isoformat(work.last)
    return {
        "Schedule": {"AdjustForDST": True},
        "ScheduleStatus": {"Last": last, "LastUpdated": last, "Next": isoformat(work.due)},
        "IsPastDue": work.due < began,
    }
