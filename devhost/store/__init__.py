"""The durable state, in one SQLite file that several hosts may share.

Work is claimed with a lease: an owner, a claim number and an expiry in seconds since the epoch. What a step of an
orchestration or an activity changes and sends is committed in one transaction, and only while its claim still stands.

An entity's operation is weaker, as it is with Azure Storage (``CompleteTaskOrchestrationWorkItemAsync`` of
AzureStorageOrchestrationService.cs): what it sends is sent first, whoever holds the lease by now, and its state is
committed afterwards, in a transaction of its own and only over the state that it has read (``etag``). The first commit
wins, be it of the lease's holder or not.

``claims.py``, ``commits.py``, ``operations.py`` and ``client_calls.py`` each begin transactions of their own;
``instances.py`` and ``entities.py`` hold what they share inside of one. Of the protocol the store knows events and
episodes only: the protocol's entities and management API import the store.
"""

import sqlite3
from pathlib import Path

from devhost.processes import process_start_time
from devhost.store.claims import Claims
from devhost.store.client_calls import ClientCalls
from devhost.store.commits import Commits
from devhost.store.database import StateError, open_database
from devhost.store.operations import Operations


class Store:
    """All that the host calls, always on one thread; ``owner`` names this host in leases of ``lease_seconds``.

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
        self.claim_timer = claims.claim_timer
        self.release = claims.release
        self.renew_leases = claims.renew_leases
        self.leave = claims.leave
        self.release_dead_owners = claims.release_dead_owners

        commits = Commits(self._db, claims)
        self.commit_episode = commits.commit_episode
        self.complete_activity = commits.complete_activity
        self.complete_timer = commits.complete_timer

        operations = Operations(self._db, owner)
        self.send_outcome = operations.send_outcome
        self.commit_state = operations.commit_state
        self.remove_operation = operations.remove_operation
        self.abandon_operation = operations.abandon_operation

        calls = ClientCalls(self._db)
        self.set_timer = calls.set_timer
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
