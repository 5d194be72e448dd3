"""Stream events → the bytes of Server-Sent Events.

The format is that of WHATWG HTML, section 9.2.5 and 9.2.6: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import json
import sys
from collections.abc import Iterator, Sequence

from agentstream.model import MESSAGE, Event
from agentstream.wire.pieces import join

MEDIA_TYPE = "text/event-stream"
# How long a client waits before it connects again, in ms. Without an empty line, which some clients take for an event.
RETRY = b"retry: 500\n"
# A comment alone: some clients take an empty line, which is not needed, for the end of an empty event.
HEARTBEAT = b": heartbeat\n"
CACHE_BYTES = 8 * 1024 * 1024
# With JSON, what stands for the data of the two events that have none.
_ENDS = {"done": '{"status": "completed"}', "cancelled": '{"status": "cancelled"}'}
# What an event takes beside its text and its encoding: 440 as tracemalloc measures it, rounded up.
EVENT_BYTES = 500


class Encoder:
    """Encodes events, and keeps the newest: the followers of a stream are sent the same ones, encoded once for all.

    Args:
        cache_bytes: What the kept events may take of memory.

    Attributes:
        cached_bytes: What they take.
    """

    def __init__(self, cache_bytes: int) -> None:
        self.cached_bytes = 0
        self._cache_bytes = cache_bytes
        # In the order in which they were encoded, with what each takes.
        self._cache: dict[tuple[Event, bool], tuple[bytes, int]] = {}

    def __call__(self, event: Event, *, as_json: bool = False) -> bytes:
        """Return the event on the wire: CR and CRLF in its text arrive as LF, all else is exact.

        Args:
            event: The event.
            as_json: Whether its data is one line of JSON whatever its kind, for clients that lose line breaks.
        """
        if (cached := self._cache.get((event, as_json))) is not None:
            return cached[0]
        data = _json_data(event) if as_json else event.data
        # The only line breaks of the format: not what str.splitlines() takes for one.
        data = data.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\ndata: ")
        encoded = f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()
        self._keep((event, as_json), encoded)
        return encoded

    def _keep(self, key: tuple[Event, bool], encoded: bytes) -> None:
        size = len(encoded) + sys.getsizeof(key[0].data) + EVENT_BYTES
        self._cache[key] = (encoded, size)
        self.cached_bytes += size
        while self.cached_bytes > self._cache_bytes:
            _, oldest_size = self._cache.pop(next(iter(self._cache)))
            self.cached_bytes -= oldest_size


encode = Encoder(CACHE_BYTES)


def pieces(events: Sequence[Event], *, as_json: bool = False) -> Iterator[bytes]:
    """Return the events on the wire, or a heartbeat where there are none, at most ``PIECE_BYTES`` at a time."""
    return join((encode(event, as_json=as_json) for event in events) if events else [HEARTBEAT])


def _json_data(event: Event) -> str:
    if event.kind == MESSAGE:
        return json.dumps({"text": event.data}, ensure_ascii=False)
    return _ENDS.get(event.kind, event.data)
