"""How the smoke test reads a stream, and notices what is wrong in it."""

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentstream.model import Event as StreamEvent
from agentstream.wire import sse
from infra.smoke_test import Event, Heard, SmokeError, read_events
from tests.event_stream import parse

TEXTS = st.lists(st.text(alphabet="ab :\n\r\t😀", min_size=1), min_size=1, max_size=5)


@given(TEXTS)
def test_it_reads_what_a_browser_reads(texts: list[str]) -> None:
    events = [
        StreamEvent(f"{number + 1}-0", "message", text, correlation_id="r", attempt=1, sequence=number)
        for number, text in enumerate(texts)
    ]
    sent = b"".join(sse.pieces(events))

    read = list(read_events(io.BytesIO(sent), math.inf))

    assert [(each.id, each.name, each.data) for each in read] == [
        (each.id, each.event, each.data) for each in parse(sent)
    ]


def test_a_comment_is_no_event_and_a_cut_one_neither() -> None:
    stream = io.BytesIO(b": still there\n\nid: 1-0\ndata: a\n\nid: 2-0\ndata: cut")

    assert list(read_events(stream, math.inf)) == [Event("1-0", "message", "a")]


@pytest.mark.parametrize("repeated", ["5-1", "5-0", "4-9"])
def test_an_event_that_is_not_newer_is_told(repeated: str) -> None:
    heard = Heard()
    heard.add(Event("5-1", "message", "a"))

    with pytest.raises(SmokeError, match="lost or repeated"):
        heard.add(Event(repeated, "message", "b"))


def test_a_reset_drops_the_text_and_the_end_is_known() -> None:
    heard = Heard()
    for number, (name, data) in enumerate([("message", "a"), ("reset", "{}"), ("message", "b"), ("done", "[DONE]")]):
        assert not heard.ended
        heard.add(Event(f"{number}-0", name, data))

    assert (heard.text, heard.ended, heard.last_id) == ("b", True, "3-0")


def test_a_stream_beyond_its_time_is_told() -> None:
    with pytest.raises(SmokeError, match="the run's end does not come"):
        list(read_events(io.BytesIO(b": still there\n\n"), -math.inf))
