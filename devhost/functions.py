"""The functions of an app as the host knows them, and how it has the worker invoke them."""

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from devhost.rpc import FunctionMetadata, InvocationRequest, RpcHttp, TypedData
from devhost.schedules import next_time
from devhost.worker import Worker, thread_count


class Trigger(StrEnum):
    """The triggers this host implements, by their binding type."""

    HTTP = "httpTrigger"
    ORCHESTRATION = "orchestrationTrigger"
    ACTIVITY = "activityTrigger"
    ENTITY = "entityTrigger"
    TIMER = "timerTrigger"


NAME_PROPERTIES = {
    Trigger.ORCHESTRATION: "orchestration",
    Trigger.ACTIVITY: "activity",
    Trigger.ENTITY: "entityName",
}


class UnsupportedFunctionError(Exception):
    """A function needs what this host does not implement. The message names both."""


@dataclass(frozen=True)
class Function:
    """A loaded function. ``name`` is what callers use: the trigger's own name when it gives one."""

    name: str
    trigger: Trigger
    function_id: str
    trigger_parameter: str
    client_parameters: tuple[str, ...] = ()
    route: str = ""
    methods: tuple[str, ...] = ()
    anonymous: bool = True
    schedule: str = ""
    run_on_startup: bool = False


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
            Trigger.TIMER: "timer",
        }[trigger]
        known = ", ".join(f"'{function.name}'" for function in self.all if function.trigger is trigger)
        info = f"the known {noun} functions are {known}" if known else f"no {noun} functions are known"
        return (
            f"The function '{name}' doesn't exist, is disabled, or is not an {noun} function. Additional info: {info}."
        )


def read_functions(indexed: Iterable[FunctionMetadata]) -> FunctionTable:
    """The functions that the worker announces.

    Raises:
        UnsupportedFunctionError: this host cannot serve one of them.
    """
    return FunctionTable([_read(metadata) for metadata in indexed])


def _read(metadata: FunctionMetadata) -> Function:
    bindings = [json.loads(binding) for binding in metadata.raw_bindings]
    trigger = next(binding for binding in bindings if binding["type"].lower().endswith("trigger"))
    kind = _trigger_kind(metadata.name, trigger["type"])
    return Function(
        name=trigger.get(NAME_PROPERTIES.get(kind)) or metadata.name,
        trigger=kind,
        function_id=metadata.function_id,
        trigger_parameter=trigger["name"],
        client_parameters=tuple(_client_parameters(metadata.name, bindings, trigger)),
        route=(trigger.get("route") or metadata.name).strip("/"),
        methods=tuple(method.upper() for method in trigger.get("methods") or ()),
        anonymous=trigger.get("authLevel", "anonymous").lower() == "anonymous",
        schedule=_schedule(metadata.name, trigger) if kind is Trigger.TIMER else "",
        run_on_startup=bool(trigger.get("runOnStartup")),
    )


def _schedule(name: str, trigger: dict[str, Any]) -> str:
    schedule = str(trigger["schedule"])
    try:
        next_time(schedule, time.time())
    except ValueError as error:
        raise UnsupportedFunctionError(f"cannot serve the {name} function: its schedule {error}") from None
    return schedule


def _trigger_kind(name: str, binding_type: str) -> Trigger:
    try:
        return Trigger(binding_type)
    except ValueError:
        known = ", ".join(Trigger)
        raise UnsupportedFunctionError(
            f"cannot serve the {name} function: this host does not implement the trigger {binding_type}; "
            f"it implements {known}"
        ) from None


def _client_parameters(name: str, bindings: list[dict[str, Any]], trigger: dict[str, Any]) -> list[str]:
    clients = []
    for binding in bindings:
        if binding["type"] == "durableClient":
            clients.append(binding["name"])
        elif binding is not trigger and (binding["type"], binding["name"]) != ("http", "$return"):
            raise UnsupportedFunctionError(
                f"cannot serve the {name} function: this host does not implement the binding {binding['type']} "
                f"of {binding['name']}"
            )
    return clients


class Invoker:
    """Has the worker invoke functions with what the host's extensions send.

    ``client_json`` is the payload of durable clients.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.thread_count = thread_count()
        self.client_json = ""

    async def invoke(self, function: Function, payload: str) -> str:
        """Invoke an orchestration, an activity or an entity with the JSON text that is its trigger's value.

        Returns:
            The JSON text that the function returns.

        Raises:
            InvocationFailedError: the function raised.
        """
        returned = await self._invoke(function, TypedData(string=payload), str(uuid.uuid4()))
        return "null" if returned is None else str(returned.value)

    async def invoke_timer(self, function: Function, timer: str) -> None:
        """Invoke a timer function with the JSON text that is its trigger's value.

        Raises:
            InvocationFailedError: the function raised.
        """
        await self._invoke(function, TypedData(json=timer), str(uuid.uuid4()))

    async def invoke_http(
        self, function: Function, request: RpcHttp, invocation_id: str, headers: Mapping[str, str]
    ) -> TypedData | None:
        """Invoke an HTTP function, in the trace that the request's headers name; None where it answers at the worker's
        own server.

        Raises:
            InvocationFailedError: the function raised.
        """
        trace = (headers.get("traceparent", ""), headers.get("tracestate", ""))
        return await self._invoke(function, TypedData(http=request), invocation_id, *trace)

    async def _invoke(self, function: Function, value: TypedData, invocation_id: str, *trace: str) -> TypedData | None:
        clients = dict.fromkeys(function.client_parameters, TypedData(string=self.client_json))
        inputs = {function.trigger_parameter: value, **clients}
        return await self._worker.invoke(InvocationRequest(function.function_id, inputs, invocation_id, *trace))
