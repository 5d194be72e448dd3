"""An AG-UI client, small: what the real one does with the frames of a run, written from the protocol's rules.

https://docs.ag-ui.com/concepts/events, and ``verify``, ``chunks`` and ``apply`` of ``@ag-ui/client``.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Client:
    """Takes frames in order, and fails on one that is out of order.

    Attributes:
        messages: What it shows: a list of messages, each with an id of its own.
        ended: The frame that ended the run.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    ended: dict[str, Any] | None = None
    _started: bool = False
    _open: tuple[str, str] | None = None

    def take(self, frame: dict[str, Any]) -> None:
        assert self.ended is None, "nothing comes after the end"
        assert self._started == (frame["type"] != "RUN_STARTED"), "a run starts once, first of all"
        if frame["type"].endswith("_CHUNK"):
            self._take_chunk(frame)
            return
        # What is no chunk ends the one before it.
        self._open = None
        match frame["type"]:
            case "RUN_STARTED":
                self._started = True
            case "RUN_FINISHED" | "RUN_ERROR":
                self.ended = frame
            case "TOOL_CALL_RESULT":
                result = {"id": frame["messageId"], "role": "tool", "content": frame["content"]}
                self.messages.append(result | {"toolCallId": frame["toolCallId"]})
            case "MESSAGES_SNAPSHOT":
                self._replace(frame["messages"])
            case other:
                raise AssertionError(f"{other} is no event of ours")

    def text(self, message_id: str) -> str:
        """Return the text of a message, empty where it shows none of this id."""
        return next((message["content"] for message in self.messages if message["id"] == message_id), "")

    def _take_chunk(self, chunk: dict[str, Any]) -> None:
        match chunk["type"]:
            case "TEXT_MESSAGE_CHUNK":
                self._message(chunk["messageId"], "assistant")["content"] += chunk["delta"]
                self._open = ("text", chunk["messageId"])
            case "REASONING_MESSAGE_CHUNK":
                self._message(chunk["messageId"], "reasoning")["content"] += chunk["delta"]
                self._open = ("reasoning", chunk["messageId"])
            case "TOOL_CALL_CHUNK":
                if self._open != ("call", chunk["toolCallId"]):
                    assert isinstance(chunk["toolCallName"], str), "a call is opened with its name"
                calls = self._message(chunk["parentMessageId"], "assistant").setdefault("toolCalls", {})
                calls[chunk["toolCallId"]] = calls.get(chunk["toolCallId"], "") + chunk["delta"]
                self._open = ("call", chunk["toolCallId"])

    def _message(self, message_id: str, role: str) -> dict[str, Any]:
        for message in self.messages:
            if message["id"] == message_id:
                assert message["role"] == role
                return message
        self.messages.append({"id": message_id, "role": role, "content": ""})
        return self.messages[-1]

    def _replace(self, snapshot: list[dict[str, Any]]) -> None:
        told = {message["id"]: dict(message) for message in snapshot}
        assert len(told) == len(snapshot), "a message has an id of its own"
        keeps_reasoning = not any(message["role"] == "reasoning" for message in snapshot)
        kept = [
            told.get(message["id"], message)
            for message in self.messages
            if message["id"] in told or (keeps_reasoning and message["role"] == "reasoning")
        ]
        known = {message["id"] for message in kept}
        self.messages = kept + [message for key, message in told.items() if key not in known]
