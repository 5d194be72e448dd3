"""Entities and the operations sent to them, in the caller's transaction."""

import json
import sqlite3
import time
import uuid
from typing import Any


def insert_operation(db: sqlite3.Connection, entity_id: str, request: dict[str, Any]) -> None:
    """Send to an entity, which need not exist yet."""
    db.execute("INSERT OR IGNORE INTO entities (id, etag) VALUES (?, ?)", (entity_id, new_etag()))
    db.execute(
        "INSERT INTO operations (entity_id, sent, request) VALUES (?, ?, ?)",
        (entity_id, time.time(), json.dumps(request)),
    )


def delete_absent_entity(db: sqlite3.Connection, entity_id: str) -> None:
    """Delete the row of an entity that has neither a state nor an operation that waits."""
    db.execute(
        "DELETE FROM entities WHERE id = ? AND NOT present"
        " AND NOT EXISTS (SELECT 1 FROM operations WHERE entity_id = entities.id)",
        (entity_id,),
    )


def new_etag() -> str:
    return uuid.uuid4().hex
