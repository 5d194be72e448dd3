"""What operators see of a follower: one span, however many events it is told."""

import contextlib
import time
from collections.abc import AsyncGenerator

from agentstream import telemetry
from agentstream.model import FIRST_CURSOR, Event, StreamLostError, UnknownRunError
from agentstream.runs.follower import Follower

RESUMED = "agentstream.follower.resumed"
EVENTS = "agentstream.follower.events"
END = "agentstream.follower.end"


async def observed(follower: Follower) -> AsyncGenerator[list[Event], None]:
    """Yield the follower's batches, and tell of it in a span: how many events it got, and why it ended.

    It ended at a ``terminal`` event; because it had ``caught_up`` and nothing was to be waited for; at its
    ``deadline``; because the ``client_left``; because the stream ``expired`` under it; or because what it asked for is
    ``unknown``; or by an ``error``.
    """
    span = telemetry.start_span("follow stream", telemetry.run_ids(follower.conversation_id, follower.correlation_id))
    events, last, end = 0, None, ""
    try:
        async with contextlib.aclosing(follower.batches()) as batches:
            async for batch in batches:
                events += len(batch)
                last = batch[-1] if batch else last
                yield batch
        end = "caught_up"
    except StreamLostError:
        end = "expired"
        raise
    except UnknownRunError:
        end = "unknown"
        raise
    except Exception as error:
        end = "error"
        telemetry.fail(span, error)
        raise
    finally:
        if last is not None and last.is_terminal:
            end = "terminal"
        elif end in ("", "caught_up") and time.monotonic() >= follower.deadline:
            end = "deadline"
        resumed = (follower.cursor, follower.held) != (FIRST_CURSOR, FIRST_CURSOR)
        span.set_attributes({EVENTS: events, RESUMED: resumed, END: end or "client_left"})
        span.end()
