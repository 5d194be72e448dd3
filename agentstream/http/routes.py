"""The HTTP routes: parse, call, answer."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, PlainTextResponse, Request, Response
from redis.exceptions import RedisError

import sse
from conversations import (
    CommittedRun,
    DurableUnavailableError,
    RunInput,
    RunResult,
    durable_call,
    erase_conversation,
    read_messages,
    read_results,
    read_run,
)
from follower import Follower
from problems import RETRY_AFTER_SECONDS, ProblemError, answers_problems
from recovery import Recovery, settle_runs
from redis_stream_handler import (
    BeingErasedError,
    ErasedError,
    RedisStreamHandler,
    RunStatus,
    StreamEvent,
    UnknownRunError,
    get_stream_handler,
)
from run_orchestration import CANCEL_EVENT, MESSAGES
from run_requests import RunRequest, parse_boolean, parse_id, parse_optional_id, parse_resume_cursor, parse_run_request
from run_starter import KeyReusedError, PerhapsStartedError, RunStarter, key_name
from settings import Settings
from stream_response import StreamResponse
from stream_text import well_formed

HEALTH_SECONDS = 2.0

logger = logging.getLogger(__name__)


def create_http_api(settings: Settings, agents: Sequence[str]) -> df.Blueprint:
    """Return the HTTP functions, to be registered with the function app.

    Args:
        settings: The app's settings.
        agents: The names of the agents that can be run.
    """
    api = _HttpApi(settings, list(agents))
    blueprint = df.Blueprint()

    def register(handler: Any, method: str, route: str, **options: Any) -> None:
        function = blueprint.durable_client_input(client_name="client")(answers_problems(handler))
        blueprint.route(route=route, methods=[method], **options)(function)

    register(api.start_run, "POST", "agents/{agent_name}/run")
    register(api.follow_stream, "GET", "agent/stream/{conversation_id}")
    register(api.get_run, "GET", "agent/runs/{correlation_id}")
    register(api.cancel_run, "POST", "agent/runs/{correlation_id}/cancel")
    register(api.get_conversation, "GET", "agent/conversations/{conversation_id}")
    register(api.delete_conversation, "DELETE", "agent/conversations/{conversation_id}")
    register(api.get_health, "GET", "health", auth_level=func.AuthLevel.ANONYMOUS)
    return blueprint


class _HttpApi:
    """The handlers. The Functions host passes ``req`` and ``client`` by these names."""

    def __init__(self, settings: Settings, agents: list[str]) -> None:
        self._settings = settings
        self._agents = agents
        self._followers = 0
        self._recovery = Recovery(agents, settings.heartbeat_seconds)

    async def start_run(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``POST /api/agents/{agent_name}/run``"""
        agent = req.path_params["agent_name"]
        if agent not in self._agents:
            known = ", ".join(self._agents)
            raise ProblemError(HTTPStatus.NOT_FOUND, f"There is no agent of this name. The agents are: {known}.")
        request = await parse_run_request(req, self._settings.max_message_bytes)
        async with await get_stream_handler() as handler:
            starter = RunStarter(handler, client, self._recovery, self._settings.run_timeout_seconds)
            run = await _started(starter, agent, request)
            if request.wait_for_response:
                finished = await self._wait_for(handler, client, run)
                if finished is not None:
                    return _finished_response(req, run, finished)
        return _accepted_response(run)

    async def follow_stream(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/agent/stream/{conversation_id}``"""
        conversation_id = parse_id("conversation_id", req.path_params["conversation_id"])
        async with await get_stream_handler() as handler:
            follower = Follower(
                handler,
                client,
                self._recovery,
                conversation_id,
                cursor=parse_resume_cursor(req),
                correlation_id=parse_optional_id(req, "correlation_id"),
                waits=parse_boolean("follow", req.query_params.get("follow", True)),
                heartbeat_seconds=self._settings.heartbeat_seconds,
                deadline=time.monotonic() + self._settings.stream_max_seconds,
            )
        headers = {
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",
            "x-conversation-id": conversation_id,
        }
        batches = self._counted(follower)
        first = await anext(batches, None)
        if first is None:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
        if _prefers_plain_text(req):
            content, media_type = _plain_text(first, batches, follower), "text/plain"
        else:
            content, media_type = _server_sent_events(first, batches), sse.MEDIA_TYPE
        return StreamResponse(content, batches, follower.deadline, headers, media_type)

    async def get_run(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/agent/runs/{correlation_id}``"""
        return JSONResponse(await self._run_body(client, await self._read_run(req, client)))

    async def cancel_run(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``POST /api/agent/runs/{correlation_id}/cancel``"""
        committed = await self._read_run(req, client)
        body = await self._run_body(client, committed)
        if not RunStatus(body["status"]).is_open:
            raise _has_ended()
        # The orchestration cancels the run whatever becomes of Redis; telling the writer as well is faster.
        tell_orchestration = True
        try:
            with contextlib.suppress(RedisError):
                async with await get_stream_handler() as handler:
                    run = committed.input
                    _, tell_orchestration = await handler.cancel_run(
                        run.conversation_id, run.correlation_id, created=run.created
                    )
        except ErasedError:
            raise _unknown_run() from None
        if tell_orchestration:
            await self._tell_orchestration(client, committed.input)
        return JSONResponse(body, HTTPStatus.ACCEPTED)

    async def _tell_orchestration(self, client: df.DurableOrchestrationClient, run: RunInput) -> None:
        try:
            await durable_call(client.raise_event(run.correlation_id, CANCEL_EVENT))
        except DurableUnavailableError:
            # The runtime refuses events for an orchestration that has ended, or was purged.
            committed = await read_run(client, run.correlation_id)
            if committed is None:
                raise _unknown_run() from None
            if committed.result is None:
                raise
            raise _has_ended() from None

    async def get_conversation(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/agent/conversations/{conversation_id}``"""
        conversation_id = parse_id("conversation_id", req.path_params["conversation_id"])
        messages = await read_messages(client, self._agents, conversation_id)
        if not messages and not await _is_known(conversation_id):
            raise ProblemError(HTTPStatus.NOT_FOUND, "There is no conversation of this conversation_id.")
        return JSONResponse(
            {"conversation_id": conversation_id, "messages": [message.model_dump() for message in messages]}
        )

    async def delete_conversation(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``DELETE /api/agent/conversations/{conversation_id}``"""
        conversation_id = parse_id("conversation_id", req.path_params["conversation_id"])
        async with await get_stream_handler() as handler:
            await settle_runs(handler, client, conversation_id)
            runs = await handler.runs(conversation_id)
            since = await handler.erase(conversation_id)
            if since is None:
                raise _has_open_run()
            erased = await erase_conversation(client, self._agents, conversation_id, runs, since)
            await handler.release_keys(map(key_name, erased))
            # What was restored until the durable state was gone goes too.
            if await handler.erase(conversation_id, finished=True) is None:
                raise _has_open_run()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def get_health(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/health``"""
        latency_ms: float | None = None
        with contextlib.suppress(RedisError, TimeoutError):
            async with asyncio.timeout(HEALTH_SECONDS), await get_stream_handler() as handler:
                latency_ms = round(await handler.ping(), 3)
        healthy = latency_ms is not None
        body = {
            "status": "healthy" if healthy else "degraded",
            "agents": [{"name": name} for name in self._agents],
            "redis": {"status": "healthy" if healthy else "unavailable", "latency_ms": latency_ms},
        }
        return JSONResponse(body, HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _read_run(self, req: Request, client: df.DurableOrchestrationClient) -> CommittedRun:
        correlation_id = parse_id("correlation_id", req.path_params["correlation_id"])
        committed = await read_run(client, correlation_id)
        if committed is None:
            raise _unknown_run()
        return committed

    async def _counted(self, follower: Follower) -> AsyncGenerator[list[StreamEvent], None]:
        if self._is_full:
            detail = f"Too many followers are connected. Try again in {RETRY_AFTER_SECONDS} seconds."
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers)
        with self._counting():
            with contextlib.suppress(UnknownRunError):
                async with contextlib.aclosing(follower.batches()) as batches:
                    async for events in batches:
                        yield events
                return
            await self._restore(follower)
            try:
                async with contextlib.aclosing(follower.batches()) as batches:
                    async for events in batches:
                        yield events
            except UnknownRunError:
                # It was deleted since.
                raise _nothing_to_follow(follower) from None

    @property
    def _is_full(self) -> bool:
        return self._followers >= self._settings.stream_max_followers

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    async def _restore(self, follower: Follower) -> None:
        known = await self._recovery.restore(
            follower.handler, follower.client, follower.conversation_id, follower.correlation_id
        )
        if not known:
            raise _nothing_to_follow(follower)

    async def _wait_for(
        self, handler: RedisStreamHandler, client: df.DurableOrchestrationClient, run: RunInput
    ) -> dict[str, Any] | None:
        """Return the run's body once it has ended, or None when it has not in time, or too many wait already."""
        if self._is_full:
            return None
        reading = handler.read_stream(
            run.conversation_id,
            correlation_id=run.correlation_id,
            silence_seconds=self._settings.heartbeat_seconds,
            max_seconds=self._settings.wait_for_response_seconds,
        )
        with self._counting(), contextlib.suppress(RedisError, UnknownRunError):
            async for _ in reading:
                pass
        committed = await read_run(client, run.correlation_id)
        body = None if committed is None else await self._run_body(client, committed)
        return None if body is None or RunStatus(body["status"]).is_open else body

    async def _run_body(self, client: df.DurableOrchestrationClient, committed: CommittedRun) -> dict[str, Any]:
        run = committed.input
        status, result = await self._status(client, committed)
        error = None if result.code is None else {"code": result.code, "message": MESSAGES[result.code]}
        return {
            "correlation_id": run.correlation_id,
            "conversation_id": run.conversation_id,
            "agent": run.agent,
            "status": status,
            "response": None if result.response is None else well_formed(result.response),
            "error": error,
            "created_at": committed.created_at,
            "updated_at": committed.updated_at,
        }

    async def _status(
        self, client: df.DurableOrchestrationClient, committed: CommittedRun
    ) -> tuple[RunStatus, RunResult]:
        if committed.result is not None:
            return committed.result.status, committed.result
        run, status = committed.input, RunStatus.RUNNING
        with contextlib.suppress(RedisError, KeyError):
            async with await get_stream_handler() as handler:
                status = (await handler.runs(run.conversation_id))[run.correlation_id].status
        if status is RunStatus.QUEUED:
            return status, RunResult(status=status)
        if status.is_open:
            return RunStatus.RUNNING, RunResult(status=RunStatus.RUNNING)
        # The terminal event is out, and the orchestration about to complete: the answer is in the entity's state.
        if status is RunStatus.TIMED_OUT:
            return status, RunResult(status=status, code="timeout")
        results = await read_results(client, run.agent, run.conversation_id)
        code = "internal_error" if status is RunStatus.FAILED else None
        return status, results.get(run.correlation_id, RunResult(status=status, code=code))


async def _started(starter: RunStarter, agent: str, request: RunRequest) -> RunInput:
    try:
        return await starter.start(agent, request)
    except KeyReusedError:
        detail = "This Idempotency-Key was used for another message or another conversation. Send a new key."
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail) from None
    except BeingErasedError:
        detail = "This conversation is being deleted. Send the message again in a moment."
        raise ProblemError(HTTPStatus.CONFLICT, detail, {"Retry-After": "1"}) from None
    except DurableUnavailableError as error:
        logger.warning("a run was not started: the durable runtime does not answer: %r", error.__cause__)
        raise _not_now("The durable runtime does not answer, and nothing was run. Send the message again.") from None
    except PerhapsStartedError:
        detail = (
            "The durable runtime and Redis do not answer, and the run may have started or not. "
            "With an Idempotency-Key, send it again under the same key: it is then run once."
        )
        raise _not_now(detail) from None


def _not_now(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(RETRY_AFTER_SECONDS)})


def _nothing_to_follow(follower: Follower) -> ProblemError:
    what = "conversation" if follower.correlation_id is None else "run in this conversation"
    return ProblemError(HTTPStatus.NOT_FOUND, f"There is no such {what}. Start one with POST run.")


def _has_ended() -> ProblemError:
    return ProblemError(HTTPStatus.CONFLICT, "The run has ended, so there is nothing to cancel.")


def _has_open_run() -> ProblemError:
    detail = "A run of this conversation is open. Cancel it or wait for its end, then delete."
    return ProblemError(HTTPStatus.CONFLICT, detail)


def _unknown_run() -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "There is no run of this correlation_id.")


