"""What operations of entities send, and the states they leave."""

import sqlite3
import time
from typing import Any

from devhost.protocol_v1.history import EventType, new_event
from devhost.store.database import transaction
from devhost.store.entities import delete_absent_entity, insert_operation, new_etag
from devhost.store.instances import insert_message
from devhost.store.work import EntityWork

# The real one starts at 2 s and doubles up to 10 minutes (``AbandonMessageAsync`` of TaskHubQueue.cs), which would make
# every test of it slow.
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30


class Operations:
    """Ends of the operations that the host ``owner`` executes."""

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
                "UPDATE entities SET state = ?, present = ?, etag = ?, abandoned = 0, not_before = 0, updated = ?"
                " WHERE id = ? AND etag = ?",
                (state_json, present, new_etag(), time.time(), work.entity_id, work.etag),
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
