"""An entity whose every execution a test can hold, fail and tell from the others, and what calls it.

A gate is a file that the test creates; what really ran is written to journals beside them.
"""
# mypy: disable-error-code="untyped-decorator"

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azure.durable_functions import DurableOrchestrationContext as Context
from azure.durable_functions.decorators.metadata import EntityTrigger
from azurefunctions.extensions.http.fastapi import Request, StreamingResponse

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
Steps = Generator[Any, Any, Any]

DIRECTORY = Path(os.environ["JOURNAL_DIR"])


def journal(name: str, line: object) -> int:
    """Write a line, and return how many there are."""
    with (DIRECTORY / name).open("a") as file:
        file.write(f"{line}\n")
    return len((DIRECTORY / name).read_text().splitlines())


def pass_gate(gate: str) -> None:
    """Wait at a gate, on a thread."""
    journal(f"{gate}.reached", "")
    while not (DIRECTORY / gate).exists():
        time.sleep(0.02)


@app._configure_function_builder
def entity_function(builder: Any) -> Any:
    """Register the function as it is: the SDK's own decorator takes no coroutine function, and lets nothing raise."""
    builder.add_trigger(trigger=EntityTrigger(name="operation", entity_name="scribe"))
    return builder


@entity_function
async def scribe(operation: func.EntityContext) -> str:
    """Append the number of this execution to the state, as the SDK's own entities would answer it.

    ``failures`` executions raise; ``blocks`` of them block the event loop for ever; one with a ``gate`` waits for
    ``<gate>.<number>``; ``signal`` names another scribe to which an operation is sent.
    """
    batch = json.loads(operation.body)
    request, key = batch["batch"][0], batch["self"]["key"]
    plan = json.loads(request["input"])
    plan = json.loads(plan) if isinstance(plan, str) else plan
    number = journal(f"{key}.began", batch["state"])
    journal(f"{key}.times", time.monotonic())
    if number <= plan.get("failures", 0):
        raise RuntimeError(f"execution {number} fails")
    while number <= plan.get("blocks", 0):
        time.sleep(1)  # noqa: ASYNC251 - that is the point
    while "gate" in plan and not (DIRECTORY / f"{plan['gate']}.{number}").exists():  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.02)
    journal("order", f"{key} ended")
    target = {"name": "scribe", "key": plan.get("signal")}
    return json.dumps(
        {
            "entityExists": True,
            "entityState": json.dumps([*json.loads(batch["state"] or "[]"), number]),
            "results": [{"isError": False, "duration": 0, "result": json.dumps(number)}],
            "signals": [{"target": target, "name": "write", "input": "{}"}] if plan.get("signal") else [],
        }
    )


@app.activity_trigger(input_name="gate")
def hold(gate: str) -> str:
    pass_gate(gate)
    return gate


@app.orchestration_trigger(context_name="context")
def dictate(context: Context) -> Steps:
    """Let the scribe ``key`` write; ``then`` names an event to wait for afterwards."""
    plan = context.get_input()
    number = yield context.call_entity(df.EntityId("scribe", plan["key"]), "write", plan)
    if plan.get("then"):
        yield context.wait_for_external_event(plan["then"])
    return number


@app.orchestration_trigger(context_name="context")
def act(context: Context) -> Steps:
    """Hold an activity; its answer, or how it failed."""
    try:
        gate = yield context.call_activity("hold", context.get_input()["gate"])
    except Exception as error:
        return str(error)
    return gate


@app.orchestration_trigger(context_name="context")
def note(context: Context) -> Steps:
    journal("order", context.instance_id)
    yield context.call_activity("hold", context.get_input()["gate"])


@app.orchestration_trigger(context_name="context")
def hold_step(context: Context) -> Steps:
    """After an event, hold the orchestrator function itself, with a timer still open."""
    timer = context.create_timer(context.current_utc_datetime + timedelta(hours=1))
    yield context.task_any([context.wait_for_external_event("go"), timer])
    pass_gate(context.get_input()["gate"])
    timer.cancel()
    return "came through"


@app.route(trigger_arg_name="request", route="stream", methods=["GET"])
async def stream(request: Request) -> StreamingResponse:
    async def numbers() -> AsyncIterator[str]:
        for number in range(500):
            yield f"{number}\n"
            await asyncio.sleep(0.02)

    return StreamingResponse(numbers(), media_type="text/plain")
