"""A run's events → AG-UI, protocol 1.0 and the versions before it (https://docs.ag-ui.com/concepts/events).

Text, reasoning and tool calls are sent as the protocol's chunks, which a client expands into start, content and end. A
chunk needs nothing before it: should the stream expire and be restored while a follower is away, nobody knows any more
what it has open, and an end too many is as wrong as one too few.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from agentstream.model import FIRST_CURSOR, Event
from agentstream.wire.frames import NOWHERE, FrameEncoder, Position

# A client that speaks this version says so; since then a run can finish as cancelled.
VERSION = "1.0"
TOKENS = {"input_tokens": "inputTokens", "output_tokens": "outputTokens", "total_tokens": "totalTokens"}


class Message(Protocol):
    """What was said: by ``user`` or ``assistant``, and the text."""

    @property
    def role(self) -> str: ...

    @property
    def text(self) -> str: ...


class AgUiEncoder(FrameEncoder):
    """Encodes one run. Its answer is one message, whose id is the run's.

    Args:
        thread_id: The client's name of the conversation.
        run_id: The client's name of the run.
        correlation_id: Ours; None where there is no run to tell of, only what was said.
        speaks_1_0: Whether the client says that it speaks version 1.0.
        joins: Whether to begin with what was said, for a client that does not know it.
        after: What the follower has.

    Attributes:
        said: What was said before the run, and its own message. To be set where it ``joins`` and ``needs_said``.
    """

    def __init__(
        self,
        thread_id: str,
        run_id: str,
        correlation_id: str | None,
        *,
        speaks_1_0: bool,
        joins: bool = False,
        after: Position = NOWHERE,
    ) -> None:
        super().__init__(after)
        self.said: Sequence[Message] = ()
        self._run = {"threadId": thread_id, "runId": run_id}
        self._answer_id = correlation_id
        self._reasoning_id = f"{correlation_id}.reasoning"
        self._speaks_1_0 = speaks_1_0
        self._joins = joins
        self._tools: dict[str, str] = {}
        self._reasons = False
        self._tokens: dict[str, int] = {}

    def needs_said(self, events: Iterable[Event] = ()) -> bool:
        """Return whether the frames of these events, or without any those before them, tell what was said."""
        if not events:
            return self._joins
        return any(event.kind == "reset" and (event.id == FIRST_CURSOR or self.is_new(event.id, 0)) for event in events)

    def opening(self) -> list[Any]:
        version = {"protocolVersion": VERSION} if self._speaks_1_0 else {}
        told: list[Any] = [{"type": "RUN_STARTED", **self._run, **version}]
        if self._joins:
            told.append(self._snapshot(self._run["runId"]))
        if self._answer_id is None:
            told.append(self._ended("RUN_FINISHED", **self._run))
        return told

    def told(self, event: Event) -> Iterator[Any]:
        match event.kind:
            case "message":
                yield _chunk("TEXT_MESSAGE", messageId=self._answer_id, role="assistant", delta=event.data)
            case "reasoning":
                self._reasons = True
                delta = json.loads(event.data)["text"]
                yield _chunk("REASONING_MESSAGE", messageId=self._reasoning_id, delta=delta)
            case "tool_call":
                yield self._tool_call(json.loads(event.data))
            case "tool_result":
                yield self._tool_result(json.loads(event.data))
            case "usage":
                self._use(json.loads(event.data))
            case "reset":
                yield self._reset(event)
            case "done":
                yield self._ended("RUN_FINISHED", **self._run)
            case "cancelled" if self._speaks_1_0:
                yield self._ended("RUN_FINISHED", **self._run, outcome={"type": "cancelled"})
            case "cancelled":
                yield self._ended("RUN_ERROR", message="The run was cancelled.", code="cancelled")
            case "error":
                error = json.loads(event.data)
                yield self._ended("RUN_ERROR", message=error["message"], code=error["code"])

    def _tool_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        # Pieces of several calls may alternate, and a client closes one for the other: each piece opens its call anew.
        name = self._tools.setdefault(call["id"], call.get("name", ""))
        return _chunk(
            "TOOL_CALL",
            toolCallId=call["id"],
            toolCallName=name,
            parentMessageId=self._answer_id,
            delta=call["arguments"],
        )

    def _tool_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        content = result["result"]
        told = {
            "type": "TOOL_CALL_RESULT",
            "messageId": f"{self._answer_id}.{result['id']}",
            "toolCallId": result["id"],
            "content": content if isinstance(content, str) else json.dumps(content, ensure_ascii=False),
            "role": "tool",
        }
        return told | {"metadata": {"truncated": True}} if result.get("truncated") else told

    def _use(self, used: Mapping[str, Any]) -> None:
        for ours, theirs in TOKENS.items():
            self._tokens[theirs] = self._tokens.get(theirs, 0) + (used.get(ours) or 0)

    def _reset(self, event: Event) -> dict[str, Any]:
        """Return the snapshot that drops the run's output: what it does not name, a client forgets, but for reasoning,
        which it forgets only where the snapshot has some."""
        snapshot = self._snapshot(f"{self._answer_id}.{event.id}")
        self._tools.clear()
        self._reasoning_id = f"{self._answer_id}.reasoning.{event.id}"
        # A stream that was restored does not say whether there was any.
        if self._reasons or json.loads(event.data)["reason"] == "expired":
            snapshot["messages"].append({"id": self._reasoning_id, "role": "reasoning", "content": ""})
        return snapshot

    def _snapshot(self, name: str) -> dict[str, Any]:
        """Return what was said, under names that a client does not know: those that it knows it leaves in their places,
        and puts all others after them."""
        messages = [
            {"id": f"{name}.{number}", "role": message.role, "content": message.text}
            for number, message in enumerate(self.said)
        ]
        return {"type": "MESSAGES_SNAPSHOT", "messages": messages}

    def _ended(self, kind: str, **fields: Any) -> dict[str, Any]:
        usage = {"usage": [dict(self._tokens)]} if self._tokens else {}
        return {"type": kind, **fields, **usage}


def _chunk(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"{kind}_CHUNK", **fields}