def _accepted_response(run: RunInput) -> Response:
    stream_url = f"/api/agent/stream/{run.conversation_id}?correlation_id={run.correlation_id}"
    body = {"status": "accepted", "response": "Agent request accepted", **_ids(run)}
    return JSONResponse(body, HTTPStatus.ACCEPTED, {"Location": stream_url})


def _finished_response(req: Request, run: RunInput, finished: dict[str, Any]) -> Response:
    if finished["error"] is not None:
        timed_out = finished["status"] == RunStatus.TIMED_OUT
        raise ProblemError(
            HTTPStatus.GATEWAY_TIMEOUT if timed_out else HTTPStatus.BAD_GATEWAY, finished["error"]["message"]
        )
    text = finished["response"] or ""
    if _prefers_plain_text(req):
        return PlainTextResponse(text, headers={"x-conversation-id": run.conversation_id})
    status = "success" if finished["status"] == RunStatus.COMPLETED else finished["status"]
    return JSONResponse({"status": status, "response": text, **_ids(run)})


def _ids(run: RunInput) -> dict[str, str]:
    return {
        "conversation_id": run.conversation_id,
        "correlation_id": run.correlation_id,
        "session_id": run.conversation_id,
        "stream_url": f"/api/agent/stream/{run.conversation_id}?correlation_id={run.correlation_id}",
        "status_url": f"/api/agent/runs/{run.correlation_id}",
    }


