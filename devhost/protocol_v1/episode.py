"""Episodes: what one step of an orchestration adds to its history and sends, from the events it received.

An episode delivers received events to the history, has the orchestrator function replay it, and turns the new entries
of the function's cumulative ``actions`` into scheduled work. The function's SDK numbers its tasks on its own, so the
ids given here must follow the same rules (``TaskOrchestrationExecutor.py`` and ``Task.py`` of azure-functions-durable).
"""

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from devhost.functions import FunctionTable, Trigger
from devhost.protocol_v1.history import CONTROL_EVENTS, Event, EventType, encode, isoformat, new_event, parse_time

logger = logging.getLogger(__name__)

FAILURE_MARKER = "$OutOfProcData$:"

FINAL_STATUSES = ("Completed", "Failed", "Terminated")


class ActionType(IntEnum):
    """The ``AsyncActionType`` of OutOfProcOrchestrationShim.cs."""

    CALL_ACTIVITY = 0
    CALL_ACTIVITY_WITH_RETRY = 1
    CALL_SUB_ORCHESTRATOR = 2
    CALL_SUB_ORCHESTRATOR_WITH_RETRY = 3
    CONTINUE_AS_NEW = 4
    CREATE_TIMER = 5
    WAIT_FOR_EXTERNAL_EVENT = 6
    CALL_ENTITY = 7
    CALL_HTTP = 8
    SIGNAL_ENTITY = 9
    WHEN_ANY = 11
    WHEN_ALL = 12


