"""Stream events → the bytes of Server-Sent Events.

The format is that of WHATWG HTML, section 9.2.5 and 9.2.6: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import json
from collections.abc import Iterator, Sequence

from agentstream.model import MESSAGE, Event
from agentstream.wire.pieces import join

MEDIA_TYPE = "text/event-stream"
# How long a client waits before it connects again, in ms. Without an empty line, which some clients take for an event.
RETRY = b"retry: 500\n"
# A comment alone: some clients take an empty line, which is not needed, for the end of an empty event.
HEARTBEAT = b": heartbeat\n"
# With JSON, what stands for the data of the two events that have none.
_ENDS = {"done": '{"status": "completed"}', "cancelled": '{"status": "cancelled"}'}


def encode(event: Event, *, as_json: bool = False) -> bytes:
    """Return the event on the wire: CR and CRLF in its text arrive as LF, all else is exact.

    Args:
        event: The event.
        as_json: Whether its data is one line of JSON whatever its kind, for clients that lose line breaks.
    """
    data = _json_data(event) if as_json else event.data
    # The only line breaks of the format: not what str.splitlines() takes for one.
    data = data.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\ndata: ")
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()


def pieces(events: Sequence[Event], *, as_json: bool = False) -> Iterator[bytes]:
    """Return the events on the wire, or a heartbeat where there are none, at most ``PIECE_BYTES`` at a time."""
    return join((encode(event, as_json=as_json) for event in events) if events else [HEARTBEAT])


def _json_data(event: Event) -> str:
    if event.kind == MESSAGE:
        return json.dumps({"text": event.data}, ensure_ascii=False)
    return _ENDS.get(event.kind, event.data)