def _prefers_plain_text(req: Request) -> bool:
    accept = req.headers.get("accept", "")
    return "text/plain" in accept and sse.MEDIA_TYPE not in accept


async def _is_known(conversation_id: str) -> bool:
    async with await get_stream_handler() as handler:
        return bool(await handler.runs(conversation_id))


async def _server_sent_events(
    first: list[StreamEvent], batches: AsyncGenerator[list[StreamEvent], None]
) -> AsyncGenerator[bytes, None]:
    for piece in sse.pieces(first):
        yield piece
    async for events in batches:
        for piece in sse.pieces(events):
            yield piece


async def _plain_text(
    first: list[StreamEvent], batches: AsyncGenerator[list[StreamEvent], None], follower: Follower
) -> AsyncGenerator[bytes, None]:
    cursor, unfinished = follower.cursor, set[str]()
    events: list[StreamEvent] | None = first
    while events is not None:
        text = "".join(map(_plain, events)).encode()
        for start in range(0, len(text), sse.PIECE_BYTES):
            yield text[start : start + sse.PIECE_BYTES]
        for event in events:
            cursor = event.id
            (unfinished.discard if event.is_terminal else unfinished.add)(event.correlation_id)
        events = await anext(batches, None)
    if follower.waits and (unfinished or time.monotonic() >= follower.deadline):
        yield f"\n\n[There is more to come. To read it, ask again with cursor={cursor}.]\n".encode()


def _plain(event: StreamEvent) -> str:
    match event.event:
        case "message":
            return event.text
        case "reset":
            return "\n\n[The answer starts again.]\n\n"
        case "error":
            return f"\n\n[{json.loads(event.text)['message']}]\n"
        case _:
            return "\n"
