"""The AI SDK's UI message stream, as a client reads it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentstream.model import CANCELLED, DONE, Event, Outcome
from agentstream.wire.frames import NOWHERE, Position
from agentstream.wire.ui_message import UiMessageEncoder
from tests.ui_message_client import Client
from tests.unit.wire.a_run import RUN, answer_of, event, frames_of, reasoning_of, restored, runs

TOOL = {"dynamic": True, "providerExecuted": True}


def sent(events: Sequence[Event], after: Position = NOWHERE) -> list[tuple[str, Any]]:
    connection = UiMessageEncoder(RUN, after=after)
    return frames_of(b"".join([*connection.begin(), *connection.encode(events)]))


def read(frames: Sequence[tuple[str, Any]]) -> Client:
    client = Client()
    for _, frame in frames:
        client.take(frame)
    return client


@settings(deadline=None)
@given(events=runs())
def test_promise_5_it_converges_any_run_is_in_order_and_its_text_is_that_since_the_last_reset(
    events: list[Event],
) -> None:
    client = read(sent(events))

    for kind, text in (("text", answer_of(events)), ("reasoning", reasoning_of(events))):
        assert "".join(part[1] for part in client.parts if part[0] == kind) == text
    assert client.ended[-1] == "[DONE]"
    assert all(tool["state"] not in ("tool-input-start", "tool-input-delta") for tool in client.tools.values())


@settings(deadline=None)
@given(data=st.data(), events=runs(), answer=st.text(min_size=1))
def test_promise_7_expired_is_not_gone_wherever_a_follower_was_cut_before(
    data: st.DataObject, events: list[Event], answer: str
) -> None:
    whole = sent(events[:-1])
    got = whole[: data.draw(st.integers(0, len(whole)), "frames before the stream expired")]
    after = Position.parse(got[-1][0]) if got else NOWHERE

    client = read([*got, *sent(restored(answer), after)])

    assert client.message_id == RUN
    assert client.parts == [["text", answer]]
    assert client.tools == {}
    assert client.ended == ["finish-step", "finish", "[DONE]"]


def test_a_run_with_tools_is_told_like_this() -> None:
    events = [
        event("1-0", "message", "Let me see"),
        event("2-0", "tool_call", {"id": "c", "name": "get_weather", "arguments": '{"day":'}),
        event("2-1", "tool_call", {"id": "d", "name": "get_events", "arguments": ""}),
        event("2-2", "tool_call", {"id": "c", "arguments": "1}"}),
        event("2-3", "usage", {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}),
        event("3-0", "tool_result", {"id": "c", "result": "sunny", "truncated": True}),
        event("3-1", "tool_result", {"id": "d", "result": []}),
        event("4-0", "reasoning", {"text": "hm"}),
        event("5-0", "message", "Sunny"),
        event("6-0", "done", "[DONE]"),
    ]
    weather = {"toolCallId": "c", "toolName": "get_weather", **TOOL}
    happenings = {"toolCallId": "d", "toolName": "get_events", **TOOL}
    output: dict[str, Any] = {"type": "tool-output-available", **TOOL}

    assert sent(events) == [
        ("0-0.0", {"type": "start", "messageId": RUN}),
        ("0-0.1", {"type": "start-step"}),
        ("1-0.0", {"type": "text-start", "id": "text"}),
        ("1-0.1", {"type": "text-delta", "id": "text", "delta": "Let me see"}),
        ("2-0.0", {"type": "text-end", "id": "text"}),
        ("2-0.1", {"type": "tool-input-start", **weather}),
        ("2-0.2", {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": '{"day":'}),
        ("2-1.0", {"type": "tool-input-start", **happenings}),
        ("2-2.0", {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": "1}"}),
        ("2-3.0", {"type": "tool-input-available", **weather, "input": {"day": 1}}),
        ("2-3.1", {"type": "tool-input-available", **happenings, "input": {}}),
        ("3-0.0", output | {"toolCallId": "c", "output": "sunny", "toolMetadata": {"truncated": True}}),
        ("3-1.0", output | {"toolCallId": "d", "output": []}),
        ("4-0.0", {"type": "reasoning-start", "id": "reasoning"}),
        ("4-0.1", {"type": "reasoning-delta", "id": "reasoning", "delta": "hm"}),
        ("5-0.0", {"type": "reasoning-end", "id": "reasoning"}),
        ("5-0.1", {"type": "text-start", "id": "text"}),
        ("5-0.2", {"type": "text-delta", "id": "text", "delta": "Sunny"}),
        ("6-0.0", {"type": "text-end", "id": "text"}),
        ("6-0.1", {"type": "finish-step"}),
        ("6-0.2", {"type": "finish", "finishReason": "stop"}),
        ("6-0.3", "[DONE]"),
    ]


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (CANCELLED, {"type": "abort"}),
        (
            Outcome.failure("timeout", RUN),
            {
                "type": "error",
                "errorText": "The answer took too long and was stopped. Send the message again, or a simpler one.",
            },
        ),
    ],
)
def test_a_run_that_did_not_complete_is_told_by_its_end(outcome: Outcome, told: dict[str, str]) -> None:
    frames = [frame for _, frame in sent([event("1-0", "message", "Day"), event("2-0", outcome.event, outcome.data)])]

    assert frames[-3:] == [{"type": "text-end", "id": "text"}, told, "[DONE]"]


def test_arguments_that_are_no_json_are_told_as_the_models_error() -> None:
    events = [
        event("1-0", "tool_call", {"id": "c", "name": "get_weather", "arguments": '{"day":'}),
        event("2-0", DONE.event, DONE.data),
    ]

    assert {"type": "tool-input-error", "toolCallId": "c", "input": '{"day":'}.items() <= sent(events)[4][1].items()


def test_the_result_of_a_call_that_was_never_told_has_a_call() -> None:
    client = read(sent([event("1-0", "tool_result", {"id": "c", "result": 1})]))

    assert client.tools["c"] == {"name": "tool", "text": "", "state": "tool-output-available", "input": {}, "output": 1}
