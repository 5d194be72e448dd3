"""What clients ask for, and the purge of what ended long ago."""

# ruff: noqa: S608 - what is put into queries is a constant of this file

import json
import sqlite3
from typing import Any

from devhost.protocol_v1.episode import FINAL_STATUSES
from devhost.protocol_v1.history import Event
from devhost.store.database import transaction
from devhost.store.entities import delete_absent_entity, insert_operation, new_etag
from devhost.store.instances import delete_instance, insert_instance, insert_message, read_events, read_row

# Beyond what one purge frees, so that the file shrinks; few, since others wait for the write lock meanwhile.
VACUUM_PAGES = 1000


# For Azure Storage an entity is an orchestration that begins anew with each batch of operations, and whose input is the
# entity's state (``TaskEntityShim.cs``); it has no row before its first commit.
ROWS = """
SELECT * FROM (
    SELECT id, name, version, status, input, output, custom_status, created, updated FROM instances
    UNION ALL
    SELECT id, substr(id, 1, instr(substr(id, 2), '@')), '', 'Running',
        json_object('exists', json('true'), 'state', state), NULL, NULL, updated, updated
    FROM entities WHERE present
)
"""


class ClientCalls:
    """Calls of any host's clients; they need no claim."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def set_timer(self, name: str, schedule: str, due: float, at_once: float | None) -> None:
        """Set when a timer is due, unless that is known of this schedule; ``at_once`` is when it is due anyhow."""
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO timers (id, schedule, due) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE"
                " SET schedule = excluded.schedule, due = excluded.due WHERE schedule <> excluded.schedule",
                (name, schedule, due),
            )
            if at_once is not None:
                self._db.execute("UPDATE timers SET due = min(due, ?) WHERE id = ?", (at_once, name))

    def start_instance(self, name: str, instance_id: str, input_json: str | None, version: str) -> None:
        """Create an instance; a finished one of the same id is replaced.

        Raises:
            InstanceExistsError: one of the same id has not ended.
        """
        with transaction(self._db):
            insert_instance(self._db, name, instance_id, input_json, version)

    def raise_event(self, instance_id: str, event: Event) -> bool:
        """Send an event from outside; false when the instance has ended or never was."""
        with transaction(self._db):
            return insert_message(self._db, instance_id, event)

    def signal_entity(self, entity_id: str, request: dict[str, Any]) -> None:
        with transaction(self._db):
            insert_operation(self._db, entity_id, request)

    def read_entity(self, entity_id: str) -> str | None:
        """The entity's committed state as JSON text; None when there is no such entity."""
        row = self._db.execute("SELECT state FROM entities WHERE id = ? AND present", (entity_id,)).fetchone()
        return None if row is None else row["state"] or "null"

    def read_instance(self, instance_id: str) -> dict[str, Any] | None:
        """The instance's row, with times in seconds since the epoch and payloads as JSON text; an entity's by its
        ``@name@key``."""
        row = self._db.execute(f"{ROWS} WHERE id = ?", (instance_id,)).fetchone()
        return None if row is None else dict(row)

    def read_history(self, instance_id: str) -> list[Event]:
        return [json.loads(event) for event in read_events(self._db, instance_id)]

    def find_instances(
        self,
        created_from: float | None = None,
        created_to: float | None = None,
        statuses: list[str] | None = None,
        prefix: str = "",
        *,
        after: str = "",
        limit: int = -1,
    ) -> list[dict[str, Any]]:
        """The first rows after an id, in the order of ids, as of ``read_instance``, those of entities included; -1 is
        all of them. Times are seconds since the epoch."""
        query = (
            f"{ROWS} WHERE id > :after AND substr(id, 1, length(:prefix)) = :prefix"
            " AND created >= :from AND created <= :to"
            " AND (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))"
            " ORDER BY id LIMIT :limit"
        )
        rows = self._db.execute(
            query,
            {
                # The ids before the prefix need no look.
                "after": max(after, prefix[:-1]),
                "prefix": prefix,
                "from": created_from or 0,
                "to": created_to or float("inf"),
                "statuses": json.dumps(statuses) if statuses else None,
                "limit": limit,
            },
        )
        return [dict(row) for row in rows]

    def purge(self, instance_ids: list[str]) -> int:
        """Delete finished instances, and entities by their ``@name@key``; how many there were."""
        purged = 0
        with transaction(self._db):
            for instance_id in instance_ids:
                row = read_row(self._db, instance_id)
                if row is not None and row["status"] in FINAL_STATUSES:
                    delete_instance(self._db, instance_id)
                    purged += 1
                elif instance_id.startswith("@"):
                    query = "UPDATE entities SET present = 0, state = NULL, etag = ? WHERE id = ? AND present"
                    purged += self._db.execute(query, (new_etag(), instance_id)).rowcount
                    delete_absent_entity(self._db, instance_id)
        return purged

    def purge_ended(self, before: float, limit: int) -> int:
        """Delete up to so many instances that ended before this time, and give their space back; how many they were."""
        query = (
            "SELECT id FROM instances WHERE status IN ('Completed', 'Failed', 'Terminated') AND updated < ?"
            " ORDER BY updated LIMIT ?"
        )
        ended = [row["id"] for row in self._db.execute(query, (before, limit))]
        purged = self.purge(ended) if ended else 0
        # As a script: each step gives back a page, and Python 3.11 makes one step of a statement without columns.
        self._db.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        return purged
