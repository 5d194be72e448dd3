"""A stand-in for a model, without a network: it reads the conversation, calls the tools and streams a plan."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any

from agent_framework import (
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
)
from agent_framework.observability import ChatTelemetryLayer

from travel_planner.offline.plan import ASK_FOR_DESTINATION, MAX_DAYS, write_plan
from travel_planner.offline.trip import read_trip
from travel_planner.tools import get_local_events, get_weather_forecast

_TOOLS = (get_weather_forecast.__name__, get_local_events.__name__)
_TOKEN = re.compile(r"\s*\S+|\s+")


class OfflinePlanner(FunctionInvocationLayer[Any], ChatTelemetryLayer[Any], BaseChatClient[Any]):
    """Plans trips by rules, and streams as many tokens per second as it is told."""

    OTEL_PROVIDER_NAME = "offline"

    def __init__(self, tokens_per_second: float) -> None:
        super().__init__()
        # As spans name it.
        self.model = "offline-planner"
        self._tokens_per_second = tokens_per_second

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        offered = {getattr(tool, "name", None) for tool in options.get("tools") or ()}
        updates = self._updates(messages, [tool for tool in _TOOLS if tool in offered])
        if stream:
            return ResponseStream(updates, finalizer=ChatResponse.from_updates)
        return ChatResponse.from_update_generator(updates)

    async def _updates(self, messages: Sequence[Message], tools: list[str]) -> AsyncIterator[ChatResponseUpdate]:
        asked = [message.text for message in messages if message.role == "user"]
        # A call's id is its own in the whole conversation, so it holds the turn.
        turn = f"{len(asked)}:"
        destination, days = read_trip(asked)
        results = _tool_results(messages, turn)
        if destination is not None and tools and not results:
            calls = [
                Content.from_function_call(
                    f"{turn}{tool}:{day}", tool, arguments={"destination": destination, "date": f"day {day}"}
                )
                for day in range(1, min(days, MAX_DAYS) + 1)
                for tool in tools
            ]
            yield ChatResponseUpdate(contents=calls, role="assistant")
            return
        text = ASK_FOR_DESTINATION if destination is None else write_plan(destination, days, results)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, token in enumerate(_TOKEN.findall(text)):
            # Measured from the start, so that what one sleep is too long the next is shorter.
            await asyncio.sleep(start + number / self._tokens_per_second - loop.time())
            yield ChatResponseUpdate(contents=[Content.from_text(token)], role="assistant")


def _tool_results(messages: Sequence[Message], turn: str) -> dict[str, str]:
    """Return what the tools answered in this turn, under ``<tool>:<day>``; empty where a call failed."""
    return {
        str(content.call_id).removeprefix(turn): "" if content.exception else str(content.result)
        for message in messages
        for content in message.contents
        if content.type == "function_result" and str(content.call_id).startswith(turn)
    }
