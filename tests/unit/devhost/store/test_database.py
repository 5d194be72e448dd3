"""The file, and transactions that fail."""

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from devhost.store import Store
from devhost.store.database import StateError, transaction
from tests.unit.devhost.store.claiming import claim_operation, request


def test_full_disk_ends_a_transaction_and_the_next_one_works(tmp_path: Path) -> None:
    store = Store(tmp_path / "full.sqlite", "me", os.getpid(), 60)
    limit_pages(store, 1)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.signal_entity("@counter@a", {**request("add"), "input": "x" * 100_000})
    limit_pages(store, 1_000_000)
    store.signal_entity("@counter@a", request("add"))
    assert claim_operation(store).request["op"] == "add"
    store.close()


def limit_pages(store: Store, pages: int) -> None:
    store._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()


def test_commit_that_fails_leaves_no_transaction_open(store: Store) -> None:
    store._db.execute("PRAGMA foreign_keys = ON")
    store._db.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    store._db.execute("CREATE TABLE children (id INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)")
    # What a full disk does now and then: the statements pass, and it is the commit that is refused.
    with pytest.raises(sqlite3.IntegrityError), transaction(store._db):
        store._db.execute("INSERT INTO children VALUES (1)")
    store.signal_entity("@counter@a", request("add"))
    assert claim_operation(store).request["op"] == "add"


@pytest.mark.parametrize("content", [b"not a database, whatever it is", b"", None])
def test_file_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "durable.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content * 100)
    if content == b"":
        Store(path, "me", os.getpid(), 60).close()
        return
    with pytest.raises(StateError, match=r"durable\.sqlite"):
        Store(path, "me", os.getpid(), 60)


def test_file_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "durable.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as earlier:
        earlier.execute("CREATE TABLE instances (id TEXT)")
    with pytest.raises(StateError, match="another version"):
        Store(path, "me", os.getpid(), 60)
