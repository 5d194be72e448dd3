"""What steps of orchestrations and activities change and send, while their claims stand."""

import json
import sqlite3
import time
import uuid
from dataclasses import asdict

from devhost.protocol_v1.episode import FINAL_STATUSES, Episode, Progress
from devhost.protocol_v1.history import Event, EventType, encode, execution_started, isoformat, new_event
from devhost.store.claims import Claims
from devhost.store.database import transaction
from devhost.store.entities import insert_operation
from devhost.store.instances import InstanceExistsError, drop_work, insert_instance, insert_message, read_row
from devhost.store.work import ActivityWork, TimerWork


class Commits:
    """Commits of what ``claims`` has claimed."""

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

    def complete_timer(self, work: TimerWork, last: float, due: float) -> bool:
        """Store when a timer was invoked and is due next; false when the lease was lost and nothing was changed."""
        with transaction(self._db):
            if not self._claims.holds("timers", work.name, work.claim):
                return False
            self._db.execute(
                "UPDATE timers SET last = ?, due = ?, owner = NULL WHERE id = ?",
                (last, due, work.name),
            )
        return True
