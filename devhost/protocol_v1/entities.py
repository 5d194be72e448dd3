"""One entity operation: the batch of one that the function gets, and what its result means (TaskEntityShim.cs)."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from devhost.store.work import EntityWork


@dataclass(frozen=True)
class OperationOutcome:
    """What an operation changes and sends. ``response`` is the JSON text its caller's ``EventRaised`` carries."""

    state_json: str | None
    present: bool
    response: str
    signals: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    error: str | None = None


def entity_name(entity_id: str) -> str:
    """The name in ``@name@key``."""
    return entity_id.split("@", 2)[1]


def signal_request(operation: str, input_json: str | None, sender: str | None = None) -> dict[str, Any]:
    """A signal as it is queued. ``input_json`` is the operation's input as JSON text."""
    return {"op": operation, "signal": True, "input": input_json, "id": str(uuid.uuid4()), "parent": sender}


def batch_json(work: EntityWork) -> str:
    """The trigger's payload: the entity as it is, and its oldest operation."""
    _, name, key = work.entity_id.split("@", 2)
    operation = {
        "name": work.request["op"],
        "input": work.request["input"],
        "isSignal": bool(work.request.get("signal")),
    }
    return json.dumps(
        {
            "self": {"name": name, "key": key},
            "exists": work.present,
            "state": work.state_json,
            "batch": [operation],
        }
    )


def operation_outcome(work: EntityWork, result: dict[str, Any]) -> OperationOutcome:
    """Read the function's result for the batch of one."""
    operation = result["results"][0]
    present = bool(result["entityExists"])
    return OperationOutcome(
        state_json=result["entityState"] if present else None,
        present=present,
        response=_response(operation["result"], failed=operation["isError"]),
        signals=[_signal(work, signal) for signal in result.get("signals", [])],
        error=operation["result"] if operation["isError"] else None,
    )


def failed_operation(work: EntityWork, message: str) -> OperationOutcome:
    """The function ran out of time: the state stays and the caller gets an error, whose text is not JSON for once."""
    return OperationOutcome(work.state_json, work.present, _response(message, failed=True), error=message)


def _response(result_json: str, *, failed: bool) -> str:
    return json.dumps({"result": result_json, **({"exceptionType": "Error"} if failed else {})})


def _signal(work: EntityWork, signal: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    target = signal["target"]
    return f"@{target['name'].lower()}@{target['key']}", signal_request(signal["name"], signal["input"], work.entity_id)
