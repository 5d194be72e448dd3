"""What an agent's contents tell: the framework's contents → the kinds and data of events."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agent_framework import Content

from agentstream.agent_memory import to_json
from agentstream.model import MESSAGE, REASONING, TOOL_CALL, TOOL_RESULT, USAGE, Piece
from agentstream.stream.text import TextNormalizer, well_formed


class _Tokens(NamedTuple):
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0

    def plus(self, other: "_Tokens") -> "_Tokens":
        return _Tokens(*(one + another for one, another in zip(self, other, strict=True)))

    def since(self, told: "_Tokens") -> "_Tokens":
        """Return what was used since so much was told; all of it where the count has begun anew."""
        spent = _Tokens(*(one - another for one, another in zip(self, told, strict=True)))
        return self if min(spent) < 0 else spent


@dataclass(eq=False)
class _Call:
    """A tool call of which the result has not come.

    Attributes:
        id: What it is told under, for good, though the model may name the call later.
        name: The tool's name, empty until it is known: nothing is told before.
        occurrence: What the framework names it by, where it does.
        index: Its place within the model's answer, where the model's client notes it.
        call_id: What the model names it by, empty until it does.
        held: Arguments that are not told yet.
        has_arguments: Whether any have come.
        is_told: Whether the first piece, which has the name, was told.
        is_streaming: Whether more pieces may come.
    """

    id: str
    name: str = ""
    occurrence: str | None = None
    index: tuple[Any, Any] | None = None
    call_id: str = ""
    held: str = ""
    has_arguments: bool = False
    is_told: bool = False
    is_streaming: bool = True
    _normalizer: TextNormalizer = field(default_factory=TextNormalizer)

    def goes_on_with(self, content: Content, *, is_last: bool) -> bool:
        """Return whether the content is a further piece of this call."""
        if self.occurrence and content.id:
            return self.occurrence == content.id
        has_other_id = bool(self.call_id and content.call_id and self.call_id != content.call_id)
        index = _index(content)
        if self.index is not None and index is not None:
            return self.index == index and not has_other_id
        if self.call_id and content.call_id:
            return not has_other_id
        # A piece that names neither the call nor a tool belongs to the call that is being streamed.
        return is_last and not content.name

    def is_answered_by(self, content: Content) -> bool:
        """Return whether the content is the result of this call."""
        if self.occurrence and content.id:
            return self.occurrence == content.id
        return self.call_id == (content.call_id or "")

    def take(self, content: Content) -> Iterator[Piece]:
        """Learn what the content says of the call, and yield the piece that can be told."""
        self.name = self.name or content.name or ""
        self.call_id = self.call_id or content.call_id or ""
        self.occurrence = self.occurrence or content.id
        self.index = _index(content) if self.index is None else self.index
        is_whole = isinstance(content.arguments, Mapping) or content.merge_mode == "replace"
        # What came in pieces may be stated once more as a whole.
        arguments = "" if is_whole and self.has_arguments else _as_text(content.arguments)
        self.has_arguments = self.has_arguments or bool(arguments)
        yield from self._tell(self._normalizer.feed(arguments))

    def end(self) -> Iterator[Piece]:
        """Yield what is left to be told: no more pieces come."""
        self.is_streaming = False
        yield from self._tell(self._normalizer.feed("" if self.has_arguments else "{}", last=True))

    def _tell(self, arguments: str) -> Iterator[Piece]:
        self.held += arguments
        if self.name and (self.held or not self.is_told):
            name = {} if self.is_told else {"name": self.name}
            yield Piece(TOOL_CALL, to_json({"id": self.id, **name, "arguments": self.held}))
            self.held, self.is_told = "", True


class AgentEvents:
    """Turns what an agent streams, or has committed, into what is told of it, in the same order.

    A tool call is told in the pieces in which it comes. Its id is the model's, unless that comes after the first piece,
    never, or was another call's: then one is made of the run and the number of the call within it, which is the same in
    another attempt (for the framework, such a call has an id that is random).

    Text is passed on as it is (``AttemptWriter.write`` normalizes it). What is no event is passed over: data, hosted
    tools, approvals.

    Args:
        correlation_id: The run.
        max_result_bytes: After so many bytes of UTF-8 a tool's result is cut.
    """

    def __init__(self, correlation_id: str, max_result_bytes: int) -> None:
        self._correlation_id = correlation_id
        self._max_result_bytes = max_result_bytes
        self._calls: list[_Call] = []
        self._ids: list[str] = []
        self._reasoning = TextNormalizer()
        # The types of contents that are being streamed in pieces.
        self._in_pieces: set[str] = set()
        self._used = self._told = _Tokens()

    def feed(self, contents: Iterable[Content]) -> Iterator[Piece]:
        """Yield what these contents tell, which come after those before."""
        for content in contents:
            match content.type:
                case "text" if self._is_new(content):
                    yield Piece(MESSAGE, content.text or "")
                case "function_call":
                    yield from self._call_of(content).take(content)
                case "function_result":
                    # The model's answer is over that made the call.
                    yield from self.rest()
                    yield self._result(content)
                case "text_reasoning" if self._is_new(content):
                    yield from self._tell_reasoning(content.text or "")
                case "usage":
                    self._count(content)

    def rest(self) -> Iterator[Piece]:
        """Yield what waited for the end of the model's answer, at the latest at the end of the stream."""
        yield from self._tell_reasoning("", last=True)
        self._reasoning = TextNormalizer()
        self._in_pieces.clear()
        for call in self._calls:
            if call.is_streaming:
                yield from call.end()
        spent = self._used.since(self._told)
        self._told = self._used
        if any(spent):
            yield Piece(USAGE, to_json(spent._asdict()))

    def _is_new(self, content: Content) -> bool:
        """Return whether this is not the whole of what came in pieces, as some model services state it at the end."""
        if content.merge_mode != "replace":
            if content.text:
                self._in_pieces.add(content.type)
            return True
        is_new = content.type not in self._in_pieces
        self._in_pieces.discard(content.type)
        return is_new

    def _call_of(self, content: Content) -> _Call:
        streaming = [call for call in reversed(self._calls) if call.is_streaming]
        for call in streaming:
            if call.goes_on_with(content, is_last=call is streaming[0]):
                return call
        if not streaming:
            # The calls of the model's answer before have their results, or never will.
            self._calls.clear()
        self._calls.append(_Call(self._new_id(content.call_id)))
        return self._calls[-1]

    def _new_id(self, call_id: str | None) -> str:
        if not call_id or call_id in self._ids:
            call_id = f"{self._correlation_id}-call-{len(self._ids) + 1}"
        self._ids.append(call_id)
        return call_id

    def _result(self, content: Content) -> Piece:
        result, is_cut = _cut(_as_text(content.result), self._max_result_bytes)
        told = {"id": self._answered_by(content), "result": result}
        return Piece(TOOL_RESULT, to_json(told | {"truncated": True} if is_cut else told))

    def _answered_by(self, content: Content) -> str:
        for call in self._calls:
            if call.is_answered_by(content):
                self._calls.remove(call)
                return call.id
        return content.call_id or self._new_id(None)

    def _tell_reasoning(self, text: str, *, last: bool = False) -> Iterator[Piece]:
        if certain := self._reasoning.feed(text, last=last):
            yield Piece(REASONING, to_json({"text": certain}))

    def _count(self, content: Content) -> None:
        details: Mapping[str, Any] = content.usage_details or {}
        read, written = (int(details.get(f"{side}_token_count") or 0) for side in ("input", "output"))
        tokens = _Tokens(read, written, int(details.get("total_token_count") or read + written))
        # The framework restates the sum of a run's calls so far; each is told alone.
        self._used = tokens if content.merge_mode == "replace" else self._used.plus(tokens)


