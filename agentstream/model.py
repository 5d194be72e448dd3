"""The words of this package as types. It imports nothing of the package."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self

from pydantic import BaseModel

# The kind of an event that is a piece of the answer. Its entry has no field ``event``.
MESSAGE = "message"
# The kinds of events beside the answer and its end: a follower is told of those that it asks for.
TOOL_CALL, TOOL_RESULT, REASONING, USAGE = "tool_call", "tool_result", "reasoning", "usage"
FURTHER_KINDS = frozenset((TOOL_CALL, TOOL_RESULT, REASONING, USAGE))
FIRST_CURSOR = "0-0"
MAX_CURSOR_PART = 2**64 - 1
# A committed answer is appended in entries of this many characters when it has to be repaired or restored.
ANSWER_CHUNK_CHARACTERS = 4_000

# What a follower and a client are told of each way in which a run fails.
ERROR_MESSAGES = {
    "model_error": "The model could not answer. Send the message again.",
    "timeout": "The answer took too long and was stopped. Send the message again, or a simpler one.",
    "not_started": "The run could not be started. Send the message again.",
    "internal_error": "Something went wrong on our side. Send the message again.",
}

_CURSOR = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


class RunStatus(StrEnum):
    """Where a run is. The last four are its ends."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def is_open(self) -> bool:
        return self in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.CANCELLING)


class Verdict(StrEnum):
    """What an attempt is told by Redis: wait for the run before; go on; end gracefully, the run was cancelled; stop,
    the run has ended, was answered, or has a newer attempt."""

    WAIT = "wait"
    CONTINUE = "continue"
    CANCEL = "cancel"
    STOP = "stop"


class Event(NamedTuple):
    """One entry of a stream.

    Attributes:
        id: The entry's id, a cursor.
        kind: ``message``, ``reset``, one of ``FURTHER_KINDS``, or a terminal event: ``done``, ``error``, ``cancelled``.
        data: The text of a message; for the others what the API's contract says.
        correlation_id: The run.
        attempt: The attempt that wrote it, 0 where none did.
        sequence: Its number within the attempt, from 0.
    """

    id: str
    kind: str
    data: str
    correlation_id: str
    attempt: int
    sequence: int

    @property
    def is_terminal(self) -> bool:
        return self.kind in ("done", "error", "cancelled")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of what an attempt streams: of its answer, or what else it tells.

    Attributes:
        text: The piece, or the event's data.
        timestamp: When it came, in ms since the epoch.
        kind: ``message`` for a piece of the answer, else the event's name.
    """

    text: str
    timestamp: int
    kind: str = MESSAGE


class Piece(NamedTuple):
    """What one event tells, wherever it is written: its kind, and its text or data."""

    kind: str
    data: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its status, and the kind and data of the terminal event that reports it."""

    status: RunStatus
    event: str
    data: str

    @classmethod
    def failure(cls, code: str, correlation_id: str) -> Self:
        """Return the outcome of a run that ended with an ``error`` event of this code."""
        data = json.dumps({"code": code, "message": ERROR_MESSAGES[code], "correlation_id": correlation_id})
        return cls(_failed_status(code), "error", data)


DONE = Outcome(RunStatus.COMPLETED, "done", "[DONE]")
CANCELLED = Outcome(RunStatus.CANCELLED, "cancelled", "[CANCELLED]")


class RunRecord(BaseModel):
    """What Redis holds of a run; times in ms since the epoch. It does not know the owner of a run that it had lost."""

    status: RunStatus
    created: int
    attempt: int
    agent: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class RunKey:
    """Which run a call of the agent belongs to, and whose it is; ``created`` is when it was accepted, in ms since the
    epoch, and ``traceparent`` names the trace of the request that it was accepted with."""

    conversation_id: str
    correlation_id: str
    created: int = 0
    owner: str | None = None
    traceparent: str | None = None

    def options(self) -> dict[str, Any]:
        """Return the options of an agent's request that carry the run: the only part of it which the framework leaves
        to others."""
        return {_RUN_OPTION: {name: value for name, value in asdict(self).items() if value is not None}}

    @classmethod
    def take_from(cls, options: dict[str, Any]) -> Self | None:
        """Take the run out of a request's options, and return it; None where it is a call without one."""
        run: Mapping[str, Any] | None = options.pop(_RUN_OPTION, None)
        return None if run is None else cls(**run)


_RUN_OPTION = "streamed_run"


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The run that a client asks for. ``conversation_id`` and ``idempotency_key`` are None where it names none."""

    message: str
    conversation_id: str | None
    wait_for_response: bool
    idempotency_key: str | None


class RunInput(BaseModel):
    """The input of a run's orchestration.

    ``created`` is when the run was accepted, in ms since the epoch by the clock of Redis; ``fingerprint`` tells the
    requests of one idempotency key apart; ``owner`` is the user who is signed in, None where nobody signs in;
    ``traceparent`` names the trace of the request that it was accepted with.
    """

    agent: str
    conversation_id: str
    correlation_id: str
    message: str
    timeout_seconds: float
    created: int = 0
    fingerprint: str | None = None
    owner: str | None = None
    traceparent: str | None = None

    @property
    def key(self) -> RunKey:
        return RunKey(self.conversation_id, self.correlation_id, self.created, self.owner, self.traceparent)


class RunResult(BaseModel):
    """How a run ended: the output of its orchestration.

    ``response`` is the committed answer; ``code`` is that of the ``error`` event, None unless there was one.
    """

    status: RunStatus
    response: str | None = None
    code: str | None = None

    @classmethod
    def failure(cls, code: str) -> Self:
        """Return the result of a run that ended with an ``error`` event of this code."""
        return cls(status=_failed_status(code), code=code)

    def outcome(self, correlation_id: str) -> Outcome:
        """Return the outcome that tells the run's followers of this result."""
        if self.status is RunStatus.CANCELLED:
            return CANCELLED
        return DONE if self.code is None else Outcome.failure(self.code, correlation_id)


