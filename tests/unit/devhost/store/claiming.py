"""Hosts, and what they claim."""

import os
from collections.abc import Callable
from pathlib import Path

from devhost.protocol_v1.episode import Episode, OrchestrationWork
from devhost.store import Store
from devhost.store.work import EntityWork

Step = Callable[[OrchestrationWork], Episode]


def other_host(tmp_path: Path, lease_seconds: float = 60, pid: int | None = None) -> Store:
    return Store(tmp_path / "durable.sqlite", "other", pid or os.getpid(), lease_seconds)


def claim_orchestration(store: Store) -> OrchestrationWork:
    (work,) = store.claim(9, 0).orchestrations
    return work


def claim_operation(store: Store) -> EntityWork:
    (work,) = store.claim(9, 0).entities
    return work


def request(operation: str, *, signal: bool = True) -> dict[str, object]:
    return {"op": operation, "signal": signal, "input": None, "id": "1", "parent": "run", "parentExecution": None}
