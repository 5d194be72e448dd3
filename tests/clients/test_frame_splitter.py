"""``FrameSplitter`` of resumable-fetch.js against a parser written from the standard: any bytes, cut anywhere."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clients.harness import FOLDER, needs_node
from tests.event_stream import ParsedEvent, parse

pytestmark = needs_node

Frames = list[dict[str, Any]]
Split = Callable[[list[bytes]], Frames]

LINE_BREAKS = st.sampled_from(["\n", "\r\n", "\r"])
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=12)
FIELDS = st.sampled_from(["data", "id", "event", "retry", "", "x", "data:", "id ", "\ufeffdata"])
LINES = st.one_of(
    st.just(""),
    FIELDS,
    st.builds("{}:{}".format, FIELDS, VALUES),
    st.builds("{}: {}".format, FIELDS, VALUES),
    VALUES,
)
STREAMS = st.lists(st.builds("{}{}".format, LINES, LINE_BREAKS), max_size=24).map("".join).map(str.encode)


@pytest.fixture(scope="module")
def split() -> Iterator[Split]:
    process = subprocess.Popen(
        ["node", "frame_splitter.mjs"], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(pieces: list[bytes]) -> Frames:
            stdin.write(json.dumps([base64.b64encode(piece).decode() for piece in pieces]) + "\n")
            stdin.flush()
            frames: Frames = json.loads(stdout.readline())
            return frames

        yield ask


def events(frames: Frames) -> list[ParsedEvent]:
    """Return the events that these frames are."""
    found, last_id = [], ""
    for frame in frames:
        last_id = frame.get("id", last_id)
        if "data" in frame:
            found.append(ParsedEvent(last_id, frame.get("event") or "message", frame["data"]))
    return found


@settings(max_examples=200, deadline=None)
@given(stream=STREAMS, cuts=st.data())
def test_the_events_are_those_of_the_standard_wherever_the_stream_is_cut(
    split: Split, stream: bytes, cuts: st.DataObject
) -> None:
    at = sorted(cuts.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True)]

    frames = split(pieces)

    assert events(frames) == parse(stream)
    forwarded = "".join(frame["text"] for frame in frames).encode()
    assert parse(forwarded) == parse(stream)


@settings(max_examples=100, deadline=None)
@given(stream=STREAMS)
def test_it_does_the_same_byte_by_byte(split: Split, stream: bytes) -> None:
    assert split([bytes([byte]) for byte in stream]) == split([stream])


def test_an_unfinished_event_is_none(split: Split) -> None:
    whole, unfinished = b"id: 1\nevent: message\ndata: a\n\n", b"id: 2\nevent: message\ndata: b\n"

    assert [event.id for event in events(split([whole + unfinished]))] == ["1"]


def test_a_comment_is_told_at_once_though_no_empty_line_follows(split: Split) -> None:
    assert split([b": heartbeat\n"]) == [{"text": ": heartbeat\n", "isComment": True}]