class CommittedMessage(BaseModel):
    """One message of a conversation; ``created_at`` in ISO 8601, UTC."""

    role: str
    text: str
    correlation_id: str | None
    created_at: str


class ListedConversation(BaseModel):
    """A conversation in its owner's list: ``title`` is the beginning of its first message, ``updated_at`` when its
    newest run was accepted, in ISO 8601, UTC."""

    conversation_id: str
    agent: str
    title: str
    updated_at: str


class Look(NamedTuple):
    """What a stopped attempt sees of its run.

    Attributes:
        kind: ``answered`` by another attempt or ended with an answer; ``failed``; ``not_started``; ``erased``;
            ``open``; ``unknown`` where Redis lost it.
        text: The run's answer, where it is ``answered``.
        silent_ms: For how long nothing was heard of the newest attempt of an ``open`` run.
    """

    kind: str
    text: str
    silent_ms: int


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The right to start a run: ``claim`` names who has it, ``created`` is when the run was accepted, in ms since the
    epoch by the clock of Redis."""

    claim: str
    created: int


@dataclass(frozen=True, slots=True)
class LostRun:
    """A run of which only the durable state knows.

    Attributes:
        correlation_id: The run.
        agent: The name of its agent.
        outcome: How it ended, None while it is open.
        pieces: What is told of it again: its answer, normalized, with the tool calls and results that led to it.
        created: When it was accepted in ms since the epoch, 0 where nobody knows.
        owner: Whose it is, None where nobody signs in or nobody knows.
    """

    correlation_id: str
    agent: str
    outcome: Outcome | None
    pieces: Sequence[Piece] = ()
    created: int = 0
    owner: str | None = None

    def events(self, entry_id: str) -> list[Event]:
        """Return the events that tell a follower of a run that has ended, all with this id."""
        if self.outcome is None:
            return []
        told = [*self.pieces, (self.outcome.event, self.outcome.data)]
        return [
            expired_event(entry_id, self.correlation_id),
            *(Event(entry_id, kind, data, self.correlation_id, attempt=0, sequence=0) for kind, data in told),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it as the script that restores it takes it."""
        run: dict[str, Any] = {"correlation_id": self.correlation_id, "agent": self.agent, "created": self.created}
        if self.owner is not None:
            run["owner"] = self.owner
        if self.outcome is None:
            return run | {"status": RunStatus.QUEUED}
        ending = {"status": self.outcome.status, "event": self.outcome.event, "data": self.outcome.data}
        chunks = [(data,) if kind == MESSAGE else (data, kind) for kind, data in self.pieces]
        return run | ending | {"chunks": chunks}


class UnknownRunError(LookupError):
    """Redis holds no such conversation, or no such run in it, or has lost some of it."""


class StreamLostError(Exception):
    """Redis has lost the stream while it was followed. Whoever follows again has it restored."""


class ErasedError(LookupError):
    """The conversation was erased after the run was accepted."""


class BeingErasedError(Exception):
    """The conversation is being erased at this moment."""


class OpenRunError(Exception):
    """A run of the conversation is open, so it cannot be erased."""


class RunEndedError(Exception):
    """The run has ended, so it cannot be cancelled."""


class DurableUnavailableError(Exception):
    """The durable runtime did not answer."""


class KeyReusedError(Exception):
    """The idempotency key has been used for another message or another conversation."""


class PerhapsStartedError(Exception):
    """Nobody can tell whether the run was started."""


def _failed_status(code: str) -> RunStatus:
    return RunStatus.TIMED_OUT if code == "timeout" else RunStatus.FAILED


def expired_event(entry_id: str, correlation_id: str) -> Event:
    """Return the event that tells a follower to drop what it has of a run which is no longer in Redis."""
    data = json.dumps({"correlation_id": correlation_id, "reason": "expired"})
    return Event(entry_id, "reset", data, correlation_id, attempt=0, sequence=0)


def parse_cursor(cursor: str) -> str:
    """Return the cursor when it is an entry id ``<ms>-<seq>``.

    Raises:
        ValueError: It is not.
    """
    if not _CURSOR.fullmatch(cursor) or any(int(part) > MAX_CURSOR_PART for part in cursor.split("-")):
        raise ValueError(cursor)
    return cursor


def cursor_order(cursor: str) -> tuple[int, int]:
    """Return what sorts cursors by age."""
    milliseconds, sequence = cursor.split("-")
    return int(milliseconds), int(sequence)


def split_answer(answer: str) -> list[str]:
    """Return the answer in pieces for one entry each."""
    return [answer[i : i + ANSWER_CHUNK_CHARACTERS] for i in range(0, len(answer), ANSWER_CHUNK_CHARACTERS)]


def text_pieces(answer: str) -> list[Piece]:
    """Return what tells of an answer that is this text alone."""
    return [Piece(MESSAGE, piece) for piece in split_answer(answer)]


def now_ms() -> int:
    """Return the time in ms since the epoch."""
    return time.time_ns() // 1_000_000


def time_of(milliseconds: int) -> datetime:
    """Return a time in ms since the epoch as one that says so."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def iso_utc(time: datetime) -> str:
    """Return a time in ISO 8601, UTC."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
