"""Which host works on what: claiming work that is ready, keeping its leases and giving them up."""

# ruff: noqa: S608 - what is put into queries is table names and conditions of this file

import json
import sqlite3
import time
from typing import Any

from devhost.processes import process_start_time
from devhost.protocol_v1.episode import Message, OrchestrationWork, Progress
from devhost.store.database import transaction
from devhost.store.instances import read_events
from devhost.store.schema import LEASED_TABLES
from devhost.store.work import ActivityWork, EntityWork, TimerWork, Work

# Free, or of another host that has not renewed it. One's own leases are work in progress in this process.
CLAIMABLE = "(owner IS NULL OR (owner <> :me AND lease_until < :now))"

# Orchestrations and entities come through the same queues, so those whose message came first go first.
READY_STEPS = f"""
SELECT is_entity, id FROM (
    SELECT 0 AS is_entity, instances.id AS id, inbox.due AS since
    FROM inbox JOIN instances ON instances.id = inbox.instance_id
    WHERE inbox.due <= :now AND (instances.status <> 'Suspended' OR inbox.control) AND {CLAIMABLE}
    UNION ALL
    SELECT 1, entities.id, operations.sent
    FROM operations JOIN entities ON entities.id = operations.entity_id
    WHERE entities.not_before <= :now AND {CLAIMABLE}
) GROUP BY is_entity, id ORDER BY min(since) LIMIT :limit
"""
READY_ACTIVITIES = f"SELECT id FROM activities WHERE {CLAIMABLE} ORDER BY id LIMIT :limit"


