"""A chat client without a network: it reads the conversation, calls the tools and streams a plan, as a model would."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import UTC, datetime
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

from agents.travel_tools import get_local_events, get_weather_forecast
from agents.trip_plan import ask_for_destination, write_plan
from agents.trip_request import MAX_DAYS, TripRequest, read_trip

MODEL = "offline-planner"
# Sleeping for less is not worth it: the event loop would oversleep by as much.
SHORTEST_SLEEP_SECONDS = 0.002
# At a pace beyond what sleeping can keep, others still get their turn this often.
TOKENS_PER_TURN = 50

_TOKEN = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+")


class OfflinePlanner(FunctionInvocationLayer[Any], BaseChatClient[Any]):
    """Plans trips by rules.

    Args:
        tokens_per_second: How fast it streams.
    """

    def __init__(self, tokens_per_second: float) -> None:
        super().__init__()
        self._tokens_per_second = tokens_per_second

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        updates = self._updates(messages, _callable_tools(options))
        if stream:
            return ResponseStream(updates, finalizer=ChatResponse.from_updates)
        return ChatResponse.from_update_generator(updates)

    async def _updates(self, messages: Sequence[Message], tools: list[str]) -> AsyncIterator[ChatResponseUpdate]:
        asked = [message.text for message in messages if message.role == "user"]
        trip = read_trip(asked)
        results = _tool_results(messages)
        response_id = f"offline-{uuid.uuid4().hex}"
        if trip.destination is not None and tools and not results:
            yield _update(response_id, _tool_calls(trip.destination, trip, tools, len(asked)), "tool_calls")
            return
        text = ask_for_destination() if trip.destination is None else write_plan(trip.destination, trip, results)
        async for token in self._paced(split_tokens(text)):
            yield _update(response_id, [Content.from_text(token)])
        yield _update(response_id, [], "stop")

    async def _paced(self, tokens: list[str]) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, token in enumerate(tokens):
            # Measured from the start, so that what one sleep is too long the next is shorter.
            wait = start + number / self._tokens_per_second - loop.time()
            if wait >= SHORTEST_SLEEP_SECONDS:
                await asyncio.sleep(wait)
            elif number % TOKENS_PER_TURN == 0:
                await asyncio.sleep(0)
            yield token


def split_tokens(text: str) -> list[str]:
    """Return the words of a text, each with the whitespace around it; joined, they are the text."""
    return _TOKEN.findall(text)


def _update(response_id: str, contents: list[Content], finish_reason: Any = None) -> ChatResponseUpdate:
    return ChatResponseUpdate(
        contents=contents,
        role="assistant",
        response_id=response_id,
        message_id=response_id,
        model=MODEL,
        created_at=datetime.now(UTC).isoformat(),
        finish_reason=finish_reason,
    )


def _callable_tools(options: Mapping[str, Any]) -> list[str]:
    """Return the names of the planner's tools among those that this call may use."""
    choice = options.get("tool_choice")
    if (choice.get("mode") if isinstance(choice, Mapping) else choice) == "none":
        return []
    offered = {getattr(tool, "name", None) for tool in options.get("tools") or ()}
    return [tool.__name__ for tool in (get_weather_forecast, get_local_events) if tool.__name__ in offered]


def _tool_calls(destination: str, trip: TripRequest, tools: list[str], turn: int) -> list[Content]:
    when = f" in {trip.month}" if trip.month else ""
    return [
        # An id names one call of the whole conversation, so it holds the turn.
        Content.from_function_call(
            f"{turn}:{tool}:{day}", tool, arguments={"destination": destination, "date": f"day {day}{when}"}
        )
        for day in range(1, min(trip.days, MAX_DAYS) + 1)
        for tool in tools
    ]


def _tool_results(messages: Sequence[Message]) -> dict[str, str]:
    """Return what the tools have answered since the newest message of the user's, under ``<tool>:<day>``.

    The answer of a call that failed is empty.
    """
    newest = max((position for position, message in enumerate(messages) if message.role == "user"), default=-1)
    contents = [content for message in messages[newest + 1 :] for content in message.contents]
    return {
        str(content.call_id).partition(":")[2]: "" if content.exception else str(content.result)
        for content in contents
        if content.type == "function_result"
    }
