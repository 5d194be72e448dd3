"""The routes of the AI SDK's chat clients: send a message, resume the stream of its answer."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import Request, Response

from agentstream.http.chat_requests import parse_chat_request, parse_resume_position
from agentstream.http.requests import parse_id, parse_optional_id
from agentstream.http.service import Service
from agentstream.http.stream_response import frames_response, stream_headers
from agentstream.model import UnknownRunError
from agentstream.runs.handles import ConversationHandle
from agentstream.wire.frames import NOWHERE, Position
from agentstream.wire.ui_message import HEADERS, UiMessageEncoder


class UiMessageRoutes:
    """The handlers. The Functions host passes ``req`` and ``client`` by these names."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def register(self, register: Callable[..., Any]) -> None:
        """Register them: each with its method and its route."""
        register(self.run_chat, "POST", "chat")
        register(self.resume_chat, "GET", "chat/{conversation_id}/stream")

    async def run_chat(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``POST /api/chat``"""
        self._service.refuse_when_busy()
        asked = await parse_chat_request(req, self._service.settings.max_message_bytes)
        agent = self._service.known_agent(asked.agent or self._service.agents[0])
        # A run that nobody can follow yet is not started either.
        self._service.refuse_when_full()
        runs = await self._service.runs(req, client)
        run = await self._service.start(runs, agent, asked.request)
        return await self._stream(await runs.conversation(run.conversation_id), run.correlation_id, NOWHERE)

    async def resume_chat(self, req: Request, client: df.DurableOrchestrationClient) -> Response:
        """``GET /api/chat/{conversation_id}/stream``"""
        conversation_id = parse_id("conversation_id", req.path_params["conversation_id"])
        after = parse_resume_position(req)
        correlation_id = parse_optional_id(req, "correlation_id")
        runs = await self._service.runs(req, client)
        try:
            conversation = await runs.conversation(conversation_id, correlation_id)
            followed = correlation_id or await conversation.open_run()
        except UnknownRunError:
            if correlation_id is not None:
                raise
            followed = None
        if followed is None:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=stream_headers(conversation_id))
        return await self._stream(conversation, followed, after)

    async def _stream(self, conversation: ConversationHandle, correlation_id: str, after: Position) -> Response:
        follower = self._service.follow_run(conversation, correlation_id, after.cursor)
        path = f"{self._service.prefix}/chat/{conversation.conversation_id}/stream"
        location = {"Location": f"{path}?correlation_id={correlation_id}"}
        headers = stream_headers(conversation.conversation_id) | HEADERS | location
        encoder = UiMessageEncoder(correlation_id, after=after)
        return await frames_response(encoder, self._service.batches(follower), follower.deadline, headers)