class Claims:
    """Leases of ``lease_seconds`` on work, in the name of the host ``owner``."""

    def __init__(self, db: sqlite3.Connection, owner: str, lease_seconds: float) -> None:
        self._db = db
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._last_claim = 0

    def claim(self, steps: int, activities: int) -> Work:
        """Claim up to so many ready steps, of orchestrations and entities together, and activities."""
        now = time.time()
        wanted = ((READY_STEPS, steps), (READY_ACTIVITIES, activities))
        if not any(self._ready(query, now, limit) for query, limit in wanted):
            return Work([], [], [], self._next_due(now))
        with transaction(self._db):
            ready_steps, ready_activities = (self._ready(query, now, limit) for query, limit in wanted)
            return Work(
                [self._claim_orchestration(key, now) for is_entity, key in ready_steps if not is_entity],
                [self._claim_activity(key) for (key,) in ready_activities],
                [self._claim_entity(key) for is_entity, key in ready_steps if is_entity],
                self._next_due(now),
            )

    def _ready(self, query: str, now: float, limit: int) -> list[sqlite3.Row]:
        if limit <= 0:
            return []
        return self._db.execute(query, {"now": now, "me": self._owner, "limit": limit}).fetchall()

    def _next_due(self, now: float) -> float | None:
        query = (
            "SELECT min(due) FROM (SELECT min(due) AS due FROM inbox WHERE due > :now"
            " UNION ALL SELECT min(not_before) FROM entities WHERE not_before > :now)"
        )
        due: float | None = self._db.execute(query, {"now": now}).fetchone()[0]
        return due

    def _lease(self, table: str, key: Any) -> sqlite3.Row:
        self._last_claim += 1
        row: sqlite3.Row = self._db.execute(
            f"UPDATE {table} SET owner = ?, claim = ?, lease_until = ? WHERE id = ? RETURNING *",
            (self._owner, self._last_claim, time.time() + self._lease_seconds, key),
        ).fetchone()
        return row

    def _claim_orchestration(self, instance_id: str, now: float) -> OrchestrationWork:
        row = self._lease("instances", instance_id)
        messages = self._db.execute(
            "SELECT id, event FROM inbox WHERE instance_id = ? AND due <= ? ORDER BY id", (instance_id, now)
        )
        return OrchestrationWork(
            instance_id=instance_id,
            execution_id=row["execution_id"],
            name=row["name"],
            input_json=row["input"],
            parent_id=row["parent_id"],
            status=row["status"],
            progress=Progress(**json.loads(row["progress"])),
            past=read_events(self._db, instance_id),
            messages=[Message(message["id"], json.loads(message["event"])) for message in messages],
            claim=row["claim"],
        )

    def _claim_activity(self, key: int) -> ActivityWork:
        row = self._lease("activities", key)
        return ActivityWork(
            key, row["instance_id"], row["execution_id"], row["task_id"], row["name"], row["input"], row["claim"]
        )

    def _claim_entity(self, entity_id: str) -> EntityWork:
        row = self._lease("entities", entity_id)
        operation = self._db.execute(
            "SELECT id, request FROM operations WHERE entity_id = ? ORDER BY id LIMIT 1", (entity_id,)
        ).fetchone()
        return EntityWork(
            entity_id=entity_id,
            state_json=row["state"],
            present=bool(row["present"]),
            etag=row["etag"],
            operation_id=operation[0],
            request=json.loads(operation[1]),
            claim=row["claim"],
        )

    def claim_timer(self, name: str) -> tuple[TimerWork | None, float]:
        """Claim a timer that is due and free, else return None; and when it is due."""
        due: float = self._db.execute("SELECT due FROM timers WHERE id = ?", (name,)).fetchone()[0]
        if due > time.time():
            return None, due
        ready = f"SELECT 1 FROM timers WHERE id = :name AND due <= :now AND {CLAIMABLE}"
        with transaction(self._db):
            known = {"name": name, "now": time.time(), "me": self._owner}
            if self._db.execute(ready, known).fetchone() is None:
                return None, due
            row = self._lease("timers", name)
        return TimerWork(name, row["due"], row["last"], row["claim"]), row["due"]

    def claim_again(self, work: EntityWork) -> EntityWork | None:
        """Take an operation over from its running execution, which is not told; None when it is done."""
        with transaction(self._db):
            query = "SELECT 1 FROM operations WHERE id = ?"
            if self._db.execute(query, (work.operation_id,)).fetchone() is None:
                return None
            return self._claim_entity(work.entity_id)

    def release(self, claim: int) -> None:
        """Give up a claim of this host, so that the work is delivered again."""
        with transaction(self._db):
            for table in LEASED_TABLES:
                self._db.execute(f"UPDATE {table} SET owner = NULL WHERE owner = ? AND claim = ?", (self._owner, claim))

    def renew_leases(self) -> None:
        lease_until = time.time() + self._lease_seconds
        with transaction(self._db):
            for table in LEASED_TABLES:
                self._db.execute(f"UPDATE {table} SET lease_until = ? WHERE owner = ?", (lease_until, self._owner))

    def leave(self) -> None:
        """Free everything that this host holds, as if its process were gone."""
        with transaction(self._db):
            self._free(self._owner)

    def _free(self, owner: str) -> None:
        for table in LEASED_TABLES:
            self._db.execute(f"UPDATE {table} SET owner = NULL WHERE owner = ?", (owner,))
        self._db.execute("DELETE FROM owners WHERE id = ?", (owner,))

    def release_dead_owners(self) -> bool:
        """Free the leases of hosts whose process is gone, so that a restart need not wait for them to expire."""
        owners = self._db.execute("SELECT * FROM owners WHERE id <> ?", (self._owner,)).fetchall()
        dead = [row["id"] for row in owners if process_start_time(row["pid"]) != row["started"]]
        if dead:
            with transaction(self._db):
                for owner in dead:
                    self._free(owner)
        return bool(dead)

    def holds(self, table: str, key: Any, claim: int) -> bool:
        """Whether a claim of this host still stands; in the transaction that depends on it."""
        query = f"SELECT 1 FROM {table} WHERE id = ? AND owner = ? AND claim = ?"
        return self._db.execute(query, (key, self._owner, claim)).fetchone() is not None
