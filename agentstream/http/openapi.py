"""The description of the HTTP API (https://spec.openapis.org/oas/v3.1.1), made from the types that it answers with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from agentstream.http.bodies import (
    ID_PATTERN,
    IDEMPOTENCY_KEY_PATTERN,
    Accepted,
    Answered,
    ChatBody,
    ConnectBody,
    Conversation,
    Conversations,
    Health,
    Problem,
    RunAgentBody,
    RunBody,
)
from agentstream.http.problems import PROBLEM_MEDIA_TYPE
from agentstream.http.requests import INCLUDES
from agentstream.runs.handles import RunView
from agentstream.wire import plain, sse

JSON = "application/json"
ABOUT = (
    "Runs of agents as durable functions, streamed live. On Azure, all but health, this description and the page need "
    "a function key (`x-functions-key`, or `code` in the query), or a signed-in user, as the app is configured."
)
# The models that are told of, and whether their JSON is sent by the client.
MODELS: Mapping[type[BaseModel], bool] = {
    RunBody: True,
    RunAgentBody: True,
    ConnectBody: True,
    ChatBody: True,
    Accepted: False,
    Answered: False,
    RunView: False,
    Conversation: False,
    Conversations: False,
    Health: False,
    Problem: False,
}
RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Where to follow, or to resume."}}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does.

    Args:
        summary: One sentence.
        responses: What it answers, by status.
        problems: The statuses of its problems; 500 and 503 are everywhere.
        parameters: What it takes beside its path.
        body: What it takes as a body, by media type.
    """

    summary: str
    responses: Mapping[HTTPStatus, Json]
    problems: Sequence[HTTPStatus] = ()
    parameters: Sequence[Json] = ()
    body: Mapping[str, Json] | None = None


def describe(routes: Mapping[tuple[str, str], str], agents: Sequence[str], prefix: str) -> Json:
    """Return the description of these routes.

    Args:
        routes: The operation's id of each method and route, such as ``("GET", "health")``.
        agents: The names of the agents.
        prefix: What the paths of all routes begin with.
    """
    modes: list[Any] = [(model, "validation" if sent else "serialization") for model, sent in MODELS.items()]
    _, definitions = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    paths: dict[str, Json] = {}
    for (method, route), name in routes.items():
        operation = OPERATIONS[method, route]
        paths.setdefault(f"/{route}", {})[method.lower()] = _operation(operation, route, name, agents)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Durable agent streaming", "version": "1", "description": ABOUT},
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-functions-key"},
                "code": {"type": "apiKey", "in": "query", "name": "code"},
            },
        },
    }


def _operation(operation: Operation, route: str, name: str, agents: Sequence[str]) -> Json:
    problems = {*operation.problems, *EVERYWHERE}
    responses = {status: _problem(status) for status in sorted(problems)} | dict(operation.responses)
    described: Json = {
        "operationId": name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(route, agents), *operation.parameters],
        "responses": {str(int(status)): response for status, response in sorted(responses.items())},
    }
    if operation.body is not None:
        content = {media_type: {"schema": schema} for media_type, schema in operation.body.items()}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _path_parameters(route: str, agents: Sequence[str]) -> list[Json]:
    names = [segment.strip("{}") for segment in route.split("/") if segment.startswith("{")]
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"enum": list(agents)} if name == "agent_name" else ID,
        }
        for name in names
    ]


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _answer(description: str, content: Mapping[str, Json] | None = None, headers: Json | None = None) -> Json:
    answer: Json = {"description": description}
    if content is not None:
        answer["content"] = {media_type: {"schema": schema} for media_type, schema in content.items()}
    return answer | ({"headers": headers} if headers else {})


def _problem(status: HTTPStatus) -> Json:
    headers = RETRY_AFTER if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return _answer(status.phrase, {PROBLEM_MEDIA_TYPE: _reference(Problem)}, headers)


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "header", "schema": schema, "description": description}


