"""Classic Durable Functions programs, and HTTP routes that call each method of the durable client on them.

Each program passes a gate in its middle: an activity that waits for a file which the test creates. A test that kills
the host does it there. What really ran is written to a journal outside the host's state.
"""
# mypy: disable-error-code="untyped-decorator"

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azure.durable_functions import DurableOrchestrationClient as Client
from azure.durable_functions import DurableOrchestrationContext as Context
from azurefunctions.extensions.http.fastapi import JSONResponse, Request, Response, StreamingResponse

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
Steps = Generator[Any, Any, Any]

DIRECTORY = Path(os.environ["JOURNAL_DIR"])


def journal(name: str, line: object) -> None:
    with (DIRECTORY / name).open("a") as file:
        file.write(f"{line}\n")


def pass_gate_file(gate: str) -> None:
    journal(f"{gate}.reached", os.getpid())
    while not (DIRECTORY / gate).exists():
        time.sleep(0.01)


# Activities


@app.activity_trigger(input_name="gate")
def pass_gate(gate: str) -> str:
    pass_gate_file(gate)
    return gate


@app.activity_trigger(input_name="city")
def greet(city: str) -> str:
    return f"Hello {city}!"


@app.activity_trigger(input_name="number")
async def square(number: int) -> int:
    return number * number


@app.activity_trigger(input_name="plan")
def fail_first(plan: dict) -> int:  # type: ignore[type-arg]
    """Raise in the first ``failures`` calls of this ``key``; the number of the call that succeeds."""
    journal(plan["key"], time.time())
    call = len((DIRECTORY / plan["key"]).read_text().splitlines())
    if call <= plan["failures"]:
        raise ValueError(f"call {call} fails")
    return call


# Orchestrations


@app.orchestration_trigger(context_name="context")
def chain(context: Context) -> Steps:
    first = yield context.call_activity("greet", "Tokyo")
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    second = yield context.call_activity(greet, "Kyoto")
    context.set_custom_status({"greeted": 2})
    return [first, second]


@app.orchestration_trigger(context_name="context")
def fan_out(context: Context) -> Steps:
    gate = context.call_activity("pass_gate", context.get_input()["gate"])
    squares = [context.call_activity("square", number) for number in range(10)]
    results = yield context.task_all([*squares, gate])
    return sum(results[:10])


@app.orchestration_trigger(context_name="context")
def retries(context: Context) -> Steps:
    """Two activities with retry at once, beside plain ones: their numbering must not get mixed up."""
    options = df.RetryOptions(first_retry_interval_in_milliseconds=20, max_number_of_attempts=4)
    prefix = context.instance_id
    flaky = [
        context.call_activity_with_retry("fail_first", options, {"key": f"{prefix}.{name}", "failures": failures})
        for name, failures in (("a", 2), ("b", 1))
    ]
    results = yield context.task_all([*flaky, context.call_activity("pass_gate", context.get_input()["gate"])])
    last = yield context.call_activity("square", results[0])
    return [*results[:2], last]


@app.orchestration_trigger(context_name="context")
def exhausted_retries(context: Context) -> Steps:
    options = df.RetryOptions(first_retry_interval_in_milliseconds=10, max_number_of_attempts=3)
    plan = {"key": f"{context.instance_id}.calls", "failures": 99}
    try:
        yield context.call_activity_with_retry("fail_first", options, plan)
    except Exception as error:
        caught = "call 3 fails" in str(error)
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    return caught


@app.orchestration_trigger(context_name="context")
def race(context: Context) -> Steps:
    """Work against a timer of ``seconds``; ``forget`` leaves the timer uncancelled when the work wins."""
    plan = context.get_input()
    timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=plan.get("seconds", 3600)))
    work = context.call_activity("pass_gate", plan["gate"])
    winner = yield context.task_any([work, timer])
    if winner is work and not plan.get("forget"):
        timer.cancel()
    return "work" if winner is work else "timer"


@app.orchestration_trigger(context_name="context")
def timers(context: Context) -> Steps:
    start = context.current_utc_datetime
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    yield context.create_timer(context.current_utc_datetime + timedelta(seconds=0.2))
    return (context.current_utc_datetime - start) >= timedelta(seconds=0.2)


@app.orchestration_trigger(context_name="context")
def approval(context: Context) -> Steps:
    """An external event against a timer of ``seconds``."""
    plan = context.get_input()
    yield context.call_activity("pass_gate", plan["gate"])
    timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=plan.get("seconds", 3600)))
    event = context.wait_for_external_event("Approval")
    winner = yield context.task_any([event, timer])
    if winner is timer:
        return "timed out"
    timer.cancel()
    return event.result