class OrchestrationError(Exception):
    """The orchestration ends as failed. ``details`` is for the reader of the status, such as a stack trace."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


@dataclass(frozen=True)
class Message:
    """A received event. ``id`` orders messages by arrival."""

    id: int
    event: Event

    @property
    def type(self) -> EventType:
        return EventType(self.event["EventType"])


@dataclass(frozen=True)
class SubOrchestration:
    task_id: int
    instance_id: str
    name: str
    input_json: str
    version: str


@dataclass
class Progress:
    """What an instance carries from one episode to the next beside its history; stored as JSON.

    ``tasks`` are the open tasks by id: ``{"kind", "name", "input", "retry"?, "attempt"?, "since"?, "leaf"?, ...}``.
    ``leaf`` is the place of a timer's action among the leaves of ``actions``, by which a later cancellation finds it.
    ``waits`` are the names of the events waited for, an entity's answer being an event named by the call's id;
    ``calls`` are these ids, and whether it is answered.
    ``end`` is how the orchestrator function ended, kept while tasks are open.
    """

    next_id: int = 0
    leaves: int = 0
    waits: list[str] = field(default_factory=list)
    calls: dict[str, bool] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    end: dict[str, Any] | None = None


@dataclass(frozen=True)
class OrchestrationWork:
    """A claimed instance and the events it received. ``past`` is its history, one JSON text per event."""

    instance_id: str
    execution_id: str
    name: str
    input_json: str | None
    parent_id: str | None
    status: str
    progress: Progress
    past: list[str]
    messages: list[Message]
    claim: int


@dataclass
class Episode:
    """One step of an instance: what it adds to the history, sends, and makes of the instance.

    A timer is a task id and the seconds since the epoch it is due; ``failure`` is a reason and its details.
    """

    work: OrchestrationWork
    functions: FunctionTable
    status: str
    progress: Progress

    history: list[Event] = field(default_factory=list)
    consumed: list[int] = field(default_factory=list)
    activities: list[tuple[int, str, str]] = field(default_factory=list)
    timers: list[tuple[int, float]] = field(default_factory=list)
    cancelled_timers: list[int] = field(default_factory=list)
    sub_orchestrations: list[SubOrchestration] = field(default_factory=list)
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    output_json: str | None = None
    failure: tuple[str, str] | None = None
    custom_status_json: str | None = None
    next_input_json: str | None = None

    def deliver(self) -> bool:
        """Add what can be added in one step; whether the orchestrator function has to run.

        Control events come first: they also reach a suspended instance. The rest waits while it is suspended.
        """
        self._add(EventType.ORCHESTRATOR_STARTED)
        for message in self.work.messages:
            if message.type in CONTROL_EVENTS and self.status not in FINAL_STATUSES:
                self.consumed.append(message.id)
                self._control(message.event)
        if self.status in (*FINAL_STATUSES, "Suspended"):
            return False
        rest = [message for message in self.work.messages if message.type not in CONTROL_EVENTS]
        rest.sort(key=lambda message: (message.type is not EventType.EXECUTION_STARTED, message.id))
        delivered = False
        for message in rest:
            alone = self._is_alone(message)
            if alone and delivered:
                break
            self.consumed.append(message.id)
            delivered = self._complete(message.event) or delivered
            if alone:
                break
        return delivered and self.progress.end is None

    def context_json(self) -> str:
        """The trigger's payload (OrchestrationTriggerAttributeBindingProvider.cs).

        The lengths of long timers are left out, as for the backends that have no limit on a timer.
        """
        history = ",".join([*self.work.past, *(encode(event, played=False) for event in self.history)])
        rest = {
            "input": json.loads(self.work.input_json) if self.work.input_json is not None else None,
            "instanceId": self.work.instance_id,
            "isReplaying": bool(self.work.past),
            "parentInstanceId": self.work.parent_id,
            "upperSchemaVersion": 1,
            "upperSchemaVersionNew": 2,
        }
        return f'{{"history":[{history}],{json.dumps(rest)[1:]}'

    def apply(self, result: dict[str, Any]) -> None:
        """Schedule what is new in the function's result, and end if it ended."""
        try:
            self._apply(result)
        except OrchestrationError as failed:
            self._end(failure=(f"Orchestrator function '{self.work.name}' failed: {failed}", failed.details))

    def fail(self, error: BaseException, details: str) -> None:
        """The function raised. The SDK puts its state, with the error, behind a marker in the message."""
        message, marker, state = str(error).partition(FAILURE_MARKER)
        if marker:
            self.apply({**json.loads(state), "details": details})
        else:
            self.apply({"actions": [[]], "error": message, "details": details, "isDone": True})

    def fail_at_once(self, reason: str) -> None:
        """The function did not come back, so nothing is known of the tasks it waits for, and none keeps it running.

        ``TaskOrchestrationExecutor`` of DurableTask.Core takes the history's tasks for a program that has changed.
        """
        self.progress.tasks.clear()
        self._end(failure=(f"Orchestrator function '{self.work.name}' failed: {reason}", ""))

    def close(self) -> None:
        """End the step, and the instance if its function ended and no task is open.

        An open activity, sub-orchestration or timer keeps an instance running after its function ended, as
        ``TaskOrchestrationExecutor`` of DurableTask.Core waits until it has no open tasks.
        """
        end = self.progress.end
        if end is not None and not self.progress.tasks and self.status not in FINAL_STATUSES:
            self._finish(end)
        self._add(EventType.ORCHESTRATOR_COMPLETED)

    def _add(self, kind: EventType, event_id: int = -1, **fields: Any) -> None:
        self.history.append(new_event(kind, event_id, **fields))

    def _control(self, event: Event) -> None:
        self.history.append(event)
        match EventType(event["EventType"]):
            case EventType.EXECUTION_SUSPENDED:
                self.status = "Suspended"
            case EventType.EXECUTION_RESUMED:
                self.status = "Running"
            case _:
                self.status = "Terminated"
                self.output_json = json.dumps(event["Input"])
                self.failure = (event["Input"] or "", "")

    def _is_alone(self, message: Message) -> bool:
        """Whether the event needs a step of its own.

        An event of a task with retry does: the SDK numbers the timer or the next attempt while it handles that event,
        before what the orchestrator schedules next. So does an external event: a following one would be lost when the
        orchestrator continues as new after it.
        """
        if message.type is EventType.EVENT_RAISED:
            return True
        task = self.progress.tasks.get(str(message.event.get("TaskScheduledId", message.event.get("TimerId"))))
        return task is not None and "retry" in task

    def _complete(self, event: Event) -> bool:
        kind = EventType(event["EventType"])
        if kind is EventType.EVENT_RAISED and self._is_answered(event["Name"]):
            return False
        if kind in (EventType.EXECUTION_STARTED, EventType.EVENT_RAISED):
            self.status = "Running"
            self.history.append(event)
            return True
        task = self.progress.tasks.pop(str(event.get("TaskScheduledId", event.get("TimerId"))), None)
        if task is None:
            return False
        self.history.append(event)
        if kind in (EventType.TASK_FAILED, EventType.SUB_ORCHESTRATION_FAILED):
            self._schedule_retry_timer(task)
        elif kind is EventType.TIMER_FIRED and "retry" in task:
            self._retry(task)
        return True

    def _is_answered(self, name: str) -> bool:
        """Whether the event is a second answer of a call, of which only the first counts; notes a first one."""
        answered = self.progress.calls.get(name, False)
        if name in self.progress.calls:
            self.progress.calls[name] = True
        return answered

    def _schedule_retry_timer(self, task: dict[str, Any]) -> None:
        """Wait after every failed attempt, the last included, as DurableTask.Core's RetryInterceptor does."""
        retry = task.get("retry")
        now = time.time()
        if retry is None or now >= task["since"] + retry.get("retryTimeoutInMilliseconds", float("inf")) / 1000:
            return
        delay = retry["firstRetryIntervalInMilliseconds"] * retry.get("backoffCoefficient", 1) ** (task["attempt"] - 1)
        delay = min(delay, retry.get("maxRetryIntervalInMilliseconds", float("inf")))
        self._create_timer(now + delay / 1000, task)

    def _retry(self, task: dict[str, Any]) -> None:
        if task["attempt"] < task["retry"]["maxNumberOfAttempts"]:
            self._start_task({**task, "attempt": task["attempt"] + 1})

    def _create_timer(self, due: float, task: dict[str, Any]) -> None:
        task_id = self._next_id()
        self._add(EventType.TIMER_CREATED, task_id, FireAt=isoformat(due))
        self.progress.tasks[str(task_id)] = task
        self.timers.append((task_id, due))

    def _next_id(self) -> int:
        self.progress.next_id += 1
        return self.progress.next_id - 1

    def _apply(self, result: dict[str, Any]) -> None:
        if result.get("customStatus") is not None:
            self.custom_status_json = json.dumps(result["customStatus"])
        actions = [action for group in result["actions"] for action in _leaves(group)]
        for leaf, action in enumerate(actions):
            if leaf >= self.progress.leaves:
                self._schedule(leaf, action)
            if action["actionType"] == ActionType.CREATE_TIMER and action["isCanceled"]:
                self._cancel_timer(leaf)
        self.progress.leaves = len(actions)
        if result.get("error"):
            raise OrchestrationError(result["error"], result.get("details", ""))
        if result["isDone"] and self.progress.end is None:
            self._end(output=result.get("output"))

    def _schedule(self, leaf: int, action: dict[str, Any]) -> None:
        match action["actionType"]:
            case ActionType.CALL_ACTIVITY | ActionType.CALL_ACTIVITY_WITH_RETRY:
                self._require(Trigger.ACTIVITY, action["functionName"])
                self._start_task(self._task("activity", action))
            case ActionType.CALL_SUB_ORCHESTRATOR | ActionType.CALL_SUB_ORCHESTRATOR_WITH_RETRY:
                self._require(Trigger.ORCHESTRATION, action["functionName"])
                task = self._task("sub_orchestration", action)
                self._start_task({**task, "instance": action.get("instanceId"), "version": action.get("version") or ""})
            case ActionType.CREATE_TIMER:
                self._create_timer(parse_time(action["fireAt"]), {"kind": "timer", "leaf": leaf})
            case ActionType.CALL_ENTITY:
                self._send_operation(action, signal=False)
            case ActionType.SIGNAL_ENTITY:
                self._send_operation(action, signal=True)
            case ActionType.CONTINUE_AS_NEW:
                self.progress.end = {"status": "ContinuedAsNew", "input": json.dumps(action["input"])}
            case ActionType.WAIT_FOR_EXTERNAL_EVENT:
                self.progress.waits.append(action["externalEventName"])
            case other:
                known = {kind.value: kind.name for kind in ActionType}
                raise OrchestrationError(f"this host does not implement the action {known.get(other, other)}")

    def _require(self, trigger: Trigger, name: str) -> None:
        if self.functions.find(trigger, name) is None:
            raise OrchestrationError(self.functions.missing(trigger, name))

    def _task(self, kind: str, action: dict[str, Any]) -> dict[str, Any]:
        task = {"kind": kind, "name": action["functionName"], "input": action["input"]}
        if "retryOptions" in action:
            task |= {"retry": action["retryOptions"], "attempt": 1, "since": time.time()}
        return task

    def _start_task(self, task: dict[str, Any]) -> None:
        task_id = self._next_id()
        self.progress.tasks[str(task_id)] = task
        # The payload is itself a string of JSON text to the host, which encodes it once more in what it stores.
        encoded = json.dumps(task["input"])
        if task["kind"] == "activity":
            self._add(EventType.TASK_SCHEDULED, task_id, Name=task["name"], Version="", Input=f"[{encoded}]")
            self.activities.append((task_id, task["name"], task["input"]))
            return
        child_id = task["instance"] or f"{self.work.execution_id}:{task_id:04x}"
        self._add(
            EventType.SUB_ORCHESTRATION_CREATED,
            task_id,
            Name=task["name"],
            InstanceId=child_id,
            Version=task["version"],
            Input=encoded,
        )
        self.sub_orchestrations.append(SubOrchestration(task_id, child_id, task["name"], encoded, task["version"]))

    def _send_operation(self, action: dict[str, Any], *, signal: bool) -> None:
        entity_id = action["instanceId"]
        self._require(Trigger.ENTITY, entity_id.split("@")[1])
        request = {
            "op": action["operation"],
            "signal": signal,
            "input": json.dumps(action["input"]),
            "id": str(uuid.uuid4()),
            "parent": self.work.instance_id,
            "parentExecution": self.work.execution_id,
        }
        self._add(EventType.EVENT_SENT, self._next_id(), InstanceId=entity_id, Name="op", Input=json.dumps(request))
        if not signal:
            self.progress.waits.append(request["id"])
            self.progress.calls[request["id"]] = False
        self.operations.append((entity_id, request))

    def _cancel_timer(self, leaf: int) -> None:
        for task_id, task in list(self.progress.tasks.items()):
            if task.get("leaf") == leaf:
                del self.progress.tasks[task_id]
                self.timers = [timer for timer in self.timers if timer[0] != int(task_id)]
                self.cancelled_timers.append(int(task_id))

    def _end(self, output: Any = None, failure: tuple[str, str] | None = None) -> None:
        if failure:
            self.progress.end = {"status": "Failed", "failure": failure}
        else:
            self.progress.end = {"status": "Completed", "output": json.dumps(output)}

    def _finish(self, end: dict[str, Any]) -> None:
        self.status = end["status"]
        if self.status == "ContinuedAsNew":
            self.next_input_json = end["input"]
            self._warn_of_lost_events()
        elif self.status == "Failed":
            self.failure = (end["failure"][0], end["failure"][1])
            self.output_json = json.dumps(self.failure[0])
            self._add(EventType.EXECUTION_COMPLETED, OrchestrationStatus="Failed", Result=self.failure[0])
        else:
            self.output_json = end["output"]
            self._add(EventType.EXECUTION_COMPLETED, OrchestrationStatus="Completed", Result=self.output_json)

    def _warn_of_lost_events(self) -> None:
        """The extension keeps delivered events over a continue-as-new only for .NET (``preserveUnprocessedEvents``)."""
        events = [*map(json.loads, self.work.past), *self.history]
        raised = [event["Name"] for event in events if event["EventType"] == EventType.EVENT_RAISED]
        lost = Counter(raised) - Counter(self.progress.waits)
        for name in lost:
            logger.warning("%s continued as new without waiting for event %s: it is lost", self.work.instance_id, name)


def _leaves(actions: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The actions without the ``WhenAll``/``WhenAny`` around them, in the order the SDK numbers their tasks in."""
    for action in actions:
        if action["actionType"] in (ActionType.WHEN_ANY, ActionType.WHEN_ALL):
            yield from _leaves(action["compoundActions"])
        else:
            yield action
