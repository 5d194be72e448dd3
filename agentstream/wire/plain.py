"""Stream events → bare text, for terminals."""

import json
from collections.abc import Iterator, Sequence

from agentstream.model import FURTHER_KINDS, Event
from agentstream.wire.pieces import PIECE_BYTES

MEDIA_TYPE = "text/plain"


def pieces(events: Sequence[Event]) -> Iterator[bytes]:
    """Yield the text of the events, at most ``PIECE_BYTES`` at a time."""
    text = "".join(map(_text, events)).encode()
    for start in range(0, len(text), PIECE_BYTES):
        yield text[start : start + PIECE_BYTES]


def more_to_come(cursor: str) -> bytes:
    """Return the line that ends a response in the middle of an answer."""
    return f"\n\n[There is more to come. To read it, ask again with cursor={cursor}.]\n".encode()


def _text(event: Event) -> str:
    match event.kind:
        case "message":
            return event.data
        case "reset":
            return "\n\n[The answer starts again.]\n\n"
        case "error":
            return f"\n\n[{json.loads(event.data)['message']}]\n"
        case kind if kind in FURTHER_KINDS:
            return ""
        case _:
            return "\n"