@app.orchestration_trigger(context_name="context")
def parent(context: Context) -> Steps:
    child = yield context.call_sub_orchestrator("chain", context.get_input(), f"{context.instance_id}-child")
    total = yield context.call_sub_orchestrator("fan_out", context.get_input())
    return [child, total]


@app.orchestration_trigger(context_name="context")
def flaky_child(context: Context) -> Steps:
    call = yield context.call_activity("fail_first", context.get_input())
    return call


@app.orchestration_trigger(context_name="context")
def parent_with_retry(context: Context) -> Steps:
    options = df.RetryOptions(first_retry_interval_in_milliseconds=10, max_number_of_attempts=3)
    plan = {"key": f"{context.instance_id}.child", "failures": 1}
    call = yield context.call_sub_orchestrator_with_retry("flaky_child", options, plan)
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    return call


@app.orchestration_trigger(context_name="context")
def parent_of_failing(context: Context) -> Steps:
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    try:
        yield context.call_sub_orchestrator("raising", context.get_input())
    except Exception as error:
        return str(error)


@app.orchestration_trigger(context_name="context")
def eternal(context: Context) -> Steps:
    """Count to three, one execution per step."""
    plan = context.get_input()
    count = plan.get("count", 0) + 1
    yield context.call_activity("pass_gate", plan["gate"])
    if count == 3:
        return count
    context.continue_as_new({**plan, "count": count})
    return None


@app.orchestration_trigger(context_name="context")
def collector(context: Context) -> Steps:
    """Collect ``wanted`` events, one per execution."""
    plan = context.get_input()
    event = yield context.wait_for_external_event("Item")
    items = [*plan["items"], event]
    if len(items) == plan["wanted"]:
        return items
    context.continue_as_new({**plan, "items": items})
    return None


@app.orchestration_trigger(context_name="context")
def counting(context: Context) -> Steps:
    counter = df.EntityId("Counter", context.instance_id)
    context.signal_entity(counter, "add", 2)
    before = yield context.call_entity(counter, "add", 3)
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    yield context.call_entity(counter, "add", 4)
    after = yield context.call_entity(counter, "get")
    return [before, after]


@app.orchestration_trigger(context_name="context")
def entity_error(context: Context) -> Steps:
    counter = df.EntityId("Counter", context.instance_id)
    yield context.call_entity(counter, "add", 1)
    try:
        yield context.call_entity(counter, "refuse")
    except Exception as error:
        message = str(error)
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    value = yield context.call_entity(counter, "get")
    return [message, value]


@app.orchestration_trigger(context_name="context")
def locked_counter(context: Context) -> Steps:
    """One slow operation on a counter of its own."""
    value = yield context.call_entity(
        df.EntityId("Counter", context.instance_id), "slow_add", context.get_input()["gate"]
    )
    return value


@app.orchestration_trigger(context_name="context")
def adding(context: Context) -> Steps:
    """Add 1 to the counter ``key`` so many ``times``, with an activity between."""
    plan = context.get_input()
    for number in range(plan["times"]):
        yield context.call_entity(df.EntityId("Counter", plan["key"]), "add", 1)
        yield context.call_activity("square", number)
    return "added"


@app.orchestration_trigger(context_name="context")
def raising(context: Context) -> Steps:
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    raise ValueError("the orchestrator raises")


@app.orchestration_trigger(context_name="context")
def unhandled(context: Context) -> Steps:
    yield context.call_activity("pass_gate", context.get_input()["gate"])
    yield context.call_activity("fail_first", {"key": f"{context.instance_id}.calls", "failures": 99})


@app.orchestration_trigger(context_name="context")
def calls_nothing(context: Context) -> Steps:
    yield context.call_activity("no_such_activity", None)


@app.orchestration_trigger(context_name="context")
def calls_http(context: Context) -> Steps:
    yield context.call_http("GET", "http://127.0.0.1/")


@app.orchestration_trigger(context_name="context")
def replay_flags(context: Context) -> Steps:
    """Journal each step when it is not a replay; each must be journalled once."""
    for step in range(3):
        if not context.is_replaying:
            journal(f"{context.instance_id}.steps", step)
        yield context.call_activity("square", step)
    return "stepped"


# Entities


@app.entity_trigger(context_name="context", entity_name="Counter")
def counter(context: df.DurableEntityContext) -> None:
    value = context.get_state(lambda: 0)
    match context.operation_name:
        case "add":
            value += context.get_input()
        case "slow_add":
            pass_gate_file(context.get_input())
            value += 1
        case "refuse":
            raise ValueError("the counter refuses")
        case "delete":
            context.destruct_on_exit()
            return
    context.set_state(value)
    context.set_result(value)


