"""What clients ask for, and what is purged."""

import json
import os
import time
from pathlib import Path

import pytest

from devhost.protocol_v1.history import EventType, new_event
from devhost.store import Store
from devhost.store.instances import InstanceExistsError
from tests.unit.devhost.builders import result
from tests.unit.devhost.store.claiming import Step, claim_orchestration


def test_what_ended_long_ago_is_purged_in_pieces_and_its_space_is_given_back(tmp_path: Path, step: Step) -> None:
    store = Store(tmp_path / "large.sqlite", "me", os.getpid(), 60)
    for number in range(20):
        store.start_instance("parent", f"run-{number}", json.dumps("x" * 100_000), "")
        if number:
            episode = step(claim_orchestration(store))
            episode.apply(result(done=True))
            episode.close()
            store.commit_episode(episode)
        else:
            store.release(claim_orchestration(store).claim)
            store.raise_event("run-0", new_event(EventType.EXECUTION_SUSPENDED, Input=""))
            store.commit_episode(step(claim_orchestration(store)))
    ended = time.time()
    assert store.purge_ended(ended - 3600, 5) == 0
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    assert [store.purge_ended(ended, 10) for _ in range(3)] == [10, 9, 0]
    assert [row["id"] for row in store.find_instances()] == ["run-0"]
    assert store._db.execute("PRAGMA page_count").fetchone()[0] < pages / 5
    store.close()


def test_running_instance_is_not_replaced_and_a_finished_one_is(store: Store, step: Step) -> None:
    store.start_instance("parent", "run", "1", "")
    with pytest.raises(InstanceExistsError, match="Pending"):
        store.start_instance("parent", "run", "2", "")
    episode = step(claim_orchestration(store))
    episode.apply(result(done=True, output="done"))
    episode.close()
    store.commit_episode(episode)
    store.start_instance("parent", "run", "2", "")
    row = store.read_instance("run")
    assert row is not None
    assert (row["status"], row["input"], row["output"]) == ("Pending", "2", None)


def test_purge_keeps_what_is_running(store: Store) -> None:
    store.start_instance("parent", "run", None, "")
    assert store.purge(["run", "no-such-instance"]) == 0
    assert store.read_instance("run") is not None
