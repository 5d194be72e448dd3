"""The durable state, in one SQLite file that several hosts may share.

Work is claimed with a lease: an owner, a claim number and an expiry in seconds since the epoch. What a step of an
orchestration or an activity changes and sends is committed in one transaction, and only while its claim still stands.

An entity's operation is weaker, as it is with Azure Storage (``CompleteTaskOrchestrationWorkItemAsync`` of
AzureStorageOrchestrationService.cs): what it sends is sent first, whoever holds the lease by now, and its state is
committed afterwards, in a transaction of its own and only over the state that it has read (``etag``). The first commit
wins, be it of the lease's holder or not.
"""

# ruff: noqa: S608 - what is put into queries is table names and conditions of this file

import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from devhost.processes import process_start_time
from devhost.protocol_v1.episode import FINAL_STATUSES, Episode, Message, OrchestrationWork, Progress
from devhost.protocol_v1.history import (
    CONTROL_EVENTS,
    Event,
    EventType,
    encode,
    execution_started,
    isoformat,
    new_event,
)

# A host that is stopped inside a transaction keeps the write lock; beyond this a writer gives up with an error.
LOCK_TIMEOUT_SECONDS = 30

# Of the tables; a file of another one is refused rather than misread.
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS owners (id TEXT PRIMARY KEY, pid INTEGER NOT NULL, started TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS instances (
    id TEXT PRIMARY KEY, execution_id TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, input TEXT,
    status TEXT NOT NULL, output TEXT, custom_status TEXT, progress TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL,
    parent_id TEXT, parent_execution_id TEXT, parent_task_id INTEGER,
    owner TEXT, claim INTEGER, lease_until REAL
);
CREATE INDEX IF NOT EXISTS instances_leased ON instances (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS instances_ended ON instances (updated) WHERE status IN ('Completed', 'Failed', 'Terminated');
CREATE TABLE IF NOT EXISTS history (
    instance_id TEXT NOT NULL, seq INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (instance_id, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, instance_id TEXT NOT NULL, execution_id TEXT, timer_id INTEGER,
    control INTEGER NOT NULL, due REAL NOT NULL, event TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS inbox_due ON inbox (due);
CREATE INDEX IF NOT EXISTS inbox_instance ON inbox (instance_id);
CREATE TABLE IF NOT EXISTS activities (
    id INTEGER PRIMARY KEY AUTOINCREMENT, instance_id TEXT NOT NULL, execution_id TEXT NOT NULL,
    task_id INTEGER NOT NULL, name TEXT NOT NULL, input TEXT NOT NULL,
    owner TEXT, claim INTEGER, lease_until REAL
);
CREATE TABLE IF NOT EXISTS entities (
    id TEXT PRIMARY KEY, state TEXT, present INTEGER NOT NULL DEFAULT 0, etag TEXT NOT NULL,
    abandoned INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
    owner TEXT, claim INTEGER, lease_until REAL
);
CREATE INDEX IF NOT EXISTS entities_leased ON entities (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS entities_waiting ON entities (not_before);
CREATE TABLE IF NOT EXISTS operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, entity_id TEXT NOT NULL, sent REAL NOT NULL, request TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS operations_entity ON operations (entity_id);
"""

LEASED_TABLES = ("instances", "activities", "entities")

# Beyond what one purge frees, so that the file shrinks; few, since others wait for the write lock meanwhile.
VACUUM_PAGES = 1000

# The real one starts at 2 s and doubles up to 10 minutes (``AbandonMessageAsync`` of TaskHubQueue.cs), which would make
# every test of it slow.
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30


class StateError(Exception):
    """The durable state cannot be used. The message is one line."""


def make_state_directory(path: Path) -> None:
    """Make the directory if there is none.

    Raises:
        StateError: it cannot be made, or nothing can be written into it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise StateError(f"cannot keep state in {path}: {error.strerror}; choose another --state-dir") from None


def open_database(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    # Only before there is a table; it lets space that is not used any more be given back piece by piece.
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and version != SCHEMA_VERSION:
        raise StateError(f"the durable state in {path} was made by another version of this host: remove it")
    db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction, or may have refused to end it.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@dataclass(frozen=True)
class ActivityWork:
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
class Work:
    orchestrations: list[OrchestrationWork]
    activities: list[ActivityWork]
    entities: list[EntityWork]
    next_due: float | None


class InstanceExistsError(Exception):
    """An instance of this id is running; only a finished one may be started again."""


def read_row(db: sqlite3.Connection, instance_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute("SELECT * FROM instances WHERE id = ?", (instance_id,)).fetchone()
    return row


def read_events(db: sqlite3.Connection, instance_id: str) -> list[str]:
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
    db.execute("DELETE FROM inbox WHERE instance_id = ?", (instance_id,))
    db.execute("DELETE FROM activities WHERE instance_id = ?", (instance_id,))


def delete_instance(db: sqlite3.Connection, instance_id: str) -> None:
    drop_work(db, instance_id)
    db.execute("DELETE FROM history WHERE instance_id = ?", (instance_id,))
    db.execute("DELETE FROM instances WHERE id = ?", (instance_id,))


def insert_operation(db: sqlite3.Connection, entity_id: str, request: dict[str, Any]) -> None:
    db.execute("INSERT OR IGNORE INTO entities (id, etag) VALUES (?, ?)", (entity_id, new_etag()))
    db.execute(
        "INSERT INTO operations (entity_id, sent, request) VALUES (?, ?, ?)",
        (entity_id, time.time(), json.dumps(request)),
    )


def delete_absent_entity(db: sqlite3.Connection, entity_id: str) -> None:
    db.execute(
        "DELETE FROM entities WHERE id = ? AND NOT present"
        " AND NOT EXISTS (SELECT 1 FROM operations WHERE entity_id = entities.id)",
        (entity_id,),
    )


def new_etag() -> str:
    return uuid.uuid4().hex


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
        self._claims = 0

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
        self._claims += 1
        row: sqlite3.Row = self._db.execute(
            f"UPDATE {table} SET owner = ?, claim = ?, lease_until = ? WHERE id = ? RETURNING *",
            (self._owner, self._claims, time.time() + self._lease_seconds, key),
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
        query = f"SELECT 1 FROM {table} WHERE id = ? AND owner = ? AND claim = ?"
        return self._db.execute(query, (key, self._owner, claim)).fetchone() is not None


class Commits:
    """What comes of claimed episodes and activities."""

    def __init__(self, db: sqlite3.Connection, claims: Claims) -> None:
        self._db = db
        self._claims = claims

    def commit_episode(self, episode: Episode) -> bool:
        """Store an episode and send its messages; false when the lease was lost and nothing was changed."""
        with transaction(self._db):
            if not self._claims.holds("instances", episode.work.instance_id, episode.work.claim):
                return False
            self._db.executemany("DELETE FROM inbox WHERE id = ?", [(key,) for key in episode.consumed])
            self._send(episode)
            if episode.status == "ContinuedAsNew":
                self._continue_as_new(episode)
            else:
                self._advance(episode)
        return True

    def _send(self, episode: Episode) -> None:
        instance_id, execution_id = scope = (episode.work.instance_id, episode.work.execution_id)
        self._db.executemany(
            "INSERT INTO activities (instance_id, execution_id, task_id, name, input) VALUES (?, ?, ?, ?, ?)",
            [(*scope, task_id, name, input_json) for task_id, name, input_json in episode.activities],
        )
        for task_id, due in episode.timers:
            fired = new_event(EventType.TIMER_FIRED, TimerId=task_id, FireAt=isoformat(due))
            insert_message(self._db, instance_id, fired, execution_id, timer_id=task_id, due=due)
        for task_id in episode.cancelled_timers:
            self._db.execute(
                "DELETE FROM inbox WHERE instance_id = ? AND execution_id = ? AND timer_id = ?", (*scope, task_id)
            )
        for child in episode.sub_orchestrations:
            parent = (*scope, child.task_id)
            try:
                insert_instance(self._db, child.name, child.instance_id, child.input_json, child.version, parent)
            except InstanceExistsError as error:
                failed = new_event(
                    EventType.SUB_ORCHESTRATION_FAILED, TaskScheduledId=child.task_id, Reason=str(error), Details=""
                )
                insert_message(self._db, instance_id, failed, execution_id)
        for entity_id, request in episode.operations:
            insert_operation(self._db, entity_id, request)

    def _advance(self, episode: Episode) -> None:
        first = len(episode.work.past)
        self._db.executemany(
            "INSERT INTO history VALUES (?, ?, ?)",
            [
                (episode.work.instance_id, first + offset, encode(event, played=True))
                for offset, event in enumerate(episode.history)
            ],
        )
        self._db.execute(
            "UPDATE instances SET status = ?, output = ?, custom_status = coalesce(?, custom_status), progress = ?,"
            " updated = ?, owner = NULL WHERE id = ?",
            (
                episode.status,
                episode.output_json,
                episode.custom_status_json,
                json.dumps(asdict(episode.progress)),
                time.time(),
                episode.work.instance_id,
            ),
        )
        if episode.status in FINAL_STATUSES:
            drop_work(self._db, episode.work.instance_id)
            self._notify_parent(episode)

    def _notify_parent(self, episode: Episode) -> None:
        row = read_row(self._db, episode.work.instance_id)
        if row is None or row["parent_id"] is None:
            return
        task_id = row["parent_task_id"]
        if episode.failure:
            reason, details = episode.failure
            event = new_event(
                EventType.SUB_ORCHESTRATION_FAILED, TaskScheduledId=task_id, Reason=reason, Details=details
            )
        else:
            result = episode.output_json or "null"
            event = new_event(EventType.SUB_ORCHESTRATION_COMPLETED, TaskScheduledId=task_id, Result=result)
        insert_message(self._db, row["parent_id"], event, row["parent_execution_id"])

    def _continue_as_new(self, episode: Episode) -> None:
        """Start the next execution. Events not delivered yet stay in the inbox; what belongs to this execution goes."""
        work, execution_id = episode.work, uuid.uuid4().hex
        self._db.execute("DELETE FROM history WHERE instance_id = ?", (work.instance_id,))
        self._db.execute(
            "DELETE FROM inbox WHERE instance_id = ? AND execution_id = ?", (work.instance_id, work.execution_id)
        )
        (version,) = self._db.execute(
            "UPDATE instances SET execution_id = ?, input = ?, status = 'Running', progress = ?, updated = ?,"
            " custom_status = coalesce(?, custom_status), owner = NULL WHERE id = ? RETURNING version",
            (
                execution_id,
                episode.next_input_json,
                json.dumps(asdict(Progress())),
                time.time(),
                episode.custom_status_json,
                work.instance_id,
            ),
        ).fetchone()
        event = execution_started(work.name, work.instance_id, execution_id, episode.next_input_json, version)
        insert_message(self._db, work.instance_id, event, execution_id)

    def complete_activity(self, work: ActivityWork, event: Event) -> bool:
        """Replace the activity by its result; false when the lease was lost and nothing was changed."""
        with transaction(self._db):
            if not self._claims.holds("activities", work.id, work.claim):
                return False
            self._db.execute("DELETE FROM activities WHERE id = ?", (work.id,))
            insert_message(self._db, work.instance_id, event, work.execution_id)
        return True


class Operations:
    """What comes of claimed operations of entities."""

    def __init__(self, db: sqlite3.Connection, owner: str) -> None:
        self._db = db
        self._owner = owner

    def send_outcome(self, work: EntityWork, response: str, signals: list[tuple[str, dict[str, Any]]]) -> None:
        """Answer an operation's caller and send its signals, before the state is committed."""
        with transaction(self._db):
            if not work.request.get("signal"):
                event = new_event(EventType.EVENT_RAISED, Name=work.request["id"], Input=response)
                insert_message(self._db, work.request["parent"], event, work.request["parentExecution"])
            for entity_id, request in signals:
                insert_operation(self._db, entity_id, request)

    def commit_state(self, work: EntityWork, state_json: str | None, present: bool) -> bool:
        """Store the entity's state after an operation; false when another commit came first and nothing was changed.

        A deduplicated operation goes with it; another one is executed again if the process dies before
        ``remove_operation``.
        """
        with transaction(self._db):
            committed = self._db.execute(
                "UPDATE entities SET state = ?, present = ?, etag = ?, abandoned = 0, not_before = 0"
                " WHERE id = ? AND etag = ?",
                (state_json, present, new_etag(), work.entity_id, work.etag),
            )
            if not committed.rowcount:
                return False
            if work.deduplicated:
                self._remove_operation(work)
        return True

    def remove_operation(self, work: EntityWork) -> None:
        """Remove the message of an operation whose state is committed."""
        with transaction(self._db):
            self._remove_operation(work)

    def _remove_operation(self, work: EntityWork) -> None:
        self._db.execute("DELETE FROM operations WHERE id = ?", (work.operation_id,))
        self._db.execute(
            "UPDATE entities SET owner = NULL WHERE id = ? AND owner = ? AND claim = ?",
            (work.entity_id, self._owner, work.claim),
        )
        delete_absent_entity(self._db, work.entity_id)

    def abandon_operation(self, work: EntityWork) -> None:
        """Give an operation up, to be executed again after a pause that grows each time."""
        with transaction(self._db):
            self._db.execute(
                "UPDATE entities SET owner = NULL, abandoned = abandoned + 1,"
                " not_before = :now + min(:longest, :first * (1 << min(abandoned, 20)))"
                " WHERE id = :id AND owner = :me AND claim = :claim",
                {
                    "now": time.time(),
                    "first": FIRST_PAUSE_SECONDS,
                    "longest": LONGEST_PAUSE_SECONDS,
                    "id": work.entity_id,
                    "me": self._owner,
                    "claim": work.claim,
                },
            )
            delete_absent_entity(self._db, work.entity_id)


class ClientCalls:
    """What clients ask for."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

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
        """The instance's row, with times in seconds since the epoch and payloads as JSON text."""
        row = read_row(self._db, instance_id)
        return None if row is None else dict(row)

    def read_history(self, instance_id: str) -> list[Event]:
        return [json.loads(event) for event in read_events(self._db, instance_id)]

    def find_instances(
        self,
        created_from: float | None = None,
        created_to: float | None = None,
        statuses: list[str] | None = None,
        prefix: str = "",
    ) -> list[dict[str, Any]]:
        """Rows as of ``read_instance``, oldest first; times are seconds since the epoch."""
        rows = self._db.execute(
            "SELECT * FROM instances WHERE created >= ? AND created <= ? ORDER BY created, id",
            (created_from or 0, created_to or float("inf")),
        )
        return [
            dict(row) for row in rows if row["id"].startswith(prefix) and (not statuses or row["status"] in statuses)
        ]

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


class Store:
    """All access is by one thread; ``owner`` names this host in leases of ``lease_seconds``.

    Raises:
        StateError: the file cannot be used.
    """

    def __init__(self, path: Path, owner: str, pid: int, lease_seconds: float) -> None:
        try:
            self._db = open_database(path)
            self._db.execute("INSERT INTO owners VALUES (?, ?, ?)", (owner, pid, process_start_time(pid)))
        except sqlite3.Error as error:
            raise StateError(f"cannot use the durable state in {path}: {error}; remove it to begin anew") from None

        claims = Claims(self._db, owner, lease_seconds)
        self.claim = claims.claim
        self.claim_again = claims.claim_again
        self.release = claims.release
        self.renew_leases = claims.renew_leases
        self.leave = claims.leave
        self.release_dead_owners = claims.release_dead_owners

        commits = Commits(self._db, claims)
        self.commit_episode = commits.commit_episode
        self.complete_activity = commits.complete_activity

        operations = Operations(self._db, owner)
        self.send_outcome = operations.send_outcome
        self.commit_state = operations.commit_state
        self.remove_operation = operations.remove_operation
        self.abandon_operation = operations.abandon_operation

        calls = ClientCalls(self._db)
        self.start_instance = calls.start_instance
        self.raise_event = calls.raise_event
        self.signal_entity = calls.signal_entity
        self.read_entity = calls.read_entity
        self.read_instance = calls.read_instance
        self.read_history = calls.read_history
        self.find_instances = calls.find_instances
        self.purge = calls.purge
        self.purge_ended = calls.purge_ended

    def close(self) -> None:
        self._db.close()
