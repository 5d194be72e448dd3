"""What holds on every wire of frames: whoever resumes has the frames of whoever was never cut."""

import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentstream.model import Event, expired_event
from agentstream.wire.ag_ui import AgUiEncoder
from agentstream.wire.frames import NOWHERE, FrameEncoder, Position
from agentstream.wire.ui_message import UiMessageEncoder
from tests.unit.wire.a_run import RUN, event, frames_of, runs

Encoders = Callable[[Position], FrameEncoder]
WIRES: dict[str, Encoders] = {
    "ag_ui 1.0": lambda after: AgUiEncoder("t", "r", RUN, speaks_1_0=True, after=after),
    "ag_ui 0.0.59": lambda after: AgUiEncoder("t", "r", RUN, speaks_1_0=False, after=after),
    "ag_ui, joining": lambda after: AgUiEncoder("t", "r", RUN, speaks_1_0=True, joins=True, after=after),
    "ui_message": lambda after: UiMessageEncoder(RUN, after=after),
}
all_wires = pytest.mark.parametrize("encoder", WIRES.values(), ids=WIRES)


def sent(encoder: FrameEncoder, events: Sequence[Event]) -> list[bytes]:
    """The frames of one connection, fed the run from its beginning."""
    return [*encoder.begin(), *encoder.encode(events)]


def id_of(frame: bytes) -> str:
    [(frame_id, _)] = frames_of(frame)
    return frame_id


@all_wires
@settings(deadline=None)
@given(data=st.data(), events=runs())
def test_promise_2_nothing_twice_over_any_cuts_the_frames_are_the_uncut_ones(
    encoder: Encoders, data: st.DataObject, events: list[Event]
) -> None:
    uncut = sent(encoder(NOWHERE), events)
    got: list[bytes] = []
    for _ in range(data.draw(st.integers(0, 4), "cuts")):
        after = Position.parse(id_of(got[-1])) if got else NOWHERE
        rest = sent(encoder(after), events)
        got += rest[: data.draw(st.integers(0, len(rest)), "frames until the cut")]
    after = Position.parse(id_of(got[-1])) if got else NOWHERE
    got += sent(encoder(after), events)

    assert got == uncut
    assert len(set(map(id_of, uncut))) == len(uncut)


@all_wires
@settings(deadline=None)
@given(events=runs())
def test_the_id_of_an_entry_stands_for_all_its_frames(encoder: Encoders, events: list[Event]) -> None:
    uncut = sent(encoder(NOWHERE), events)

    for each in events:
        rest = sent(encoder(Position.parse(each.id)), events)
        assert rest == [frame for frame in uncut if Position.parse(id_of(frame)) > Position.parse(each.id)]


@all_wires
def test_what_a_failover_lost_is_told_again_whatever_its_ids(encoder: Encoders) -> None:
    """A follower that holds more than Redis does is told so by a reset that no entry holds, and then all of the run."""
    events = [event("1-0", "message", "the answer"), event("2-0", "done", "[DONE]")]
    told = [expired_event("0-0", RUN), *events]

    lost = sent(encoder(Position.parse("500-0.3")), told)
    resumed = sent(encoder(Position.parse(id_of(lost[0]))), events)

    assert lost[1:] == sent(encoder(NOWHERE), events)[-len(lost[1:]) :]
    assert resumed == lost[1:]


@all_wires
def test_a_failover_in_the_middle_of_a_response_is_told_on_it(encoder: Encoders) -> None:
    connection = encoder(NOWHERE)
    sent(connection, [event("500-0", "message", "the lost")])

    told = list(connection.encode([expired_event("0-0", RUN), event("1-0", "message", "the answer")]))

    assert len(told) >= 2
    assert b"the answer" in told[-1]


@all_wires
def test_a_frame_is_an_id_and_one_line_of_data(encoder: Encoders) -> None:
    frame = list(encoder(NOWHERE).encode([event("5-1", "message", "a\nb\r\u2028ü")]))[-1]

    assert re.fullmatch(r"id: 5-1\.\d\ndata: \{[^\r\n]+\}\n\n", frame.decode())


@pytest.mark.parametrize("wrong", ["1", "1-0.", "1-0.x", "1-0.1.1", "1-0.-1", "yesterday", "99999999999999999999-0.1"])
def test_what_is_no_place_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong.removesuffix(".1"))):
        Position.parse(wrong)
