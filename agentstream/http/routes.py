"""The HTTP routes: parse, ask, answer."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Literal

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, PlainTextResponse, Request, Response
from redis.exceptions import RedisError

from agentstream.http.ag_ui_routes import AgUiRoutes
from agentstream.http.bodies import Accepted, AgentName, Answered, Conversation, Conversations, Health, RedisHealth
from agentstream.http.openapi import describe
from agentstream.http.origins import Origins
from agentstream.http.problems import ProblemError
from agentstream.http.requests import (
    parse_boolean,
    parse_format,
    parse_id,
    parse_include,
    parse_optional_id,
    parse_resume_cursor,
    parse_run_request,
)
from agentstream.http.service import Service
from agentstream.http.stream_response import StreamResponse, stream_headers
from agentstream.http.ui_message_routes import UiMessageRoutes
from agentstream.http.worker_memory import forgetting
from agentstream.model import (
    Event,
    OpenRunError,
    RunEndedError,
    RunInput,
    RunStatus,
    StreamLostError,
    UnknownRunError,
)
from agentstream.runs.follower import Follower
from agentstream.runs.handles import RunView
from agentstream.settings import Settings
from agentstream.stream.clients import GetStream, get_stream_handler
from agentstream.wire import plain, sse


def create_http_functions(
    settings: Settings,
    agents: Sequence[str],
    get_stream: GetStream = get_stream_handler,
    *,
    route_prefix: str = "api",
) -> df.Blueprint:
    """Return the HTTP functions, to be registered with the function app.

    Args:
        settings: The app's settings.
        agents: The names of the agents that can be run.
        get_stream: Returns the stream handler of the running event loop.
        route_prefix: What the host puts before all routes (``extensions.http.routePrefix`` in host.json).
    """
    service = Service(settings, agents, get_stream, f"/{route_prefix}".rstrip("/"))
    routes = _Routes(service)
    origins = Origins(settings.allowed_origins)
    blueprint = df.Blueprint()

    described: dict[tuple[str, str], str] = {}

    # Where users sign in, the platform and not the host has let the request pass.
    level = func.AuthLevel.ANONYMOUS if service.signs_in else None

    def register(handler: Any, method: str, route: str, auth_level: func.AuthLevel | None = level) -> None:
        described[method, route] = handler.__name__
        function = blueprint.durable_client_input(client_name="client")(forgetting(origins.guard(handler)))
        blueprint.route(route=route, methods=[method], auth_level=auth_level)(function)

    AgUiRoutes(service).register(register)
    UiMessageRoutes(service).register(register)
    register(routes.start_run, "POST", "agents/{agent_name}/run")
    register(routes.follow_stream, "GET", "agent/stream/{conversation_id}")
    register(routes.get_run, "GET", "agent/runs/{correlation_id}")
    register(routes.cancel_run, "POST", "agent/runs/{correlation_id}/cancel")
    register(routes.get_conversations, "GET", "agent/conversations")
    register(routes.get_conversation, "GET", "agent/conversations/{conversation_id}")
    register(routes.delete_conversation, "DELETE", "agent/conversations/{conversation_id}")
    register(routes.get_health, "GET", "health", auth_level=func.AuthLevel.ANONYMOUS)
    register(routes.get_openapi, "GET", "openapi.json", auth_level=func.AuthLevel.ANONYMOUS)
    routes.description = describe(described, service.agents, service.prefix)
    if settings.allowed_origins:

        async def answer_preflight(req: Request, client: df.DurableOrchestrationClient) -> Response:
            return origins.preflight(req)

        # A browser sends it without a key.
        register(answer_preflight, "OPTIONS", "{*path}", auth_level=func.AuthLevel.ANONYMOUS)
    return blueprint


class _Routes:
    """The handlers. The Functions host passes ``req`` and ``client`` by these names."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.description: dict[str, Any] = {}

    async def start_run(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``POST /api/agents/{agent_name}/run``"""
        agent = self._service.known_agent(req.path_params["agent_name"])
        self._service.refuse_when_busy()
        request = await parse_run_request(req, self._service.settings.max_message_bytes)
        runs = await self._service.runs(req, client)
        run = await self._service.start(runs, agent, request)
        if request.wait_for_response and not self._service.is_full:
            seconds = self._service.settings.wait_for_response_seconds
            with self._service.counting():
                ended = await _unless_left(req, runs.run(run.correlation_id).wait(run.conversation_id, seconds))
            if ended is not None:
                return self._ended_response(req, run, ended)
        return self._accepted_response(run)

    async def follow_stream(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/agent/stream/{conversation_id}``"""
        conversation_id = parse_id("conversation_id", req.path_params["conversation_id"])
        correlation_id = parse_optional_id(req, "correlation_id")
        conversation = await (await self._service.runs(req, client)).conversation(conversation_id, correlation_id)
        follower = conversation.follow(
            cursor=parse_resume_cursor(req),
            correlation_id=correlation_id,
            include=parse_include(req),
            waits=parse_boolean("follow", req.query_params.get("follow", True)),
            seconds=self._service.settings.stream_max_seconds,
        )
        as_json = parse_format(req)
        headers = stream_headers(conversation_id)
        batches = self._service.batches(follower)
        first = await anext(batches, None)
        if first is None:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
        if _prefers_plain_text(req):
            content, media_type = _plain_text(first, batches, follower), plain.MEDIA_TYPE
        else:
            content, media_type = _server_sent_events(first, batches, as_json), sse.MEDIA_TYPE
        return StreamResponse(content, batches, follower.deadline, headers, media_type)

    async def get_run(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/agent/runs/{correlation_id}``"""
        correlation_id = parse_id("correlation_id", req.path_params["correlation_id"])
        try:
            view = await (await self._service.runs(req, client)).run(correlation_id).view()
        except UnknownRunError:
            raise _unknown_run() from None
        return JSONResponse(view.model_dump())

    async def cancel_run(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``POST /api/agent/runs/{correlation_id}/cancel``"""
        correlation_id = parse_id("correlation_id", req.path_params["correlation_id"])
        try:
            view = await (await self._service.runs(req, client)).run(correlation_id).cancel()
        except UnknownRunError:
            raise _unknown_run() from None
        except RunEndedError:
            detail = "The run has ended, so there is nothing to cancel."
            raise ProblemError(HTTPStatus.CONFLICT, detail) from None
        return JSONResponse(view.model_dump(), HTTPStatus.ACCEPTED)

    async def get_conversations(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/agent/conversations``"""
        conversations = await (await self._service.runs(req, client)).conversations()
        return JSONResponse(Conversations(conversations=conversations).model_dump())

    async def get_conversation(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/agent/conversations/{conversation_id}``"""
        conversation_id = parse_id("conversation_id", req.path_params["conversation_id"])
        try:
            conversation = await (await self._service.runs(req, client)).conversation(conversation_id)
            messages = await conversation.messages()
        except UnknownRunError:
            detail = "There is no conversation of this conversation_id."
            raise ProblemError(HTTPStatus.NOT_FOUND, detail) from None
        return JSONResponse(Conversation(conversation_id=conversation_id, messages=messages).model_dump())

    async def delete_conversation(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``DELETE /api/agent/conversations/{conversation_id}``"""
        conversation_id = parse_id("conversation_id", req.path_params["conversation_id"])
        try:
            runs = await self._service.runs(req, client)
            await (await runs.conversation(conversation_id, erased_too=True)).erase()
        except OpenRunError:
            detail = "A run of this conversation is open. Cancel it or wait for its end, then delete."
            raise ProblemError(HTTPStatus.CONFLICT, detail) from None
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def get_health(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/health``"""
        latency_ms: float | None = None
        with contextlib.suppress(RedisError, TimeoutError):
            latency_ms = round(await self._service.redis_latency_ms(), 3)
        healthy = latency_ms is not None
        body = Health(
            status="healthy" if healthy else "degraded",
            agents=[AgentName(name=name) for name in self._service.agents],
            redis=RedisHealth(status="healthy" if healthy else "unavailable", latency_ms=latency_ms),
        )
        return JSONResponse(body.model_dump(), HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE)

    async def get_openapi(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/openapi.json``"""
        return JSONResponse(self.description)

    def _accepted_response(self, run: RunInput) -> Response:
        body = Accepted.model_validate(self._ids(run))
        return JSONResponse(body.model_dump(), HTTPStatus.ACCEPTED, {"Location": body.stream_url})

    def _ended_response(self, req: Request, run: RunInput, ended: RunView) -> Response:
        if ended.error is not None:
            timed_out = ended.status is RunStatus.TIMED_OUT
            status = HTTPStatus.GATEWAY_TIMEOUT if timed_out else HTTPStatus.BAD_GATEWAY
            raise ProblemError(status, ended.error.message)
        text = ended.response or ""
        if _prefers_plain_text(req):
            return PlainTextResponse(text, headers={"x-conversation-id": run.conversation_id})
        said: Literal["success", "cancelled"] = "success" if ended.status is RunStatus.COMPLETED else "cancelled"
        return JSONResponse(Answered(status=said, response=text, **self._ids(run)).model_dump())

    def _ids(self, run: RunInput) -> dict[str, str]:
        stream = f"{self._service.prefix}/agent/stream/{run.conversation_id}"
        return {
            "conversation_id": run.conversation_id,
            "correlation_id": run.correlation_id,
            "session_id": run.conversation_id,
            "stream_url": f"{stream}?correlation_id={run.correlation_id}",
            "status_url": f"{self._service.prefix}/agent/runs/{run.correlation_id}",
        }


async def _unless_left(req: Request, waiting: Coroutine[Any, Any, RunView | None]) -> RunView | None:
    """Return what is awaited; None, and it is given up, when the client leaves: known once the body was read."""

    async def leave() -> None:
        while (await req.receive())["type"] != "http.disconnect":
            pass

    tasks = waited, _ = asyncio.create_task(waiting), asyncio.create_task(leave())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return None if waited.cancelled() else waited.result()


def _unknown_run() -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "There is no run of this correlation_id.")


def _prefers_plain_text(req: Request) -> bool:
    accept = req.headers.get("accept", "")
    return plain.MEDIA_TYPE in accept and sse.MEDIA_TYPE not in accept


async def _server_sent_events(
    first: list[Event], batches: AsyncGenerator[list[Event], None], as_json: bool
) -> AsyncGenerator[bytes, None]:
    yield sse.RETRY
    for piece in sse.pieces(first, as_json=as_json):
        yield piece
    with contextlib.suppress(StreamLostError):
        async for events in batches:
            for piece in sse.pieces(events, as_json=as_json):
                yield piece


async def _plain_text(
    first: list[Event], batches: AsyncGenerator[list[Event], None], follower: Follower
) -> AsyncGenerator[bytes, None]:
    cursor, unfinished, lost = follower.cursor, set[str](), False
    events: list[Event] | None = first
    while events is not None:
        for piece in plain.pieces(events):
            yield piece
        for event in events:
            cursor = event.id
            (unfinished.discard if event.is_terminal else unfinished.add)(event.correlation_id)
        try:
            events = await anext(batches, None)
        except StreamLostError:
            events, lost = None, True
    if lost or (follower.waits and (unfinished or time.monotonic() >= follower.deadline)):
        yield plain.more_to_come(cursor)
