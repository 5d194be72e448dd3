"""Instances of orchestrations, with their history and the messages to them, in the caller's transaction."""

import json
import sqlite3
import time
import uuid
from dataclasses import asdict

from devhost.protocol_v1.episode import FINAL_STATUSES, Progress
from devhost.protocol_v1.history import CONTROL_EVENTS, Event, execution_started


class InstanceExistsError(Exception):
    """An instance of this id is running; only a finished one may be started again."""


def read_row(db: sqlite3.Connection, instance_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute("SELECT * FROM instances WHERE id = ?", (instance_id,)).fetchone()
    return row


def read_events(db: sqlite3.Connection, instance_id: str) -> list[str]:
    """The history, each event as JSON text."""
    rows = db.execute("SELECT event FROM history WHERE instance_id = ? ORDER BY seq", (instance_id,))
    return [row["event"] for row in rows]


def insert_instance(
    db: sqlite3.Connection,
    name: str,
    instance_id: str,
    input_json: str | None,
    version: str,
    parent: tuple[str, str, int] | None = None,
) -> None:
    """Create an instance in place of a finished one; ``parent`` is its id, its execution's and the task's there.

    Raises:
        InstanceExistsError: one of the same id has not ended.
    """
    existing = read_row(db, instance_id)
    if existing is not None:
        if existing["status"] not in FINAL_STATUSES:
            raise InstanceExistsError(f"An Orchestration instance with the status {existing['status']} already exists.")
        delete_instance(db, instance_id)
    execution_id, now = uuid.uuid4().hex, time.time()
    db.execute(
        "INSERT INTO instances (id, execution_id, name, version, input, status, progress, created, updated,"
        " parent_id, parent_execution_id, parent_task_id) VALUES (?, ?, ?, ?, ?, 'Pending', ?, ?, ?, ?, ?, ?)",
        (
            *(instance_id, execution_id, name, version, input_json, json.dumps(asdict(Progress())), now, now),
            *(parent or (None, None, None)),
        ),
    )
    event = execution_started(name, instance_id, execution_id, input_json, version)
    insert_message(db, instance_id, event, execution_id)


def insert_message(
    db: sqlite3.Connection,
    instance_id: str,
    event: Event,
    execution_id: str | None = None,
    *,
    timer_id: int | None = None,
    due: float | None = None,
) -> bool:
    """Send to an instance; dropped when it has ended, or is in another execution than the one meant."""
    cursor = db.execute(
        "INSERT INTO inbox (instance_id, execution_id, timer_id, control, due, event)"
        " SELECT id, :execution_id, :timer_id, :control, :due, :event FROM instances"
        " WHERE id = :id AND status NOT IN ('Completed', 'Failed', 'Terminated')"
        " AND (:execution_id IS NULL OR execution_id = :execution_id)",
        {
            "id": instance_id,
            "execution_id": execution_id,
            "timer_id": timer_id,
            "control": event["EventType"] in CONTROL_EVENTS,
            "due": time.time() if due is None else due,
            "event": json.dumps(event),
        },
    )
    return cursor.rowcount == 1


def drop_work(db: sqlite3.Connection, instance_id: str) -> None:
    """Delete the messages to an instance that has ended, and its activities, which nobody waits for any more."""
    db.execute("DELETE FROM inbox WHERE instance_id = ?", (instance_id,))
    db.execute("DELETE FROM activities WHERE instance_id = ?", (instance_id,))


def delete_instance(db: sqlite3.Connection, instance_id: str) -> None:
    drop_work(db, instance_id)
    db.execute("DELETE FROM history WHERE instance_id = ?", (instance_id,))
    db.execute("DELETE FROM instances WHERE id = ?", (instance_id,))