# One route for each method of the client


@app.route(trigger_arg_name="request", route="start/{name}/{instance_id?}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(request: Request, client: Client) -> Response:
    body = await request.body()
    try:
        instance_id = await client.start_new(
            request.path_params["name"], request.path_params.get("instance_id"), json.loads(body) if body else None
        )
    except Exception as error:
        return JSONResponse({"error": str(error)}, status_code=409)
    return JSONResponse(
        {"id": instance_id, "urls": client.create_http_management_payload(instance_id)}, status_code=202
    )


@app.route(trigger_arg_name="request", route="status/{instance_id}", methods=["GET"])
@app.durable_client_input(client_name="client")
async def status(request: Request, client: Client) -> Response:
    history = "history" in request.query_params
    found = await client.get_status(
        request.path_params["instance_id"], show_history=history, show_history_output=history
    )
    payload = found.to_json() if found else None
    return JSONResponse({**payload, "historyEvents": getattr(found, "historyEvents", None)} if payload else None)


@app.route(trigger_arg_name="request", route="find", methods=["GET"])
@app.durable_client_input(client_name="client")
async def find(request: Request, client: Client) -> Response:
    prefix = request.query_params.get("prefix")
    if prefix is None:
        found = await client.get_status_all()
    else:
        found = await client.get_status_by(
            created_time_from=datetime(2020, 1, 1, tzinfo=UTC),
            created_time_to=datetime.now(UTC) + timedelta(minutes=1),
            runtime_status=[df.OrchestrationRuntimeStatus(request.query_params["status"])],
            instance_id_prefix=prefix,
        )
    return JSONResponse([instance.instance_id for instance in found])


@app.route(trigger_arg_name="request", route="control/{method}/{instance_id}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def control(request: Request, client: Client) -> Response:
    """``terminate``, ``suspend``, ``resume``, ``rewind``, ``restart`` or ``purge`` an instance."""
    method, instance_id = request.path_params["method"], request.path_params["instance_id"]
    try:
        if method == "purge":
            result = (await client.purge_instance_history(instance_id)).instances_deleted
        elif method == "restart":
            result = await client.restart(instance_id, restart_with_new_instance_id="new" in request.query_params)
        else:
            result = await getattr(client, method)(instance_id, "the test asks")
    except Exception as error:
        return JSONResponse({"error": str(error)}, status_code=409)
    return JSONResponse(result)


@app.route(trigger_arg_name="request", route="purge", methods=["POST"])
@app.durable_client_input(client_name="client")
async def purge(request: Request, client: Client) -> Response:
    """Purge what has ended in the status."""
    result = await client.purge_instance_history_by(
        created_time_from=datetime(2020, 1, 1, tzinfo=UTC),
        runtime_status=[df.OrchestrationRuntimeStatus(request.query_params["status"])],
    )
    return JSONResponse(result.instances_deleted)


@app.route(trigger_arg_name="request", route="raise/{instance_id}/{event}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def raise_event(request: Request, client: Client) -> Response:
    try:
        await client.raise_event(
            request.path_params["instance_id"], request.path_params["event"], json.loads(await request.body())
        )
    except Exception as error:
        return JSONResponse({"error": str(error)}, status_code=409)
    return Response(status_code=202)


@app.route(trigger_arg_name="request", route="counter/{key}", methods=["GET", "POST"])
@app.durable_client_input(client_name="client")
async def counter_state(request: Request, client: Client) -> Response:
    entity = df.EntityId("Counter", request.path_params["key"])
    if request.method == "POST":
        await client.signal_entity(entity, request.query_params["op"], json.loads(await request.body() or b"null"))
        return Response(status_code=202)
    state = await client.read_entity_state(entity)
    return JSONResponse({"exists": state.entity_exists, "state": state.entity_state})


# Plain HTTP


@app.route(trigger_arg_name="request", route="stream", methods=["GET"])
async def stream(request: Request) -> StreamingResponse:
    async def numbers() -> AsyncIterator[str]:
        number = 0
        try:
            while True:
                yield f"{number}\n"
                number += 1
                await asyncio.sleep(0.01)
        finally:
            journal("stream", "closed")

    return StreamingResponse(numbers(), media_type="text/plain")


@app.route(trigger_arg_name="request", route="broken", methods=["GET"])
async def broken(request: Request) -> Response:
    raise RuntimeError("the handler is broken")


@app.route(trigger_arg_name="request", route="stream/{word}", methods=["GET"])
async def word(request: Request) -> Response:
    return JSONResponse(request.path_params["word"])
