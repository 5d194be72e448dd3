"""The functions of an app and how they are invoked: sync ones on threads, async ones on the event loop."""

import asyncio
import functools
import inspect
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Trigger(StrEnum):
    """The triggers this host implements, by their binding type."""

    HTTP = "httpTrigger"
    ORCHESTRATION = "orchestrationTrigger"
    ACTIVITY = "activityTrigger"
    ENTITY = "entityTrigger"


@dataclass(frozen=True)
class Function:
    """A loaded function. ``name`` is what callers use: the trigger's own name when it gives one."""

    name: str
    trigger: Trigger
    handler: Callable[..., Any]
    trigger_parameter: str
    client_parameters: tuple[str, ...] = ()
    takes_context: bool = False
    classic_request: bool = False
    route: str = ""
    methods: tuple[str, ...] = ()
    anonymous: bool = True


@dataclass(frozen=True)
class InvocationContext:
    """What the worker passes as ``context`` (the attributes of ``azure.functions.Context``)."""

    invocation_id: str
    function_name: str
    function_directory: str
    trace_context: None = None
    retry_context: None = None
    thread_local_storage: threading.local = field(default_factory=threading.local)


class FunctionTable:
    """Functions by trigger and name. Entity names match without case, as ``EntityId`` lower-cases them."""

    def __init__(self, functions: list[Function]) -> None:
        self.all = functions
        self._by_name = {
            (function.trigger, self._key(function.trigger, function.name)): function for function in functions
        }

    @staticmethod
    def _key(trigger: Trigger, name: str) -> str:
        return name.lower() if trigger is Trigger.ENTITY else name

    def find(self, trigger: Trigger, name: str) -> Function | None:
        return self._by_name.get((trigger, self._key(trigger, name)))

    def missing(self, trigger: Trigger, name: str) -> str:
        """The message for a name that is not there, worded like ``DurableTaskExtension.GetInvalid*FunctionMessage``."""
        noun = {
            Trigger.ORCHESTRATION: "orchestrator",
            Trigger.ACTIVITY: "activity",
            Trigger.ENTITY: "entity",
            Trigger.HTTP: "HTTP",
        }[trigger]
        known = ", ".join(f"'{function.name}'" for function in self.all if function.trigger is trigger)
        info = f"the known {noun} functions are {known}" if known else f"no {noun} functions are known"
        return (
            f"The function '{name}' doesn't exist, is disabled, or is not an {noun} function. Additional info: {info}."
        )


class Invoker:
    """Calls handlers as the Python worker does; ``thread_count`` threads run the sync ones."""

    def __init__(self, directory: Path) -> None:
        configured = os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT")
        self.thread_count = int(configured) if configured else min(32, (os.cpu_count() or 1) + 4)
        self._threads = ThreadPoolExecutor(self.thread_count, thread_name_prefix="function")
        self._directory = str(directory)
        # What a durableClient binding is bound to, in functions of every trigger.
        self.client_json = ""

    async def invoke(self, function: Function, arguments: dict[str, Any]) -> Any:
        """Run the handler and return what it returns.

        Raises:
            Exception: whatever the handler raises.
        """
        arguments |= dict.fromkeys(function.client_parameters, self.client_json)
        if function.takes_context:
            arguments["context"] = InvocationContext(str(uuid.uuid4()), function.name, self._directory)
        if inspect.iscoroutinefunction(function.handler):
            return await function.handler(**arguments)
        call = functools.partial(function.handler, **arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
