import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentstream.model import CANCELLED, DONE, Event, Outcome, expired_event
from agentstream.wire import plain
from agentstream.wire.pieces import PIECE_BYTES


def event(kind: str, data: str) -> Event:
    return Event("1-0", kind, data, "r", 1, 0)


def written(*events: Event) -> str:
    return b"".join(plain.pieces(events)).decode()


@given(st.lists(st.text()))
def test_the_text_is_the_messages_and_nothing_else(texts: list[str]) -> None:
    assert written(*(event("message", text) for text in texts)) == "".join(texts)


@pytest.mark.parametrize("outcome", [DONE, CANCELLED])
def test_an_end_ends_the_line_and_shows_no_mark(outcome: Outcome) -> None:
    assert written(event("message", "Day 1"), event(outcome.event, outcome.data)) == "Day 1\n"


def test_an_error_is_told_by_its_message() -> None:
    failure = Outcome.failure("timeout", "r")

    text = written(event("message", "Day 1"), event(failure.event, failure.data))

    assert text == "Day 1\n\n[The answer took too long and was stopped. Send the message again, or a simpler one.]\n"


def test_a_reset_is_told_where_the_answer_starts_again() -> None:
    text = written(event("message", "wro"), expired_event("1-0", "r"), event("message", "right"))

    assert text == "wro\n\n[The answer starts again.]\n\nright"


@pytest.mark.parametrize("kind", ["tool_call", "tool_result", "reasoning", "usage"])
def test_what_is_no_part_of_the_answer_is_not_written(kind: str) -> None:
    assert written(event("message", "Day "), event(kind, '{"text": "hm"}'), event("message", "1")) == "Day 1"


def test_a_silence_is_nothing() -> None:
    assert list(plain.pieces([])) == []


def test_promise_8_bounded_no_piece_is_larger_than_what_may_wait_for_a_follower() -> None:
    text = "ü🚀" * PIECE_BYTES

    pieces = list(plain.pieces([event("message", text)]))

    assert b"".join(pieces).decode() == text
    assert max(map(len, pieces)) == PIECE_BYTES


def test_a_response_that_ends_early_says_where_to_go_on() -> None:
    assert b"cursor=5-1." in plain.more_to_come("5-1")
