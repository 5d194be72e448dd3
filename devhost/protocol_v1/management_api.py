"""The durable management API that ``DurableOrchestrationClient`` calls, with HttpApiHandler.cs's codes and bodies."""

import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devhost.engine import Engine
from devhost.faults import Fault
from devhost.functions import FunctionTable, Trigger
from devhost.protocol_v1.entities import signal_request
from devhost.protocol_v1.episode import FINAL_STATUSES
from devhost.protocol_v1.history import Event, EventType, isoformat, new_event, parse_time
from devhost.store.instances import InstanceExistsError

logger = logging.getLogger(__name__)

WEBHOOK_PATH = "/runtime/webhooks/durabletask"
RPC_PATH = "/durabletask"
# The literal the SDK replaces by the instance id in the management URLs.
INSTANCE_PLACEHOLDER = "INSTANCEID"
MAX_INSTANCE_ID_LENGTH = 100
# OrchestrationStatusQueryCondition.cs; another number may be asked for as ``top``.
PAGE_INSTANCES = 100
CONTINUATION_HEADER = "x-ms-continuation-token"
FORBIDDEN_IN_INSTANCE_ID = frozenset("/\\?#")


class ManagementApi:
    """The routes of the API, for any number of mount points. ``base_url`` is the origin of the app's own routes."""

    def __init__(self, engine: Engine, functions: FunctionTable, hub_name: str, base_url: str) -> None:
        self._engine = engine
        self._functions = functions
        self._hub_name = hub_name
        self._webhook = f"{base_url}{WEBHOOK_PATH}"

    def routes(self, prefix: str) -> list[Route]:
        instance = f"{prefix}/instances/{{instance_id}}"
        faults = [Route(f"{prefix}/faults/{{fault}}", self._order_fault, methods=["POST"])]
        return [
            *(faults if self._engine.faults.enabled else []),
            Route(f"{prefix}/orchestrators/{{name}}", self._start, methods=["POST"]),
            Route(f"{prefix}/orchestrators/{{name}}/{{instance_id}}", self._start, methods=["POST"]),
            Route(f"{prefix}/instances/", self._list, methods=["GET"]),
            Route(f"{prefix}/instances", self._list, methods=["GET"]),
            Route(f"{prefix}/instances/", self._purge_matching, methods=["DELETE"]),
            Route(f"{prefix}/instances", self._purge_matching, methods=["DELETE"]),
            Route(instance, self._status, methods=["GET"]),
            Route(instance, self._purge, methods=["DELETE"]),
            Route(f"{instance}/raiseEvent/{{event_name}}", self._raise_event, methods=["POST"]),
            Route(f"{instance}/terminate", self._control(EventType.EXECUTION_TERMINATED), methods=["POST"]),
            Route(f"{instance}/suspend", self._control(EventType.EXECUTION_SUSPENDED), methods=["POST"]),
            Route(f"{instance}/resume", self._control(EventType.EXECUTION_RESUMED), methods=["POST"]),
            Route(f"{instance}/restart", self._restart, methods=["POST"]),
            Route(f"{instance}/rewind", self._rewind, methods=["POST"]),
            Route(f"{prefix}/entities/{{name}}/{{key}}", self._read_entity, methods=["GET"]),
            Route(f"{prefix}/entities/{{name}}/{{key}}", self._signal_entity, methods=["POST"]),
        ]

    def client_json(self, rpc_url: str) -> str:
        """The payload of a durableClient binding. ``rpc_url`` is the origin the SDK is to call."""
        return json.dumps(
            {
                "taskHubName": self._hub_name,
                "creationUrls": {
                    "createNewInstancePostUri": f"{self._webhook}/orchestrators/{{functionName}}[/{{instanceId}}]",
                },
                "managementUrls": self._management_urls(INSTANCE_PLACEHOLDER),
                "baseUrl": self._webhook,
                "requiredQueryStringParameters": "",
                "rpcBaseUrl": f"{rpc_url}{RPC_PATH}/",
            }
        )

    def _management_urls(self, instance_id: str) -> dict[str, str]:
        instance = f"{self._webhook}/instances/{quote(instance_id, safe='')}"
        hub = f"taskHub={quote(self._hub_name)}&connection=Storage"
        return {
            "id": instance_id,
            "statusQueryGetUri": f"{instance}?{hub}",
            "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{hub}",
            "terminatePostUri": f"{instance}/terminate?reason={{text}}&{hub}",
            "rewindPostUri": f"{instance}/rewind?reason={{text}}&{hub}",
            "purgeHistoryDeleteUri": f"{instance}?{hub}",
            "restartPostUri": f"{instance}/restart?{hub}",
            "suspendPostUri": f"{instance}/suspend?reason={{text}}&{hub}",
            "resumePostUri": f"{instance}/resume?reason={{text}}&{hub}",
        }

    def _check_status(self, instance_id: str) -> Response:
        urls = self._management_urls(instance_id)
        headers = {"Location": urls["statusQueryGetUri"], "Retry-After": "10"}
        return JSONResponse(urls, HTTPStatus.ACCEPTED, headers=headers)

    async def _start(self, request: Request) -> Response:
        instance_id = request.path_params.get("instance_id") or uuid.uuid4().hex
        body = await request.body()
        if body:
            try:
                json.loads(body)
            except ValueError as error:
                return _error(HTTPStatus.BAD_REQUEST, "Invalid JSON content", str(error))
        version = request.query_params.get("version", "")
        input_json = body.decode() if body else None
        return await self._start_instance(request.path_params["name"], instance_id, input_json, version)

    async def _start_instance(self, name: str, instance_id: str, input_json: str | None, version: str) -> Response:
        wrong = self._wrong_start(name, instance_id)
        if wrong:
            return _error(HTTPStatus.BAD_REQUEST, "One or more of the arguments submitted is incorrect", wrong)
        try:
            await self._engine.call(self._engine.store.start_instance, name, instance_id, input_json, version)
        except InstanceExistsError as error:
            message = "Something went wrong while processing your request"
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, message, str(error))
        self._engine.wake()
        return self._check_status(instance_id)

    def _wrong_start(self, name: str, instance_id: str) -> str | None:
        if self._functions.find(Trigger.ORCHESTRATION, name) is None:
            return self._functions.missing(Trigger.ORCHESTRATION, name)
        if instance_id.startswith("@"):
            return "Orchestration instance ids must not start with @."
        if any(character in FORBIDDEN_IN_INSTANCE_ID or ord(character) < 32 for character in instance_id):
            return "Orchestration instance ids must not contain /, \\, #, ?, or control characters."
        if len(instance_id) > MAX_INSTANCE_ID_LENGTH:
            return f"Instance ID lengths must not exceed {MAX_INSTANCE_ID_LENGTH} characters."
        return None

    async def _restart(self, request: Request) -> Response:
        row = await self._read(request)
        if row is None:
            message = "InstanceId does not match a valid orchestration instance."
            return _error(
                HTTPStatus.BAD_REQUEST, message, f"An orchestration with the instanceId {_id(request)} was not found."
            )
        same = request.query_params.get("restartWithNewInstanceId", "true").lower() == "false"
        instance_id = row["id"] if same else uuid.uuid4().hex
        return await self._start_instance(row["name"], instance_id, row["input"], row["version"])

    async def _status(self, request: Request) -> Response:
        row = await self._read(request)
        if row is None:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        payload = _status_payload(row, show_input=_flag(request, "showInput", default=True))
        if _flag(request, "showHistory"):
            events = await self._engine.call(self._engine.store.read_history, row["id"])
            payload["historyEvents"] = _history_payload(events, show_output=_flag(request, "showHistoryOutput"))
        if row["status"] in FINAL_STATUSES:
            failed = row["status"] == "Failed" and _flag(request, "returnInternalServerErrorOnFailure")
            return JSONResponse(payload, HTTPStatus.INTERNAL_SERVER_ERROR if failed else HTTPStatus.OK)
        headers = {"Location": str(request.url), "Retry-After": "5"}
        return JSONResponse(payload, HTTPStatus.ACCEPTED, headers=headers)

    async def _list(self, request: Request) -> Response:
        limit = int(request.query_params.get("top", PAGE_INSTANCES))
        # One more, to see whether there is another page.
        rows = await self._find(request, request.headers.get(CONTINUATION_HEADER, ""), limit + 1)
        show_input = _flag(request, "showInput", default=True)
        headers = {CONTINUATION_HEADER: rows[limit - 1]["id"]} if len(rows) > limit else {}
        return JSONResponse([_status_payload(row, show_input=show_input) for row in rows[:limit]], headers=headers)

    async def _find(self, request: Request, after: str = "", limit: int = -1) -> list[dict[str, Any]]:
        statuses = request.query_params.get("runtimeStatus")
        return await self._engine.call(
            self._engine.store.find_instances,
            _time(request, "createdTimeFrom"),
            _time(request, "createdTimeTo"),
            statuses.split(",") if statuses else None,
            request.query_params.get("instanceIdPrefix", ""),
            after=after,
            limit=limit,
        )

    async def _purge(self, request: Request) -> Response:
        if await self._read(request) is None:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        purged = await self._engine.call(self._engine.store.purge, [_id(request)])
        return JSONResponse({"instancesDeleted": purged})

    async def _purge_matching(self, request: Request) -> Response:
        if _time(request, "createdTimeFrom") is None:
            return JSONResponse("Please provide value for 'createdTimeFrom' parameter.", HTTPStatus.BAD_REQUEST)
        rows = await self._find(request)
        ended = [row["id"] for row in rows if row["status"] in FINAL_STATUSES]
        purged = await self._engine.call(self._engine.store.purge, ended)
        if not purged:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        return JSONResponse({"instancesDeleted": purged})

    async def _raise_event(self, request: Request) -> Response:
        gone = await self._gone(request)
        if gone:
            return gone
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            message = "Only application/json request content is supported"
            return JSONResponse({"Message": message}, HTTPStatus.BAD_REQUEST)
        body = (await request.body()).decode()
        try:
            json.loads(body)
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, "Invalid JSON content", str(error))
        event = new_event(EventType.EVENT_RAISED, Name=request.path_params["event_name"], Input=body)
        return await self._send(request, event)

    def _control(self, kind: EventType) -> Callable[[Request], Awaitable[Response]]:
        async def control(request: Request) -> Response:
            reason = request.query_params.get("reason", "")
            return await self._gone(request) or await self._send(request, new_event(kind, Input=reason))

        return control

    async def _gone(self, request: Request) -> Response | None:
        """The answer for an instance that never was or has ended; None for one that still takes events."""
        row = await self._read(request)
        if row is None:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        return Response(status_code=HTTPStatus.GONE) if row["status"] in FINAL_STATUSES else None

    async def _send(self, request: Request, event: Event) -> Response:
        sent = await self._engine.call(self._engine.store.raise_event, _id(request), event)
        self._engine.wake()
        return Response(status_code=HTTPStatus.ACCEPTED if sent else HTTPStatus.GONE)

    async def _rewind(self, request: Request) -> Response:
        row = await self._read(request)
        if row is None:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        if row["status"] in ("Completed", "Terminated"):
            return Response(status_code=HTTPStatus.GONE)
        return JSONResponse("devhost does not implement rewind", HTTPStatus.NOT_IMPLEMENTED)

    async def _read_entity(self, request: Request) -> Response:
        state = await self._engine.call(self._engine.store.read_entity, _entity_id(request))
        if state is None:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        return Response(state, media_type="application/json")

    async def _signal_entity(self, request: Request) -> Response:
        name = request.path_params["name"]
        if self._functions.find(Trigger.ENTITY, name) is None:
            return JSONResponse({"Message": self._functions.missing(Trigger.ENTITY, name)}, HTTPStatus.BAD_REQUEST)
        body = await request.body()
        input_json = body.decode() if body else None
        if input_json is not None and "json" not in request.headers.get("content-type", ""):
            input_json = json.dumps(input_json)
        signal = signal_request(request.query_params.get("op", ""), input_json)
        await self._engine.call(self._engine.store.signal_entity, _entity_id(request), signal)
        self._engine.wake()
        return Response(status_code=HTTPStatus.ACCEPTED)

    async def _order_fault(self, request: Request) -> Response:
        try:
            fault = Fault(request.path_params["fault"])
        except ValueError:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        rest = await self._engine.order(
            fault, request.query_params.get("match", ""), int(request.query_params.get("skip", "0"))
        )
        if rest is None:
            return Response(status_code=HTTPStatus.CONFLICT)
        return Response(status_code=HTTPStatus.ACCEPTED, background=BackgroundTask(rest))

    async def _read(self, request: Request) -> dict[str, Any] | None:
        return await self._engine.call(self._engine.store.read_instance, _id(request))


