"""What operators see of a follower: one span, however many events it is told."""

import contextlib
import time
from collections.abc import Callable, Iterator

from agentstream import telemetry
from agentstream.model import FIRST_CURSOR, Event, StreamLostError, UnknownRunError
from agentstream.runs.follower import Follower

RESUMED = "agentstream.follower.resumed"
EVENTS = "agentstream.follower.events"
END = "agentstream.follower.end"


@contextlib.contextmanager
def observed(follower: Follower) -> Iterator[Callable[[list[Event]], None]]:
    """Tell of a follower in a span: how many events it got, and why it ended.

    It ended at a ``terminal`` event; because it had ``caught_up`` and nothing was to be waited for; at its
    ``deadline``; because the ``client_left``; because the stream ``expired`` under it; or because what it asked for is
    ``unknown``; or by an ``error``.

    Yields:
        What is to be called with each batch that it gets.
    """
    span = telemetry.start_span("follow stream", telemetry.run_ids(follower.conversation_id, follower.correlation_id))
    events, last, end = 0, None, ""

    def tell(batch: list[Event]) -> None:
        nonlocal events, last
        events += len(batch)
        last = batch[-1] if batch else last

    try:
        yield tell
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