def committed_pieces(contents: Iterable[Content], correlation_id: str, max_result_bytes: int) -> list[Piece]:
    """Return what the contents of a committed response tell: its text, normalized, and its tool calls and results.

    A text may be longer than one entry should be (``split_answer``).
    """
    events, normalizer = AgentEvents(correlation_id, max_result_bytes), TextNormalizer()
    told = [*events.feed(contents), *events.rest(), Piece(MESSAGE, "")]
    last = len(told) - 1
    texts = (
        normalizer.feed(piece.data, last=number == last) if piece.kind == MESSAGE else piece.data
        for number, piece in enumerate(told)
    )
    return [piece._replace(data=text) for piece, text in zip(told, texts, strict=True) if text]


def _index(content: Content) -> tuple[Any, Any] | None:
    """Return the place of a call within the model's answer, which the OpenAI client notes on each of its pieces."""
    known = content.additional_properties
    index = known.get("tool_call_index")
    return None if index is None else (known.get("tool_call_choice_index"), index)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str, max_bytes: int) -> tuple[str, bool]:
    """Return the text in at most so many bytes of UTF-8, without half a character, and whether it was cut."""
    encoded = well_formed(text).encode()
    return encoded[:max_bytes].decode(errors="ignore"), len(encoded) > max_bytes
