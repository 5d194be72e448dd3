"""Episodes, events and actions as the protocol has them."""

from typing import Any

from devhost.functions import FunctionTable
from devhost.protocol_v1.episode import ActionType, Episode, Message, OrchestrationWork, Progress
from devhost.protocol_v1.history import Event, EventType, execution_started, new_event


def episode(
    functions: FunctionTable, *events: Event, progress: Progress | None = None, status: str = "Running"
) -> Episode:
    work = OrchestrationWork(
        instance_id="run",
        execution_id="execution",
        name="parent",
        input_json='"{}"',
        parent_id=None,
        status=status,
        progress=progress or Progress(),
        past=[],
        messages=[Message(number, event) for number, event in enumerate(events)],
        claim=1,
    )
    return Episode(work, functions, work.status, work.progress)


def started() -> Event:
    return execution_started("parent", "run", "execution", '"{}"', "")


def completed(task_id: int, result: str = "1") -> Event:
    return new_event(EventType.TASK_COMPLETED, TaskScheduledId=task_id, Result=result)


def failed(task_id: int) -> Event:
    return new_event(EventType.TASK_FAILED, TaskScheduledId=task_id, Reason="it failed", Details="")


def fired(task_id: int) -> Event:
    return new_event(EventType.TIMER_FIRED, TimerId=task_id)


def call(name: str = "work", **options: Any) -> dict[str, Any]:
    kind = ActionType.CALL_ACTIVITY_WITH_RETRY if options else ActionType.CALL_ACTIVITY
    return {"actionType": kind, "functionName": name, "input": "1", **({"retryOptions": options} if options else {})}


def timer(*, cancelled: bool = False) -> dict[str, Any]:
    return {"actionType": ActionType.CREATE_TIMER, "fireAt": "2030-01-01T00:00:00.000000Z", "isCanceled": cancelled}


def all_of(*actions: dict[str, Any]) -> dict[str, Any]:
    return {"actionType": ActionType.WHEN_ALL, "compoundActions": list(actions)}


def result(*actions: dict[str, Any], done: bool = False, **fields: Any) -> dict[str, Any]:
    return {"isDone": done, "actions": [list(actions)], **fields}
