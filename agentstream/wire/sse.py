"""Stream events → the bytes of Server-Sent Events.

The format is that of WHATWG HTML, section 9.2.5 and 9.2.6: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import sys
from collections.abc import Iterator, Sequence

from agentstream.model import Event
from agentstream.wire.pieces import join

MEDIA_TYPE = "text/event-stream"
# A comment alone: some clients take an empty line, which is not needed, for the end of an empty event.
HEARTBEAT = b": heartbeat\n"
CACHE_BYTES = 8 * 1024 * 1024
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
        self._cache: dict[Event, tuple[bytes, int]] = {}

    def __call__(self, event: Event) -> bytes:
        """Return the event on the wire: CR and CRLF in its text arrive as LF, all else is exact."""
        if (cached := self._cache.get(event)) is not None:
            return cached[0]
        # The only line breaks of the format: not what str.splitlines() takes for one.
        data = event.data.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\ndata: ")
        encoded = f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()
        self._keep(event, encoded)
        return encoded

    def _keep(self, event: Event, encoded: bytes) -> None:
        size = len(encoded) + sys.getsizeof(event.data) + EVENT_BYTES
        self._cache[event] = (encoded, size)
        self.cached_bytes += size
        while self.cached_bytes > self._cache_bytes:
            _, oldest_size = self._cache.pop(next(iter(self._cache)))
            self.cached_bytes -= oldest_size


encode = Encoder(CACHE_BYTES)


def pieces(events: Sequence[Event]) -> Iterator[bytes]:
    """Return the events on the wire, or a heartbeat where there are none, at most ``PIECE_BYTES`` at a time."""
    return join(map(encode, events) if events else [HEARTBEAT])
