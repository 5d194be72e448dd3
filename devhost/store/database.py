"""The SQLite file, and the transactions in it."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devhost.store.schema import SCHEMA, SCHEMA_VERSION

# A host that is stopped inside a transaction keeps the write lock; beyond this a writer gives up with an error.
LOCK_TIMEOUT_SECONDS = 30


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
    """Open the file, with its tables; it is made if there is none.

    Raises:
        StateError: another version of the schema made it.
        sqlite3.Error: it cannot be used.
    """
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
    """Commit what the block does, or nothing of it if it raises. Other hosts wait for its end to write."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction, or may have refused to end it.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
