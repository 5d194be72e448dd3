"""A parser of event streams, written from the WHATWG rules to check the encoder against.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ParsedEvent:
    id: str
    event: str
    data: str


def parse(stream: bytes) -> list[ParsedEvent]:
    """Return the events that a browser dispatches; comments and an unfinished last event are none."""
    text = stream.decode().removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events = []
    last_id, event, data = "", "", ""
    for line in lines[:-1]:
        if not line:
            if data:
                events.append(ParsedEvent(last_id, event or "message", data.removesuffix("\n")))
            event, data = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return events
