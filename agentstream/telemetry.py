"""What operators see of runs and followers: spans, metrics, and logs that name their run.

It is OpenTelemetry's API alone. Whether anything is recorded, and where it goes, is a matter of the platform, which
configures the SDK; until it does, every call here does nothing. No span is made for a chunk, and no name, attribute
or event holds what users and agents say. ``docs/operations.md`` tells what each name means.

Names follow https://opentelemetry.io/docs/specs/semconv/general/naming/, and those of its registry are used as they
are.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context
from opentelemetry.context import get_current as current_context
from opentelemetry.metrics import get_meter
from opentelemetry.trace import INVALID_SPAN, Span, StatusCode, get_current_span, get_tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

CONVERSATION_ID = "gen_ai.conversation.id"
AGENT_NAME = "gen_ai.agent.name"
USER_HASH = "user.hash"
ERROR_TYPE = "error.type"
# The same once more, since the exporter of Azure Monitor drops the standard one.
ERROR = "agentstream.error"
RUN_ID = "agentstream.run.id"
OUTCOME = "agentstream.run.outcome"
ATTEMPT = "agentstream.run.attempt"
SECONDS_TO_FIRST_CHUNK = "agentstream.run.time_to_first_chunk"
RESET_REASON = "agentstream.reset.reason"

# Beyond this a conversation's memory comes near to what the stores of the durable state take in one piece, 1 MiB.
LARGE_MEMORY_BYTES = 768 * 1024

_SECONDS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800]
_WAIT_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
_BYTES = [1024 * 4**power for power in range(8)]

_tracer = get_tracer("agentstream")
_meter = get_meter("agentstream")
_propagator = TraceContextTextMapPropagator()

open_runs = _meter.create_up_down_counter(
    "agentstream.run.open", "{run}", "Runs that the instance executes, or has waiting for their turn"
)
followers = _meter.create_up_down_counter("agentstream.follower.open", "{follower}", "Followers that are connected")
_run_seconds = _meter.create_histogram(
    "agentstream.run.duration", "s", "From accepting a run to its end", explicit_bucket_boundaries_advisory=_SECONDS
)
_first_chunk_seconds = _meter.create_histogram(
    "agentstream.run.time_to_first_chunk",
    "s",
    "From accepting a run to the first text of an attempt",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
repeated_attempts = _meter.create_counter(
    "agentstream.attempt.repeated", "{attempt}", "Attempts of runs that had one before"
)
_fenced_attempts = _meter.create_counter(
    "agentstream.attempt.fenced",
    "{attempt}",
    "Attempts that left the answer to a newer one, or to the run's end",
)
_resets = _meter.create_counter("agentstream.reset", "{reset}", "Resets that followers were told")
redis_wait = _meter.create_histogram(
    "agentstream.redis.wait",
    "s",
    "How long a caller waited for its turn to ask Redis, where it had to",
    explicit_bucket_boundaries_advisory=_WAIT_SECONDS,
)
_memory_bytes = _meter.create_histogram(
    "agentstream.conversation.size",
    "By",
    "An agent's memory of a conversation, as the durable state keeps it",
    explicit_bucket_boundaries_advisory=_BYTES,
)

# The span of the run to which the current task belongs, and what its log records are to carry.
_run: ContextVar[tuple[Span, Mapping[str, str]]] = ContextVar("run", default=(INVALID_SPAN, {}))


def run_ids(
    conversation_id: str, correlation_id: str | None = None, agent: str | None = None, owner: str | None = None
) -> dict[str, str]:
    """Return the attributes that name a run, or a conversation. Of the owner there is a hash only (``owner_hash``)."""
    ids = {
        CONVERSATION_ID: conversation_id,
        RUN_ID: correlation_id,
        AGENT_NAME: agent,
        USER_HASH: None if owner is None else owner_hash(owner),
    }
    return {name: value for name, value in ids.items() if value is not None}


def owner_hash(owner: str) -> str:
    """Return what tells the owners of conversations apart without naming them: 16 hexadecimal digits of the SHA-256.

    Whoever knows an owner's id can compute it, to find that owner's runs; from the hash nobody learns the id, since
    the ids of Entra are random.
    """
    return hashlib.sha256(owner.encode()).hexdigest()[:16]


def traceparent() -> str | None:
    """Return the current span as what continues its trace elsewhere (https://www.w3.org/TR/trace-context/)."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def run_span(name: str, ids: Mapping[str, str], continues: str | None = None) -> Iterator[Span]:
    """Make a span of a run the current one, and its ids those of the log records that are made meanwhile.

    Args:
        name: The span's name.
        ids: The attributes that name the run (``run_ids``).
        continues: The ``traceparent`` of the request that the run was accepted with.
    """
    with _tracer.start_as_current_span(
        name, _parent(continues), attributes=ids, record_exception=False, set_status_on_exception=False
    ) as span:
        token = _run.set((span, ids))
        try:
            yield span
        except Exception as error:
            fail(span, error)
            raise
        finally:
            _run.reset(token)


def start_span(name: str, ids: Mapping[str, str]) -> Span:
    """Return a span that becomes nobody's current one, for what is begun and ended by different tasks."""
    return _tracer.start_span(name, attributes=ids)


def fail(span: Span, error: Exception) -> None:
    """Mark a span as failed. An exception's own text may hold what a user said, so only its type is told."""
    span.set_attributes(dict.fromkeys((ERROR_TYPE, ERROR), type(error).__name__))
    span.set_status(StatusCode.ERROR)


def first_chunk(created: int, now: int) -> None:
    """Tell that an attempt has its first text; times in ms since the epoch, ``created`` that of the run or 0."""
    if created:
        seconds = max(0, now - created) / 1000
        span, ids = _run.get()
        span.set_attribute(SECONDS_TO_FIRST_CHUNK, seconds)
        _first_chunk_seconds.record(seconds, _agent(ids))


def attempt_ended(attempt: int, outcome: str) -> None:
    """Tell how the current attempt ended: ``answered``, ``failed`` or ``fenced``."""
    span, ids = _run.get()
    span.set_attributes({ATTEMPT: attempt, OUTCOME: outcome})
    if outcome == "fenced":
        _fenced_attempts.add(1, _agent(ids))


def run_ended(agent: str, outcome: str, created: int, now: int) -> None:
    """Tell how a run ended; times in ms since the epoch."""
    _run.get()[0].set_attribute(OUTCOME, outcome)
    _run_seconds.record(max(0, now - created) / 1000, {AGENT_NAME: agent, OUTCOME: outcome})


def resets(reason: str, count: int = 1) -> None:
    """Tell that so many resets were appended to streams."""
    if count:
        _run.get()[0].add_event("reset", {RESET_REASON: reason})
        _resets.add(count, {RESET_REASON: reason})


def memory_written(size: int, agent: str) -> bool:
    """Tell how large an agent's memory of a conversation is, in bytes, and return whether that is too large."""
    _memory_bytes.record(size, {AGENT_NAME: agent})
    return size > LARGE_MEMORY_BYTES


def logger(name: str) -> "RunLogger":
    """Return the logger of this name."""
    return RunLogger(logging.getLogger(name), {})


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Gives each record the ids of the current run, as attributes of the record.

    Those of its trace are not among them: whoever exports the records takes them from the current span.
    """

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**_run.get()[1], **(kwargs.get("extra") or {})}
        return msg, kwargs


def _agent(ids: Mapping[str, str]) -> dict[str, AttributeValue]:
    return {AGENT_NAME: ids[AGENT_NAME]} if AGENT_NAME in ids else {}


def _parent(continues: str | None) -> Context | None:
    if continues is None:
        return None
    carried = _propagator.extract({"traceparent": continues}, current_context())
    trace_id = get_current_span(carried).get_span_context().trace_id
    # The host may have spans of its own in this trace, nearer than the request.
    return None if get_current_span().get_span_context().trace_id == trace_id else carried
