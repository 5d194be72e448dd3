"""History events: what an orchestration is replayed from, in the JSON shape ``azure-functions-durable`` reads."""

import json
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

Event = dict[str, Any]


class EventType(IntEnum):
    """``DurableTask.Core.History.EventType``, the integers of ``HistoryEventType`` in the SDK."""

    EXECUTION_STARTED = 0
    EXECUTION_COMPLETED = 1
    EXECUTION_FAILED = 2
    EXECUTION_TERMINATED = 3
    TASK_SCHEDULED = 4
    TASK_COMPLETED = 5
    TASK_FAILED = 6
    SUB_ORCHESTRATION_CREATED = 7
    SUB_ORCHESTRATION_COMPLETED = 8
    SUB_ORCHESTRATION_FAILED = 9
    TIMER_CREATED = 10
    TIMER_FIRED = 11
    ORCHESTRATOR_STARTED = 12
    ORCHESTRATOR_COMPLETED = 13
    EVENT_SENT = 14
    EVENT_RAISED = 15
    EXECUTION_SUSPENDED = 19
    EXECUTION_RESUMED = 20


# These steer an instance from outside, so they are handled even while it is suspended.
CONTROL_EVENTS = frozenset({EventType.EXECUTION_TERMINATED, EventType.EXECUTION_SUSPENDED, EventType.EXECUTION_RESUMED})


def new_event(kind: EventType, event_id: int = -1, **fields: Any) -> Event:
    """An event of now. ``event_id`` is the id of the task it schedules; every other event has -1."""
    return {"EventType": int(kind), "EventId": event_id, "IsPlayed": False, "Timestamp": isoformat(), **fields}


def execution_started(name: str, instance_id: str, execution_id: str, input_json: str | None, version: str) -> Event:
    """The second event of every history. ``input_json`` is the input as JSON text."""
    return new_event(
        EventType.EXECUTION_STARTED,
        Name=name,
        Input=input_json,
        Version=version,
        OrchestrationInstance={"InstanceId": instance_id, "ExecutionId": execution_id},
    )


def encode(event: Event, *, played: bool) -> str:
    return json.dumps({**event, "IsPlayed": played})


def isoformat(timestamp: float | None = None) -> str:
    """UTC in the format of the protocol; of now, or of seconds since the epoch."""
    moment = datetime.now(UTC) if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time; one without an offset is UTC.

    Raises:
        ValueError: the text is not such a time.
    """
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
