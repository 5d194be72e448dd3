"""Stores and functions for unit tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devhost.functions import Function, FunctionTable, Trigger
from devhost.store import Store


@pytest.fixture
def functions() -> FunctionTable:
    return FunctionTable(
        [
            Function("parent", Trigger.ORCHESTRATION, "id", "context"),
            Function("child", Trigger.ORCHESTRATION, "id", "context"),
            Function("work", Trigger.ACTIVITY, "id", "input"),
            Function("Counter", Trigger.ENTITY, "id", "context"),
        ]
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "durable.sqlite", "me", os.getpid(), lease_seconds=60)
    yield store
    store.close()
