"""AG-UI, as a client reads it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentstream.model import CANCELLED, DONE, Event, Outcome, expired_event
from agentstream.wire.ag_ui import AgUiEncoder
from agentstream.wire.frames import NOWHERE, Position
from tests.ag_ui_client import Client
from tests.unit.wire.a_run import RUN, answer_of, event, frames_of, reasoning_of, restored, runs


class Said(NamedTuple):
    role: str
    text: str


SAID = [Said("user", "Hello"), Said("assistant", "Where to?"), Said("user", "To Tokyo")]
BEFORE = [{"id": "mine-1", "role": "user", "content": "Hello"}, {"id": "run-0", "role": "assistant", "content": "W"}]


def encoder(*, after: Position = NOWHERE, speaks_1_0: bool = True, joins: bool = False) -> AgUiEncoder:
    made = AgUiEncoder("thread-1", "their-run", RUN, speaks_1_0=speaks_1_0, joins=joins, after=after)
    made.said = SAID
    return made


def sent(events: Sequence[Event], **options: Any) -> list[tuple[str, Any]]:
    connection = encoder(**options)
    return frames_of(b"".join([*connection.begin(), *connection.encode(events)]))


def read(frames: Sequence[tuple[str, Any]], holding: Sequence[dict[str, Any]] = ()) -> Client:
    client = Client([dict(message) for message in holding])
    for _, frame in frames:
        client.take(frame)
    return client


@settings(deadline=None)
@given(events=runs(), speaks_1_0=st.booleans(), joins=st.booleans())
def test_promise_5_it_converges_any_run_is_in_order_and_its_answer_is_the_text_since_the_last_reset(
    events: list[Event], speaks_1_0: bool, joins: bool
) -> None:
    client = read(sent(events, speaks_1_0=speaks_1_0, joins=joins), BEFORE)

    assert client.ended is not None
    assert client.text(RUN) == answer_of(events)
    assert "".join(m["content"] for m in client.messages if m["role"] == "reasoning") == reasoning_of(events)


@settings(deadline=None)
@given(data=st.data(), events=runs(), answer=st.text(min_size=1))
def test_promise_7_expired_is_not_gone_wherever_a_follower_was_cut_before(
    data: st.DataObject, events: list[Event], answer: str
) -> None:
    whole = sent(events[:-1])
    got = whole[: data.draw(st.integers(0, len(whole)), "frames before the stream expired")]
    after = Position.parse(got[-1][0]) if got else NOWHERE

    client = read([*got, *sent(restored(answer), after=after)], BEFORE)

    assert client.text(RUN) == answer
    assert [m["content"] for m in client.messages if m["role"] in ("user", "assistant")] == [
        *(said.text for said in SAID),
        answer,
    ]
    assert not any(m["content"] for m in client.messages if m["role"] in ("tool", "reasoning"))


def test_a_reset_keeps_what_was_said_in_order_and_drops_the_runs_output() -> None:
    events = [
        event("1-0", "reasoning", {"text": "hm"}),
        event("2-0", "tool_call", {"id": "c", "name": "get_weather", "arguments": "{}"}),
        event("3-0", "tool_result", {"id": "c", "result": "sunny"}),
        event("4-0", "message", "wrong"),
        event("5-0", "reset", {"correlation_id": RUN, "reason": "attempt"}),
    ]
    client = read(sent(events), [*BEFORE, {"id": "mine-2", "role": "user", "content": "To Tokyo"}])

    shown = [(message["role"], message["content"]) for message in client.messages]
    assert shown == [("user", "Hello"), ("assistant", "Where to?"), ("user", "To Tokyo"), ("reasoning", "")]

    again = read(sent([*events, event("6-0", "message", "right"), event("7-0", "done", "[DONE]")]))
    assert again.messages[-1] == {"id": RUN, "role": "assistant", "content": "right"}


def test_a_run_with_a_tool_is_told_like_this() -> None:
    events = [
        event("1-0", "tool_call", {"id": "c", "name": "get_weather", "arguments": '{"day":'}),
        event("1-1", "tool_call", {"id": "c", "arguments": "1}"}),
        event("2-0", "usage", {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}),
        event("2-1", "tool_result", {"id": "c", "result": {"sky": "é"}, "truncated": True}),
        event("3-0", "message", "Sunny"),
        event("4-0", "usage", {"input_tokens": 4, "output_tokens": 1, "total_tokens": 5}),
        event("5-0", "done", "[DONE]"),
    ]
    call = {"type": "TOOL_CALL_CHUNK", "toolCallId": "c", "toolCallName": "get_weather", "parentMessageId": RUN}

    assert sent(events) == [
        ("0-0.0", {"type": "RUN_STARTED", "threadId": "thread-1", "runId": "their-run", "protocolVersion": "1.0"}),
        ("1-0.0", call | {"delta": '{"day":'}),
        ("1-1.0", call | {"delta": "1}"}),
        (
            "2-1.0",
            {
                "type": "TOOL_CALL_RESULT",
                "messageId": f"{RUN}.c",
                "toolCallId": "c",
                "content": '{"sky": "é"}',
                "role": "tool",
                "metadata": {"truncated": True},
            },
        ),
        ("3-0.0", {"type": "TEXT_MESSAGE_CHUNK", "messageId": RUN, "role": "assistant", "delta": "Sunny"}),
        (
            "5-0.0",
            {
                "type": "RUN_FINISHED",
                "threadId": "thread-1",
                "runId": "their-run",
                "usage": [{"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}],
            },
        ),
    ]


@pytest.mark.parametrize(
    ("speaks_1_0", "end"),
    [
        (True, {"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}}),
        (False, {"type": "RUN_ERROR", "code": "cancelled", "message": "The run was cancelled."}),
    ],
)
def test_a_cancelled_run_is_told_as_the_clients_version_knows_it(speaks_1_0: bool, end: dict[str, Any]) -> None:
    _, told = sent([event("1-0", CANCELLED.event, CANCELLED.data)], speaks_1_0=speaks_1_0)[-1]

    assert end.items() <= told.items()


def test_a_failed_run_is_told_by_its_code_and_message() -> None:
    failure = Outcome.failure("timeout", RUN)

    _, told = sent([event("1-0", failure.event, failure.data)])[-1]

    assert told == {
        "type": "RUN_ERROR",
        "message": "The answer took too long and was stopped. Send the message again, or a simpler one.",
        "code": "timeout",
    }


def test_who_joins_is_told_what_was_said_first() -> None:
    client = read(sent([event("1-0", "message", "Tokyo!"), event("2-0", DONE.event, DONE.data)], joins=True))

    assert [message["content"] for message in client.messages] == ["Hello", "Where to?", "To Tokyo", "Tokyo!"]


def test_who_joins_where_nothing_runs_is_told_what_was_said_and_the_end() -> None:
    connection = AgUiEncoder("thread-1", "their-run", None, speaks_1_0=True, joins=True)
    connection.said = SAID

    client = read(frames_of(b"".join(connection.begin())))

    assert [message["content"] for message in client.messages] == [said.text for said in SAID]
    assert client.ended == {"type": "RUN_FINISHED", "threadId": "thread-1", "runId": "their-run"}


@pytest.mark.parametrize(
    ("told", "after", "needed"),
    [
        (event("5-0", "message", "a"), "4-0", False),
        (event("5-0", "reset", {}), "4-0.0", True),
        (event("5-0", "reset", {}), "5-0.0", False),
        (expired_event("0-0", RUN), "5-0.0", True),
    ],
)
def test_what_was_said_is_asked_for_only_where_it_is_told(told: Event, after: str, needed: bool) -> None:
    assert encoder(after=Position.parse(after)).needs_said([told]) is needed