def _id(request: Request) -> str:
    instance_id: str = request.path_params["instance_id"]
    return instance_id


def _entity_id(request: Request) -> str:
    return f"@{request.path_params['name'].lower()}@{request.path_params['key']}"


def _flag(request: Request, name: str, *, default: bool = False) -> bool:
    text = request.query_params.get(name, "").lower()
    return text == "true" if text in ("true", "false") else default


def _time(request: Request, name: str) -> float | None:
    try:
        return parse_time(request.query_params.get(name, ""))
    except ValueError:
        return None


def _error(status: HTTPStatus, message: str, detail: str) -> Response:
    return JSONResponse({"Message": message, "ExceptionMessage": detail}, status)


def _decode(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _status_payload(row: dict[str, Any], *, show_input: bool) -> dict[str, Any]:
    return {
        "name": row["name"],
        "instanceId": row["id"],
        "runtimeStatus": row["status"],
        "input": _decode(row["input"]) if show_input else None,
        "customStatus": _decode(row["custom_status"]),
        "output": _decode(row["output"]),
        "createdTime": isoformat(row["created"])[:19] + "Z",
        "lastUpdatedTime": isoformat(row["updated"])[:19] + "Z",
    }


def _history_payload(events: list[Event], *, show_output: bool) -> list[dict[str, Any]]:
    """The history for people: scheduling is folded into completion (DurableClient.cs, GetStatusAsync)."""
    names = {event["EventId"]: event for event in events if event["EventId"] >= 0}
    payload = []
    for event in events:
        kind = EventType(event["EventType"])
        if kind in (EventType.ORCHESTRATOR_STARTED, EventType.ORCHESTRATOR_COMPLETED, EventType.TASK_SCHEDULED):
            continue
        entry = {key: value for key, value in event.items() if key not in ("EventId", "IsPlayed")}
        entry["EventType"] = EVENT_NAMES.get(kind, kind.name.title().replace("_", ""))
        scheduled = names.get(event.get("TaskScheduledId", -1))
        if scheduled:
            entry |= {"FunctionName": scheduled["Name"], "ScheduledTime": scheduled["Timestamp"]}
        if kind is EventType.EXECUTION_STARTED:
            entry["FunctionName"] = entry.pop("Name")
        if not show_output:
            entry.pop("Result", None)
        payload.append(entry)
    return payload


# The names that are not the constant in camel case.
EVENT_NAMES = {
    EventType.SUB_ORCHESTRATION_CREATED: "SubOrchestrationInstanceCreated",
    EventType.SUB_ORCHESTRATION_COMPLETED: "SubOrchestrationInstanceCompleted",
    EventType.SUB_ORCHESTRATION_FAILED: "SubOrchestrationInstanceFailed",
}
