import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentstream.model import (
    ANSWER_CHUNK_CHARACTERS,
    CANCELLED,
    DONE,
    ERROR_MESSAGES,
    MAX_CURSOR_PART,
    Event,
    LostRun,
    Outcome,
    Piece,
    RunInput,
    RunKey,
    RunResult,
    RunStatus,
    cursor_order,
    expired_event,
    parse_cursor,
    split_answer,
    text_pieces,
)

CURSOR_PARTS = st.integers(0, MAX_CURSOR_PART)
CURSORS = st.tuples(CURSOR_PARTS, CURSOR_PARTS)


def test_a_run_is_open_until_one_of_its_four_ends() -> None:
    assert {status for status in RunStatus if status.is_open} == {"queued", "running", "cancelling"}


def test_three_kinds_of_event_are_terminal() -> None:
    kinds = ["message", "reset", "done", "error", "cancelled", "tool_call"]

    terminal = [kind for kind in kinds if Event("1-0", kind, "", "r", 1, 0).is_terminal]

    assert terminal == ["done", "error", "cancelled"]


@pytest.mark.parametrize("code", ERROR_MESSAGES)
def test_a_failure_is_an_error_event_with_a_code_a_message_and_the_run(code: str) -> None:
    failure = Outcome.failure(code, "r")

    assert (failure.event, failure.status) == ("error", "timed_out" if code == "timeout" else "failed")
    assert json.loads(failure.data) == {"code": code, "message": ERROR_MESSAGES[code], "correlation_id": "r"}


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (RunResult(status=RunStatus.COMPLETED, response="a"), DONE),
        (RunResult(status=RunStatus.CANCELLED, response="a"), CANCELLED),
        # The run was cancelled before its agent failed, and a run has one end.
        (RunResult(status=RunStatus.CANCELLED, code="model_error"), CANCELLED),
        (RunResult(status=RunStatus.TIMED_OUT, code="timeout"), Outcome.failure("timeout", "r")),
        (RunResult(status=RunStatus.FAILED, code="model_error"), Outcome.failure("model_error", "r")),
    ],
)
def test_each_result_has_one_outcome(result: RunResult, outcome: Outcome) -> None:
    assert result.outcome("r") == outcome


class TestRunKey:
    def test_it_travels_in_a_requests_options_and_leaves_the_others_alone(self) -> None:
        key = RunKey("c", "r", 5)
        options = {"temperature": 0.5, **json.loads(json.dumps(key.options()))}

        assert RunKey.take_from(options) == key
        assert options == {"temperature": 0.5}

    def test_a_call_without_a_run_has_none(self) -> None:
        assert RunKey.take_from({}) is None

    def test_it_is_part_of_the_orchestrations_input(self) -> None:
        run = RunInput(agent="A", conversation_id="c", correlation_id="r", message="hi", timeout_seconds=1, created=5)

        assert run.key == RunKey("c", "r", 5)


class TestLostRun:
    @given(st.text(max_size=3 * ANSWER_CHUNK_CHARACTERS))
    def test_a_follower_is_told_of_a_reset_the_answer_and_the_end(self, answer: str) -> None:
        first, *messages, last = LostRun("r", "A", DONE, text_pieces(answer)).events("7-1")

        assert first == expired_event("7-1", "r")
        assert {message.kind for message in messages} <= {"message"}
        assert "".join(message.data for message in messages) == answer
        assert (last.kind, last.data) == ("done", "[DONE]")
        assert {event.id for event in (first, *messages, last)} == {"7-1"}

    def test_tool_calls_and_results_are_told_where_they_came(self) -> None:
        pieces = [Piece("message", "a"), Piece("tool_call", "{}"), Piece("tool_result", "{}"), Piece("message", "b")]

        events = LostRun("r", "A", DONE, pieces).events("7-1")

        assert [Piece(event.kind, event.data) for event in events[1:-1]] == pieces

    def test_of_an_open_one_there_is_nothing_to_tell(self) -> None:
        assert LostRun("r", "A", None).events("7-1") == []

    def test_the_script_is_given_an_open_one_as_queued_and_an_ended_one_with_its_end(self) -> None:
        run = {"correlation_id": "r", "agent": "A", "created": 5}

        pieces = [Piece("message", "so far"), Piece("tool_call", "{}")]

        assert LostRun("r", "A", None, created=5).to_json() == {**run, "status": "queued"}
        assert LostRun("r", "A", CANCELLED, pieces, 5).to_json() == {
            **run,
            "status": "cancelled",
            "event": "cancelled",
            "data": "[CANCELLED]",
            "chunks": [("so far",), ("{}", "tool_call")],
        }


@given(st.text())
def test_what_is_no_entry_id_is_no_cursor(text: str) -> None:
    parts = text.split("-")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() and int(part) <= MAX_CURSOR_PART for part in parts):
        return
    with pytest.raises(ValueError, match=rf"^{re.escape(text)}$"):
        parse_cursor(text)


@given(CURSORS)
def test_every_entry_id_is_a_cursor(parts: tuple[int, int]) -> None:
    cursor = f"{parts[0]}-{parts[1]}"

    assert parse_cursor(cursor) == cursor


@pytest.mark.parametrize("cursor", [f"{MAX_CURSOR_PART + 1}-0", f"0-{MAX_CURSOR_PART + 1}", "1-0\n", "١-0", "-1-0"])
def test_what_redis_would_refuse_is_no_cursor(cursor: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(cursor)}$"):
        parse_cursor(cursor)


@given(st.lists(CURSORS))
def test_cursors_are_sorted_by_age_not_as_texts(cursors: list[tuple[int, int]]) -> None:
    names = [f"{milliseconds}-{sequence}" for milliseconds, sequence in cursors]

    assert [cursor_order(name) for name in sorted(names, key=cursor_order)] == sorted(cursors)


@given(st.text(max_size=3 * ANSWER_CHUNK_CHARACTERS))
def test_an_answer_is_split_into_pieces_that_are_none_of_them_empty_or_too_long(answer: str) -> None:
    pieces = split_answer(answer)

    assert "".join(pieces) == answer
    assert all(0 < len(piece) <= ANSWER_CHUNK_CHARACTERS for piece in pieces)
