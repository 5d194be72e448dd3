"""What clients ask for, and what is purged."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from devhost.protocol_v1.history import EventType, new_event
from devhost.store import Store
from devhost.store.instances import InstanceExistsError
from tests.unit.devhost.builders import result
from tests.unit.devhost.store.claiming import Step, claim_operation, claim_orchestration, request


def commit(store: Store, entity_id: str) -> None:
    """Have an operation of the entity commit the state 1."""
    store.signal_entity(entity_id, request("add"))
    work = claim_operation(store)
    assert store.commit_state(work, "1", present=True)
    store.remove_operation(work)


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


def test_instances_and_entities_are_listed_in_the_order_of_their_ids(store: Store) -> None:
    for instance_id in ("b2", "a", "b1", "c"):
        store.start_instance("parent", instance_id, None, "")
    for key in ("x", "y"):
        commit(store, f"@counter@{key}")
    store.signal_entity("@counter@never", request("add"))

    def found(**conditions: Any) -> list[str]:
        return [row["id"] for row in store.find_instances(**conditions)]

    assert found() == ["@counter@x", "@counter@y", "a", "b1", "b2", "c"]
    assert found(prefix="b") == ["b1", "b2"]
    assert found(prefix="@counter@") == ["@counter@x", "@counter@y"]
    assert found(limit=3) == ["@counter@x", "@counter@y", "a"]
    assert found(after="a", limit=2) == ["b1", "b2"]
    assert found(prefix="b", after="b1") == ["b2"]
    assert found(statuses=["Pending"], prefix="b", limit=1) == ["b1"]
    assert found(statuses=["Completed"]) == []


def test_an_entity_is_as_old_as_its_last_operation(store: Store) -> None:
    commit(store, "@counter@a")
    first = store.read_instance("@counter@a")
    commit(store, "@counter@a")
    second = store.read_instance("@counter@a")

    assert first is not None
    assert second is not None
    assert second["created"] > first["created"]
    assert (second["name"], second["status"]) == ("@counter", "Running")
    assert json.loads(second["input"]) == {"exists": True, "state": "1"}
    assert [row["id"] for row in store.find_instances(created_to=second["created"])] == ["@counter@a"]
    assert store.find_instances(created_to=first["created"]) == []
    assert store.read_instance("@counter@b") is None


def test_a_purged_entity_is_gone(store: Store) -> None:
    commit(store, "@counter@a")

    assert store.purge(["@counter@a"]) == 1
    assert store.read_instance("@counter@a") is None
    assert store.read_entity("@counter@a") is None
    assert store.purge(["@counter@a"]) == 0


def test_purge_keeps_what_is_running(store: Store) -> None:
    store.start_instance("parent", "run", None, "")
    assert store.purge(["run", "no-such-instance"]) == 0
    assert store.read_instance("run") is not None
