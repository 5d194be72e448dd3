"""Runs for the tests of the wires: any events that a stream may hold of one run."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from agentstream.model import CANCELLED, DONE, LostRun, Outcome, text_pieces
from agentstream.model import Event as StreamEvent
from tests import event_stream

RUN = "run-1"
ENDINGS = [
    (DONE.event, DONE.data),
    (CANCELLED.event, CANCELLED.data),
    ("error", Outcome.failure("model_error", RUN).data),
]

texts = st.one_of(st.sampled_from(["\n", "data: x\n\n", "\u2028", "[DONE]", "{", '"']), st.text(min_size=1))
call_ids = st.sampled_from(["call-1", "call-2", "call-3"])
results = st.one_of(st.text(), st.dictionaries(st.text(), st.integers()))
tool_calls = st.builds(
    lambda call_id, name, arguments: ("tool_call", {"id": call_id, "arguments": arguments} | name),
    call_ids,
    st.sampled_from([{"name": "get_weather"}, {}]),
    st.one_of(st.sampled_from(["", "{}", '{"day":', "1}", "\ud83d"]), st.text()),
)
tool_results = st.builds(
    lambda call_id, result, cut: ("tool_result", {"id": call_id, "result": result} | cut),
    call_ids,
    results,
    st.sampled_from([{}, {"truncated": True}]),
)
steps = st.one_of(
    st.builds(lambda text: ("message", text), texts),
    st.builds(lambda text: ("reasoning", {"text": text}), texts),
    tool_calls,
    tool_results,
    st.builds(
        lambda used: ("usage", {"input_tokens": used, "output_tokens": 1, "total_tokens": used + 1}), st.integers(0, 9)
    ),
    st.sampled_from(["attempt", "repaired"]).map(lambda why: ("reset", {"correlation_id": RUN, "reason": why})),
    st.just(("a kind of a later version", "x")),
)


def event(entry: str, kind: str, data: Any) -> StreamEvent:
    """Return an event whose data is this text, or JSON of it."""
    return StreamEvent(entry, kind, data if isinstance(data, str) else json.dumps(data), RUN, attempt=1, sequence=0)


@st.composite
def runs(draw: st.DrawFn, first_ms: int = 1_000) -> list[StreamEvent]:
    """Events of one run up to its end: pieces of calls that alternate, results of unknown calls, resets anywhere."""
    told = [*draw(st.lists(steps, max_size=12)), draw(st.sampled_from(ENDINGS))]
    gaps = draw(st.lists(st.integers(0, 2), min_size=len(told), max_size=len(told)))
    events, milliseconds = [], first_ms
    for number, ((kind, data), gap) in enumerate(zip(told, gaps, strict=True)):
        milliseconds += gap
        events.append(event(f"{milliseconds}-{number}", kind, data))
    return events


def restored(answer: str, first_ms: int = 1_000_000) -> list[StreamEvent]:
    """The events of a run of this answer that expired, as its stream holds them once it was restored."""
    told = LostRun(RUN, "TravelPlanner", DONE, text_pieces(answer)).events("0-1")
    return [each._replace(id=f"{first_ms}-{number}") for number, each in enumerate(told)]


def answer_of(events: Sequence[StreamEvent]) -> str:
    """Return the text since the last reset."""
    text = ""
    for each in events:
        text = "" if each.kind == "reset" else text + (each.data if each.kind == "message" else "")
    return text


def reasoning_of(events: Sequence[StreamEvent]) -> str:
    """Return the reasoning since the last reset."""
    text = ""
    for each in events:
        text = (
            "" if each.kind == "reset" else text + (json.loads(each.data)["text"] if each.kind == "reasoning" else "")
        )
    return text


def frames_of(stream: bytes) -> list[tuple[str, Any]]:
    """Return the frames as a client reads them: the id, and the JSON value or the text that is none."""
    return [
        (read.id, read.data if read.data == "[DONE]" else json.loads(read.data)) for read in event_stream.parse(stream)
    ]
