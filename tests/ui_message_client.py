"""A client of the AI SDK's UI message stream, small: what the real one does with the frames of a message."""

from typing import Any


class Client:
    """Builds the message, and fails on what ``processUIMessageStream`` of the SDK throws at.

    Attributes:
        message_id: The message's id.
        parts: Its parts: text and reasoning as ``[kind, text]``, and tools by their call's id.
        ended: The frames from the end of the parts on.
    """

    def __init__(self) -> None:
        self.message_id = ""
        self.parts: list[list[str]] = []
        self.tools: dict[str, dict[str, Any]] = {}
        self.ended: list[Any] = []
        self._open: dict[str, list[str]] = {}

    def take(self, frame: Any) -> None:
        kind = "[DONE]" if frame == "[DONE]" else frame["type"]
        what, _, step = kind.partition("-")
        if self.ended or kind in ("finish-step", "abort", "error"):
            self.ended.append(kind)
        elif kind == "start":
            assert not self.message_id
            self.message_id = frame["messageId"]
        elif kind == "start-step":
            assert self.message_id
        elif kind == "reset-step":
            self.parts, self.tools, self._open = [], {}, {}
        elif what in ("text", "reasoning"):
            self._take_piece(what, step, frame)
        else:
            self._take_tool(kind, frame)

    def _take_piece(self, what: str, step: str, frame: dict[str, Any]) -> None:
        if step == "start":
            assert not self._open, "one part at a time"
            self.parts.append([what, ""])
            self._open[frame["id"]] = self.parts[-1]
        elif step == "delta":
            self._open[frame["id"]][1] += frame["delta"]
        else:
            del self._open[frame["id"]]

    def _take_tool(self, kind: str, frame: dict[str, Any]) -> None:
        if kind == "tool-input-start":
            assert frame["toolCallId"] not in self.tools
            self.tools[frame["toolCallId"]] = {"name": frame["toolName"], "text": ""}
        tool = self.tools[frame["toolCallId"]]
        tool["state"] = kind
        tool["text"] += frame.get("inputTextDelta", "")
        tool |= {name: frame[name] for name in ("input", "output") if name in frame}
