"""A run's events → the AI SDK's UI message stream, version 1 (https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol).

A run is one message of one step, since a ``reset-step`` drops one step. Version 6 of the SDK does not know it and
fails there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentstream.model import Event
from agentstream.wire.frames import NOWHERE, FrameEncoder, Position

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
DONE = "[DONE]"
# For the result of a call that was never told.
UNNAMED = "tool"
# The client declares no tools, and has none to execute.
OURS = {"dynamic": True, "providerExecuted": True}


@dataclass(slots=True)
class _Call:
    """A tool call as far as it has come."""

    id: str
    name: str
    arguments: str = ""
    is_told: bool = False
    has_result: bool = False


class UiMessageEncoder(FrameEncoder):
    """Encodes one run.

    Args:
        correlation_id: The run, and so the id of its message.
        after: What the follower has.
    """

    def __init__(self, correlation_id: str, *, after: Position = NOWHERE) -> None:
        super().__init__(after)
        self._message_id = correlation_id
        # The kind of the part that is being streamed: text or reasoning.
        self._part: str | None = None
        self._calls: dict[str, _Call] = {}

    def opening(self) -> list[Any]:
        return [{"type": "start", "messageId": self._message_id}, {"type": "start-step"}]

    def told(self, event: Event) -> Iterator[Any]:
        match event.kind:
            case "message":
                yield from self._inputs()
                yield from self._piece("text", event.data)
            case "reasoning":
                yield from self._piece("reasoning", json.loads(event.data)["text"])
            case "tool_call":
                yield from self._tool_call(json.loads(event.data))
            case "tool_result":
                yield from self._tool_result(json.loads(event.data))
            case "usage":
                yield from self._inputs()
            case "reset":
                self._part = None
                self._calls.clear()
                yield {"type": "reset-step"}
            case "done":
                yield from self._end({"type": "finish-step"}, {"type": "finish", "finishReason": "stop"})
            case "cancelled":
                yield from self._end({"type": "abort"})
            case "error":
                yield from self._end({"type": "error", "errorText": json.loads(event.data)["message"]})

    def _piece(self, part: str, delta: str) -> Iterator[Any]:
        if self._part != part:
            yield from self._end_part()
            self._part = part
            yield {"type": f"{part}-start", "id": part}
        yield {"type": f"{part}-delta", "id": part, "delta": delta}

    def _end_part(self) -> Iterator[Any]:
        if self._part is not None:
            yield {"type": f"{self._part}-end", "id": self._part}
            self._part = None

    def _tool_call(self, piece: Mapping[str, Any]) -> Iterator[Any]:
        call = self._calls.get(piece["id"])
        if call is None:
            yield from self._end_part()
            call = self._calls[piece["id"]] = _Call(piece["id"], piece.get("name", UNNAMED))
            yield {"type": "tool-input-start", **_named(call)}
        if piece["arguments"] and not call.has_result:
            call.arguments += piece["arguments"]
            call.is_told = False
            yield {"type": "tool-input-delta", "toolCallId": call.id, "inputTextDelta": piece["arguments"]}

    def _tool_result(self, result: Mapping[str, Any]) -> Iterator[Any]:
        yield from self._inputs()
        if result["id"] not in self._calls:
            yield from self._tool_call({"id": result["id"], "arguments": ""})
            yield from self._inputs()
        self._calls[result["id"]].has_result = True
        told = {"type": "tool-output-available", "toolCallId": result["id"], "output": result["result"], **OURS}
        yield told | {"toolMetadata": {"truncated": True}} if result.get("truncated") else told

    def _inputs(self) -> Iterator[Any]:
        """Yield the inputs of the calls that are complete now: the model has gone on to something else."""
        for call in self._calls.values():
            if not call.is_told:
                call.is_told = True
                yield _input(call)

    def _end(self, *told: dict[str, Any]) -> Iterator[Any]:
        yield from self._inputs()
        yield from self._end_part()
        yield from told
        yield DONE


def _input(call: _Call) -> dict[str, Any]:
    try:
        return {"type": "tool-input-available", **_named(call), "input": json.loads(call.arguments or "{}")}
    except ValueError:
        told = {"type": "tool-input-error", **_named(call), "input": call.arguments}
        return told | {"errorText": "The model's arguments are not valid JSON."}


def _named(call: _Call) -> dict[str, Any]:
    return {"toolCallId": call.id, "toolName": call.name, **OURS}
