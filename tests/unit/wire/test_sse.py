import json
from collections.abc import Iterator

import httpx
import httpx_sse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentstream.model import Event
from agentstream.stream.text import TextNormalizer, normalized
from agentstream.wire import sse
from agentstream.wire.pieces import PIECE_BYTES
from tests import event_stream

hostile = st.sampled_from(
    ["\n", "\r\n", "\r", " ", "data:", "data: x\n\n", ":", "\u2028", "\x85", "\x0b", "\ufeff", "\0"]
)
chunks = st.lists(st.one_of(hostile, st.text(st.characters(exclude_categories=[]))))


def event(number: int, text: str, name: str = "message") -> Event:
    return Event(f"{number}-0", name, text, correlation_id="r", attempt=1, sequence=number)


def stored(pieces: list[str]) -> Iterator[str]:
    """The chunks as the writer stores them."""
    normalizer = TextNormalizer()
    for text in [*map(normalizer.feed, pieces), normalizer.feed("", last=True)]:
        if text:
            yield text


def read_by_httpx_sse(stream: bytes) -> list[tuple[str, str, str]]:
    with (
        httpx.Client(
            transport=httpx.MockTransport(
                lambda _: httpx.Response(200, headers={"content-type": sse.MEDIA_TYPE}, content=stream)
            )
        ) as client,
        httpx_sse.connect_sse(client, "GET", "http://stream") as source,
    ):
        return [(read.id, read.event, read.data) for read in source.iter_sse()]


@given(chunks)
def test_any_text_in_any_chunks_is_read_back_exactly(pieces: list[str]) -> None:
    events = [event(number, text) for number, text in enumerate(stored(pieces), 1)]
    stream = b"".join(map(sse.encode, events))

    parsed = event_stream.parse(stream)

    assert [(read.id, read.event, read.data) for read in parsed] == [(sent.id, "message", sent.data) for sent in events]
    assert "".join(read.data for read in parsed) == normalized("".join(pieces))
    assert read_by_httpx_sse(stream) == [(sent.id, "message", sent.data) for sent in events]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_carriage_return_in_an_entry_arrives_as_a_line_feed(text: str) -> None:
    [read] = event_stream.parse(sse.encode(event(1, text or "x")))

    assert read.data == normalized(text or "x")


def test_the_wire_is_that_of_the_contract() -> None:
    assert sse.encode(event(1, "Day 1: Arrival\nDay 2", "message")) == (
        b"id: 1-0\nevent: message\ndata: Day 1: Arrival\ndata: Day 2\n\n"
    )
    assert sse.encode(event(2, "[DONE]", "done")) == b"id: 2-0\nevent: done\ndata: [DONE]\n\n"


def test_one_event_in_both_formats() -> None:
    sent = event(1, "a\nb")

    assert sse.encode(sent) == b"id: 1-0\nevent: message\ndata: a\ndata: b\n\n"
    assert sse.encode(sent, as_json=True) == b'id: 1-0\nevent: message\ndata: {"text": "a\\nb"}\n\n'


TYPED = {
    "tool_call": '{"id": "1", "name": "f", "arguments": "{}"}',
    "tool_result": '{"id": "1", "result": "a\\nb"}',
    "reasoning": '{"text": "hm"}',
    "usage": '{"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}',
    "reset": '{"correlation_id": "r", "reason": "attempt"}',
    "error": '{"code": "timeout", "message": "m", "correlation_id": "r"}',
}


@pytest.mark.parametrize(("kind", "data"), TYPED.items())
def test_an_event_whose_data_is_json_is_the_same_in_both_formats(kind: str, data: str) -> None:
    encoded = sse.encode(event(1, data, kind))

    assert encoded == sse.encode(event(1, data, kind), as_json=True)
    assert encoded == f"id: 1-0\nevent: {kind}\ndata: {data}\n\n".encode()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_as_json_every_text_is_one_line_and_exact_to_the_last_line_break(text: str) -> None:
    encoded = sse.encode(event(1, text), as_json=True)

    [read] = event_stream.parse(encoded)
    assert json.loads(read.data) == {"text": text}
    assert encoded.count(b"\n") == 4
    assert b"\r" not in encoded


@pytest.mark.parametrize(("kind", "status"), [("done", "completed"), ("cancelled", "cancelled")])
def test_as_json_an_end_has_its_status_as_data(kind: str, status: str) -> None:
    [read] = event_stream.parse(sse.encode(event(1, "[MARK]", kind), as_json=True))

    assert json.loads(read.data) == {"status": status}


def test_the_time_to_wait_is_no_event() -> None:
    stream = sse.RETRY + sse.HEARTBEAT + sse.encode(event(1, "a"))

    assert sse.RETRY == b"retry: 500\n"
    assert [read.data for read in event_stream.parse(stream)] == ["a"]
    assert [data for _, _, data in read_by_httpx_sse(stream)] == ["a"]


def test_a_heartbeat_is_no_event() -> None:
    stream = sse.encode(event(1, "a")) + sse.HEARTBEAT + sse.encode(event(2, "b"))

    assert [read.data for read in event_stream.parse(stream)] == ["a", "b"]
    assert [data for _, _, data in read_by_httpx_sse(stream)] == ["a", "b"]


@given(st.lists(st.integers(0, 3 * PIECE_BYTES), max_size=4))
def test_promise_8_bounded_what_is_written_at_a_time(sizes: list[int]) -> None:
    events = [event(number, "é" * (size // 2)) for number, size in enumerate(sizes, 1)]

    pieces = list(sse.pieces(events))

    assert b"".join(pieces) == b"".join(map(sse.encode, events)) or (not events and pieces == [sse.HEARTBEAT])
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
