"""The response that carries a stream to one follower."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import Any

from azurefunctions.extensions.http.fastapi import Response, StreamingResponse
from opentelemetry.context import attach, get_current
from redis.exceptions import RedisError

from agentstream import telemetry
from agentstream.model import DurableUnavailableError, Event, StreamLostError
from agentstream.wire import frames, pieces, sse

# A stream ends by itself at its deadline; by then what is left of it can be sent.
GRACE_SECONDS = 2.0

logger = telemetry.logger(__name__)


class StreamResponse(StreamingResponse):  # type: ignore[misc]
    """A stream that ends by the clock, whether its client reads or not, and closes what it is made of in any case.

    Args:
        content: The parts of the body.
        source: What the content is made of, closed after it.
        deadline: When the stream ends, in monotonic seconds.
        headers: The response's headers.
        media_type: Its media type.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        source: AsyncGenerator[Any, None],
        deadline: float,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._content = content
        self._source = source
        self._deadline = deadline
        # The server sends it in a task of its own, whose log records are to name the request's trace.
        self._trace_context = get_current()

    async def __call__(self, *asgi: Any) -> None:
        """Send it (https://asgi.readthedocs.io/en/latest/specs/main.html)."""
        attach(self._trace_context)
        seconds_left = self._deadline + GRACE_SECONDS - time.monotonic()
        async with contextlib.aclosing(self._source), contextlib.aclosing(self._content):
            try:
                async with asyncio.timeout(seconds_left) as clock:
                    await super().__call__(*asgi)
            except TimeoutError:
                if not clock.expired():
                    raise
                logger.info("a follower that does not read is let go")


def stream_headers(conversation_id: str) -> dict[str, str]:
    """Return the headers of a conversation's stream: nothing on the way is to keep it, change it or hold it back."""
    return {
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "x-conversation-id": conversation_id,
    }


async def frames_response(
    encoder: frames.FrameEncoder,
    batches: AsyncGenerator[list[Event], None],
    deadline: float,
    headers: Mapping[str, str],
) -> Response:
    """Return the response that sends a run's frames; one without content where there are none, and none will come.

    Args:
        encoder: Encodes them.
        batches: The events of the run from its beginning, as they come.
        deadline: When they end, in monotonic seconds.
        headers: The response's headers.
    """
    first = list(encoder.begin())
    # The follower of a stream that is lost meanwhile resumes, as after any end before that of the run.
    with contextlib.suppress(StreamLostError):
        async for events in batches:
            first += encoder.encode(events)
            if first or not events or encoder.has_all_up_to(events[-1]):
                break
        else:
            if not first:
                return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
    content = _frames(encoder, first, batches)
    return StreamResponse(content, batches, deadline, headers, sse.MEDIA_TYPE)


async def _frames(
    encoder: frames.FrameEncoder, first: list[bytes], batches: AsyncGenerator[list[Event], None]
) -> AsyncGenerator[bytes, None]:
    for piece in pieces.join([sse.RETRY, *first]):
        yield piece
    try:
        async for events in batches:
            for piece in pieces.join(encoder.encode(events) if events else [sse.HEARTBEAT]):
                yield piece
    except (RedisError, DurableUnavailableError, StreamLostError) as error:
        # The follower resumes, as after any end before that of the run.
        logger.info("a stream ends early: %s", type(error).__name__)
