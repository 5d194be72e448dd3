"""Work that this host has claimed; ``claim`` is the number by which it commits the work or gives it up."""

from dataclasses import dataclass
from typing import Any

from devhost.protocol_v1.episode import OrchestrationWork


@dataclass(frozen=True)
class ActivityWork:
    """``task_id`` is what the orchestrator's execution knows the activity by."""

    id: int
    instance_id: str
    execution_id: str
    task_id: int
    name: str
    input_json: str
    claim: int


@dataclass(frozen=True)
class EntityWork:
    """The oldest operation of an entity. ``state_json`` is the entity's state as JSON text, ``etag`` names it."""

    entity_id: str
    state_json: str | None
    present: bool
    etag: str
    operation_id: int
    request: dict[str, Any]
    claim: int

    @property
    def deduplicated(self) -> bool:
        """Whether a message that is delivered once more after the state's commit is known to have been seen.

        The state keeps what it has seen of each orchestration and entity (MessageSorter.cs, for half an hour), and
        nothing of what clients send.
        """
        return self.request["parent"] is not None


@dataclass(frozen=True)
class TimerWork:
    """A timer function that is ``due``; ``last`` is when it was invoked last, None where it never was."""

    name: str
    due: float
    last: float | None
    claim: int


@dataclass(frozen=True)
class Work:
    """What one look has claimed; ``next_due`` is when more will be ready by itself, in seconds since the epoch."""

    orchestrations: list[OrchestrationWork]
    activities: list[ActivityWork]
    entities: list[EntityWork]
    next_due: float | None