# Nobody is signed in where users do; something went wrong inside; a part is out of reach.
EVERYWHERE = (HTTPStatus.UNAUTHORIZED, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
TEXT: Json = {"type": "string"}
ID: Json = {"type": "string", "pattern": ID_PATTERN}
# An empty one is none.
CURSOR: Json = {"type": "string", "pattern": r"^([0-9]{1,19}-[0-9]{1,19})?$"}
FRAME_ID: Json = {"type": "string", "pattern": r"^([0-9]{1,19}-[0-9]{1,19}(\.[0-9]{1,9})?)?$"}
BOOLEAN: Json = {"enum": ["true", "false", "1", "0", "yes", "no"]}
INCLUDE: Json = {"type": "string", "pattern": r"^((NAME)(,(NAME))*)?$".replace("NAME", "|".join(INCLUDES))}
# Of a stream the description tells what one event is: the fields of section 9.2.6 of WHATWG HTML.
STREAM: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string"},
        "retry": {"type": "integer"},
    },
}
IDEMPOTENCY_KEY: Json = {"type": "string", "pattern": IDEMPOTENCY_KEY_PATTERN}
CORRELATION_ID = _query("correlation_id", ID, "Only this run.")
EVENTS = _answer("The events as they come, until the run ends.", {sse.MEDIA_TYPE: STREAM}, LOCATION)
NOTHING = _answer("There is nothing to read, and nothing will come.")
REFUSED_BODY = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "agents/{agent_name}/run"): Operation(
        "Start a run.",
        {
            HTTPStatus.OK: _answer(
                "The answer, where wait_for_response is true.", {JSON: _reference(Answered), plain.MEDIA_TYPE: TEXT}
            ),
            HTTPStatus.ACCEPTED: _answer("The run is accepted.", {JSON: _reference(Accepted)}, LOCATION),
        },
        (*REFUSED_BODY, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT),
        (
            _header("Idempotency-Key", IDEMPOTENCY_KEY, "The same key is the same run."),
            _header("x-ms-wait-for-response", BOOLEAN, "Whether to answer with the answer itself."),
            _query("wait_for_response", BOOLEAN, "The same, after the header and before the body."),
        ),
        {JSON: _reference(RunBody), plain.MEDIA_TYPE: {"type": "string", "pattern": r"\S"}},
    ),
    ("GET", "agent/stream/{conversation_id}"): Operation(
        "Follow or replay a conversation's stream.",
        {
            HTTPStatus.OK: _answer(
                "The events as they come, or the bare text.", {sse.MEDIA_TYPE: STREAM, plain.MEDIA_TYPE: TEXT}
            ),
            HTTPStatus.NO_CONTENT: NOTHING,
        },
        (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
        (
            _query("cursor", CURSOR, "Only what came after this event."),
            _header("Last-Event-ID", CURSOR, "The same, and before it."),
            CORRELATION_ID,
            _query("follow", BOOLEAN, "Whether to wait for what comes; true without it."),
            _query("include", INCLUDE, "Which further events to tell: tool calls and results, reasoning, usage."),
            _query("format", {"enum": ["json"]}, "With json, the data of every event is one line of JSON."),
        ),
    ),
    ("GET", "agent/runs/{correlation_id}"): Operation(
        "Ask how a run is, and for its committed answer.",
        {HTTPStatus.OK: _answer("The run.", {JSON: _reference(RunView)})},
        (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    ("POST", "agent/runs/{correlation_id}/cancel"): Operation(
        "Stop a run; what it has said so far is its answer.",
        {HTTPStatus.ACCEPTED: _answer("The run as it was.", {JSON: _reference(RunView)})},
        (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    ),
    ("GET", "agent/conversations"): Operation(
        "List the conversations of the user who is signed in, newest first.",
        {HTTPStatus.OK: _answer("The conversations.", {JSON: _reference(Conversations)})},
        (HTTPStatus.NOT_FOUND,),
    ),
    ("GET", "agent/conversations/{conversation_id}"): Operation(
        "Read what was said.",
        {HTTPStatus.OK: _answer("The messages.", {JSON: _reference(Conversation)})},
        (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    ("DELETE", "agent/conversations/{conversation_id}"): Operation(
        "Erase a conversation for good.",
        {HTTPStatus.NO_CONTENT: _answer("It is gone, or never was.")},
        (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    ),
    ("POST", "agui/{agent_name}"): Operation(
        "Start a run and stream it as AG-UI.",
        {HTTPStatus.OK: EVENTS, HTTPStatus.NO_CONTENT: NOTHING},
        REFUSED_BODY,
        body={JSON: _reference(RunAgentBody)},
    ),
    ("GET", "agui/{agent_name}/runs/{run_id}"): Operation(
        "Resume the stream of a run as AG-UI.",
        {HTTPStatus.OK: EVENTS, HTTPStatus.NO_CONTENT: NOTHING},
        (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
        (
            _query("thread_id", ID, "The run's thread.") | {"required": True},
            _query("protocol_version", TEXT, "The version of AG-UI that the client speaks, such as 1.0."),
            CORRELATION_ID,
            _header("Last-Event-ID", FRAME_ID, "Only what came after this frame."),
        ),
    ),
    ("POST", "agui/{agent_name}/connect"): Operation(
        "Join a thread as AG-UI: what was said, then its open run.",
        {HTTPStatus.OK: EVENTS},
        REFUSED_BODY,
        body={JSON: _reference(ConnectBody)},
    ),
    ("POST", "chat"): Operation(
        "Send a message and stream its answer as the AI SDK's UI messages.",
        {HTTPStatus.OK: EVENTS, HTTPStatus.NO_CONTENT: NOTHING},
        REFUSED_BODY,
        (_query("agent", TEXT, "The agent's name, before that in the body."),),
        {JSON: _reference(ChatBody)},
    ),
    ("GET", "chat/{conversation_id}/stream"): Operation(
        "Resume the stream of the open run, or of one that is named, as the AI SDK's UI messages.",
        {HTTPStatus.OK: EVENTS, HTTPStatus.NO_CONTENT: NOTHING},
        (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
        (CORRELATION_ID, _header("Last-Event-ID", FRAME_ID, "Only what came after this frame.")),
    ),
    ("GET", "health"): Operation(
        "Ask whether the app and its Redis are alive.",
        {
            HTTPStatus.OK: _answer("They are.", {JSON: _reference(Health)}),
            HTTPStatus.SERVICE_UNAVAILABLE: _answer(
                "Redis does not answer in time.", {JSON: _reference(Health), PROBLEM_MEDIA_TYPE: _reference(Problem)}
            ),
        },
    ),
    ("GET", "openapi.json"): Operation(
        "Read this description.", {HTTPStatus.OK: _answer("OpenAPI 3.1.", {JSON: {"type": "object"}})}
    ),
}
