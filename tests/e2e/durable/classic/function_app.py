"""An app whose HTTP functions have the classic types, which no app may mix with FastAPI's."""
# mypy: disable-error-code="untyped-decorator"

import json
from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.orchestration_trigger(context_name="context")
def echo(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """Return the input's ``value``, after the event that ``after`` names where it names one."""
    plan = context.get_input()
    if "after" in plan:
        yield context.wait_for_external_event(plan["after"])
    return plan["value"]


@app.route(route="wait/{instance_id}", methods=["GET"])
@app.durable_client_input(client_name="client")
async def wait(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    answer: func.HttpResponse = await client.wait_for_completion_or_create_check_status_response(
        req, req.route_params["instance_id"], int(req.params["milliseconds"]), 20
    )
    return answer


@app.route(route="text/{word}")
def text(req: func.HttpRequest, context: func.Context) -> str:
    return f"{req.method} {req.route_params['word']} {req.get_body().decode()} {context.function_name}"


@app.route(route="made")
async def made(req: func.HttpRequest) -> func.HttpResponse:
    headers = {"X-Query": json.dumps(dict(req.params)), "Set-Cookie": "name=value; Path=/made; HttpOnly; SameSite=Lax"}
    return func.HttpResponse(b"\x00\xff", status_code=418, headers=headers, mimetype="application/octet-stream")


@app.route(route="broken")
def broken(req: func.HttpRequest) -> str:
    raise RuntimeError("the handler is broken")


@app.route(route="nothing")
def nothing(req: func.HttpRequest) -> str:
    return None  # type: ignore[return-value]
