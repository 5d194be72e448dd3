"""The routes of AG-UI: start a run, resume its stream, join a thread."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import Request, Response

from agentstream.http.chat_requests import RunAgentInput, parse_resume_position, parse_run_agent_input, run_key
from agentstream.http.requests import bad_request, parse_id, parse_optional_id
from agentstream.http.service import Service
from agentstream.http.stream_response import frames_response, stream_headers
from agentstream.model import Event, UnknownRunError
from agentstream.runs.handles import ConversationHandle
from agentstream.wire.ag_ui import VERSION, AgUiEncoder
from agentstream.wire.frames import NOWHERE, Position
from agentstream.wire.sse import MEDIA_TYPE, RETRY


@dataclass(frozen=True, slots=True)
class _Followed:
    """The run that a client follows, under the client's names and ours; what its URL says."""

    agent: str
    thread_id: str
    run_id: str
    correlation_id: str
    speaks_1_0: bool
    joins: bool

    def url(self, prefix: str) -> str:
        """Return the URL that resumes its stream. A client that joins has a run id of its own for a run of another."""
        query = {"thread_id": self.thread_id}
        if self.joins:
            query["correlation_id"] = self.correlation_id
        if self.speaks_1_0:
            query["protocol_version"] = VERSION
        return f"{prefix}/agui/{quote(self.agent)}/runs/{self.run_id}?{urlencode(query)}"


class AgUiRoutes:
    """The handlers. The Functions host passes ``req`` and ``client`` by these names."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def register(self, register: Callable[..., Any]) -> None:
        """Register them: each with its method and its route."""
        register(self.run_agui, "POST", "agui/{agent_name}")
        register(self.resume_agui, "GET", "agui/{agent_name}/runs/{run_id}")
        register(self.connect_agui, "POST", "agui/{agent_name}/connect")

    async def run_agui(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``POST /api/agui/{agent_name}``"""
        agent = self._service.known_agent(req.path_params["agent_name"])
        self._service.refuse_when_busy()
        asked = await parse_run_agent_input(req, self._service.settings.max_message_bytes)
        # A run that nobody can follow yet is not started either.
        self._service.refuse_when_full()
        runs = await self._service.runs(req, client)
        run = await self._service.start(runs, agent, asked.request)
        conversation = await runs.conversation(run.conversation_id, run.correlation_id)
        return await self._stream(conversation, _followed(agent, asked, run.correlation_id), NOWHERE)

    async def resume_agui(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/agui/{agent_name}/runs/{run_id}``"""
        agent = self._service.known_agent(req.path_params["agent_name"])
        run_id = parse_id("run_id", req.path_params["run_id"])
        thread_id = parse_optional_id(req, "thread_id")
        if thread_id is None:
            raise bad_request("The thread_id is missing: name the thread of the run.")
        runs = await self._service.runs(req, client)
        joined = parse_optional_id(req, "correlation_id")
        followed = _Followed(
            agent,
            thread_id,
            run_id,
            joined or runs.run_of_key(agent, run_key(thread_id, run_id)),
            speaks_1_0=req.query_params.get("protocol_version") == VERSION,
            joins=joined is not None,
        )
        after = parse_resume_position(req)
        self._service.refuse_when_full()
        conversation = await runs.conversation(thread_id, followed.correlation_id)
        return await self._stream(conversation, followed, after)

    async def connect_agui(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``POST /api/agui/{agent_name}/connect``"""
        agent = self._service.known_agent(req.path_params["agent_name"])
        asked = await parse_run_agent_input(req, self._service.settings.max_message_bytes, joins=True)
        self._service.refuse_when_full()
        runs = await self._service.runs(req, client)
        try:
            conversation = await runs.conversation(asked.thread_id)
        except UnknownRunError:
            return await _what_was_said(None, asked)
        correlation_id = await conversation.open_run()
        if correlation_id is None:
            return await _what_was_said(conversation, asked)
        return await self._stream(conversation, _followed(agent, asked, correlation_id, joins=True), NOWHERE)

    async def _stream(self, conversation: ConversationHandle, followed: _Followed, after: Position) -> Response:
        encoder = AgUiEncoder(
            followed.thread_id,
            followed.run_id,
            followed.correlation_id,
            speaks_1_0=followed.speaks_1_0,
            joins=followed.joins,
            after=after,
        )
        follower = self._service.follow_run(conversation, followed.correlation_id, after.cursor)
        if followed.joins:
            encoder.said = await conversation.said_up_to(followed.correlation_id)
        batches = _with_what_was_said(self._service.batches(follower), encoder, conversation, followed.correlation_id)
        headers = stream_headers(followed.thread_id) | {"Location": followed.url(self._service.prefix)}
        return await frames_response(encoder, batches, follower.deadline, headers)


def _followed(agent: str, asked: RunAgentInput, correlation_id: str, *, joins: bool = False) -> _Followed:
    return _Followed(agent, asked.thread_id, asked.run_id, correlation_id, asked.speaks_1_0, joins)


async def _what_was_said(conversation: ConversationHandle | None, asked: RunAgentInput) -> Response:
    encoder = AgUiEncoder(asked.thread_id, asked.run_id, None, speaks_1_0=asked.speaks_1_0, joins=True)
    if conversation is not None:
        with contextlib.suppress(UnknownRunError):
            encoder.said = await conversation.messages()
    frames = b"".join([RETRY, *encoder.begin()])
    return Response(frames, headers=stream_headers(asked.thread_id), media_type=MEDIA_TYPE)


async def _with_what_was_said(
    batches: AsyncGenerator[list[Event], None],
    encoder: AgUiEncoder,
    conversation: ConversationHandle,
    correlation_id: str,
) -> AsyncGenerator[list[Event], None]:
    async with contextlib.aclosing(batches):
        async for events in batches:
            if encoder.needs_said(events):
                encoder.said = await conversation.said_up_to(correlation_id)
            yield events
