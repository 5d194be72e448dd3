"""Stream events → the bytes of Server-Sent Events.

The format is that of WHATWG HTML, section 9.2.5 and 9.2.6: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from functools import lru_cache

from redis_stream_handler import StreamEvent

MEDIA_TYPE = "text/event-stream"
# A comment alone: some clients take an empty line, which is not needed, for the end of an empty event.
HEARTBEAT = b": heartbeat\n"


# Followers of one stream are sent the same events, each encoded once for all of them.
@lru_cache(maxsize=4096)
def encode(event: StreamEvent) -> bytes:
    """Return the event on the wire: CR and CRLF in its text arrive as LF, all else is exact."""
    # The only line breaks of the format: not what str.splitlines() takes for one.
    data = event.text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\ndata: ")
    return f"id: {event.id}\nevent: {event.event}\ndata: {data}\n\n".encode()
