"""Leases, order and transactions of the store."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devhost.functions import FunctionTable
from devhost.protocol_v1.episode import Episode, OrchestrationWork, SubOrchestration
from devhost.protocol_v1.history import EventType, new_event
from devhost.store import Store
from devhost.store.database import StateError, transaction
from devhost.store.instances import InstanceExistsError
from devhost.store.work import EntityWork
from tests.unit.devhost.builders import call, result

Step = Callable[[OrchestrationWork], Episode]


@pytest.fixture
def step(functions: FunctionTable) -> Step:
    def make(work: OrchestrationWork) -> Episode:
        episode = Episode(work, functions, work.status, work.progress)
        episode.deliver()
        return episode

    return make


def other_host(tmp_path: Path, lease_seconds: float = 60, pid: int | None = None) -> Store:
    return Store(tmp_path / "durable.sqlite", "other", pid or os.getpid(), lease_seconds)


def claim_orchestration(store: Store) -> OrchestrationWork:
    (work,) = store.claim(9, 0).orchestrations
    return work


def claim_operation(store: Store) -> EntityWork:
    (work,) = store.claim(9, 0).entities
    return work


def request(operation: str, *, signal: bool = True) -> dict[str, object]:
    return {"op": operation, "signal": signal, "input": None, "id": "1", "parent": "run", "parentExecution": None}


def test_history_and_messages_are_stored_together(store: Store, step: Step) -> None:
    store.start_instance("parent", "run", None, "")
    episode = step(claim_orchestration(store))
    episode.apply(result(call()))
    assert store.commit_episode(episode)
    (activity,) = store.claim(0, 9).activities
    assert (activity.name, activity.task_id) == ("work", 0)
    assert [event["EventType"] for event in store.read_history("run")] == [
        EventType.ORCHESTRATOR_STARTED,
        EventType.EXECUTION_STARTED,
        EventType.TASK_SCHEDULED,
    ]
    assert all(event["IsPlayed"] for event in store.read_history("run"))


def test_claimed_work_is_not_claimed_twice(store: Store, tmp_path: Path) -> None:
    store.start_instance("parent", "run", None, "")
    claim_orchestration(store)
    assert store.claim(9, 9).orchestrations == []
    assert other_host(tmp_path).claim(9, 9).orchestrations == []


def test_expired_lease_is_taken_over_and_its_commit_refused(tmp_path: Path, store: Store, step: Step) -> None:
    expiring = other_host(tmp_path, lease_seconds=-1)
    store.start_instance("parent", "run", None, "")
    late = step(claim_orchestration(expiring))
    taken = step(claim_orchestration(store))
    assert not expiring.commit_episode(late)
    assert store.commit_episode(taken)
    assert len(store.read_history("run")) == 2


def test_earlier_claim_of_the_same_host_cannot_commit(store: Store, tmp_path: Path, step: Step) -> None:
    """A host that was paused, lost its lease, and got the instance again meanwhile."""
    expiring = other_host(tmp_path, lease_seconds=-1)
    store.start_instance("parent", "run", None, "")
    late = step(claim_orchestration(expiring))
    store.commit_episode(step(claim_orchestration(store)))
    store.raise_event("run", new_event(EventType.EVENT_RAISED, Name="Go", Input="1"))
    again = step(claim_orchestration(expiring))
    assert not expiring.commit_episode(late)
    assert expiring.commit_episode(again)


def test_renewed_lease_is_kept(tmp_path: Path, store: Store) -> None:
    short = other_host(tmp_path, lease_seconds=0.5)
    store.start_instance("parent", "run", None, "")
    claim_orchestration(short)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        short.renew_leases()
        assert store.claim(9, 0).orchestrations == []


def test_leases_of_a_process_that_is_gone_are_free_at_once(tmp_path: Path, store: Store) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    store.start_instance("parent", "run", None, "")
    claim_orchestration(other_host(tmp_path, pid=process.pid))
    assert not store.release_dead_owners()
    process.communicate()
    assert store.release_dead_owners()
    assert claim_orchestration(store).instance_id == "run"
    assert not store.release_dead_owners()


def test_released_work_is_delivered_again(store: Store) -> None:
    store.start_instance("parent", "run", None, "")
    store.release(claim_orchestration(store).claim)
    assert claim_orchestration(store).instance_id == "run"


def test_operations_of_an_entity_run_one_at_a_time_in_order(store: Store) -> None:
    for operation in ("first", "second"):
        store.signal_entity("@counter@a", request(operation))
    first = claim_operation(store)
    assert first.request["op"] == "first"
    assert store.claim(9, 9).entities == []
    store.send_outcome(first, "", [("@counter@b", request("hello"))])
    assert store.commit_state(first, "1", True)
    works = sorted(store.claim(9, 0).entities, key=lambda work: work.entity_id)
    assert [(work.entity_id, work.request["op"], work.state_json) for work in works] == [
        ("@counter@a", "second", "1"),
        ("@counter@b", "hello", None),
    ]


@pytest.mark.parametrize("first", [0, 1])
def test_first_commit_over_a_state_wins_whoever_holds_the_lease(store: Store, tmp_path: Path, first: int) -> None:
    expiring = other_host(tmp_path, lease_seconds=-1)
    store.signal_entity("@counter@a", request("add"))
    executions = [(expiring, claim_operation(expiring)), (store, claim_operation(store))]
    for turn, committed in ((first, True), (1 - first, False)):
        host, work = executions[turn]
        assert host.commit_state(work, str(turn), True) is committed
    assert store.read_entity("@counter@a") == str(first)


def test_response_is_sent_whoever_holds_the_lease(store: Store, tmp_path: Path, step: Step) -> None:
    store.start_instance("parent", "run", None, "")
    store.commit_episode(step(claim_orchestration(store)))
    expiring = other_host(tmp_path, lease_seconds=-1)
    store.signal_entity("@counter@a", request("add", signal=False))
    late, taken = claim_operation(expiring), claim_operation(store)
    assert store.commit_state(taken, "1", True)
    expiring.send_outcome(late, "late", [])
    (answer,) = claim_orchestration(store).messages
    assert answer.event["Input"] == "late"


def test_late_commit_does_not_reach_a_state_that_was_deleted_and_made_anew(store: Store, tmp_path: Path) -> None:
    expiring = other_host(tmp_path, lease_seconds=-1)
    store.signal_entity("@counter@a", request("add"))
    late, taken = claim_operation(expiring), claim_operation(store)
    assert store.commit_state(taken, None, False)
    store.signal_entity("@counter@a", request("add"))
    assert not expiring.commit_state(late, "666", True)


def test_purged_state_is_not_written_back(store: Store) -> None:
    store.signal_entity("@counter@a", request("add"))
    assert store.commit_state(claim_operation(store), "1", True)
    store.signal_entity("@counter@a", request("add"))
    work = claim_operation(store)
    assert store.purge(["@counter@a"]) == 1
    assert not store.commit_state(work, "2", True)


def test_operation_of_a_client_stays_until_it_is_removed(store: Store) -> None:
    for parent, stays in ((None, True), ("@counter@b", False)):
        store.signal_entity("@counter@a", {**request("add"), "parent": parent})
        work = claim_operation(store)
        assert store.commit_state(work, "1", True)
        store.release(work.claim)
        again = store.claim(9, 0).entities
        assert bool(again) is stays
        if again:
            store.remove_operation(again[0])
            assert store.claim(9, 0).entities == []


def test_abandoned_operation_waits_longer_each_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.signal_entity("@counter@a", request("add"))
    pauses = []
    for _ in range(9):
        now = time.time()
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda now=now: now)
            store.abandon_operation(claim_operation(store))
            waiting = store.claim(9, 0)
        assert waiting.entities == []
        assert waiting.next_due is not None
        pauses.append(round(waiting.next_due - now, 3))
        monkeypatch.setattr(time, "time", lambda due=waiting.next_due: due)
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]
    work = claim_operation(store)
    assert store.commit_state(work, "1", True)
    store.signal_entity("@counter@a", request("add"))
    now = time.time()
    store.abandon_operation(claim_operation(store))
    due = store.claim(9, 0).next_due
    assert due is not None
    assert due - now == pytest.approx(0.25)


def test_operation_is_taken_over_from_its_own_host(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.signal_entity("@counter@a", request("add"))
    work = claim_operation(store)
    again = store.claim_again(work)
    assert again is not None
    store.abandon_operation(work)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 50)
    assert store.claim(9, 0).entities == []
    assert store.commit_state(again, "1", True)
    assert store.claim_again(work) is None


def test_orchestrations_and_entities_share_a_limit_and_take_turns(store: Store) -> None:
    store.signal_entity("@counter@a", request("add"))
    store.start_instance("parent", "run", None, "")
    store.signal_entity("@counter@b", request("add"))
    claimed = []
    for _ in range(3):
        work = store.claim(1, 9)
        claimed.append([step.instance_id for step in work.orchestrations] + [step.entity_id for step in work.entities])
    assert claimed == [["@counter@a"], ["run"], ["@counter@b"]]


def test_everything_is_free_when_a_host_leaves(store: Store, tmp_path: Path) -> None:
    leaving = other_host(tmp_path)
    leaving.start_instance("parent", "run", None, "")
    leaving.signal_entity("@counter@a", request("add"))
    leaving.claim(9, 9)
    leaving.leave()
    work = store.claim(9, 9)
    assert (len(work.orchestrations), len(work.entities)) == (1, 1)


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


def test_timer_is_ready_when_it_is_due(store: Store, step: Step) -> None:
    store.start_instance("parent", "run", None, "")
    episode = step(claim_orchestration(store))
    due = time.time() + 0.05
    episode.timers.append((0, due))
    store.commit_episode(episode)
    waiting = store.claim(9, 0)
    assert waiting.orchestrations == []
    assert waiting.next_due == pytest.approx(due)
    while not (works := store.claim(9, 0).orchestrations):
        assert time.time() < due + 5
    assert time.time() >= due
    assert works[0].messages[0].event["TimerId"] == 0


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


def test_messages_to_an_ended_execution_are_dropped(store: Store, step: Step) -> None:
    store.start_instance("parent", "run", None, "")
    episode = step(claim_orchestration(store))
    episode.apply(result(call()))
    store.commit_episode(episode)
    (activity,) = store.claim(0, 9).activities
    store.raise_event("run", new_event(EventType.EXECUTION_TERMINATED, Input="stop"))
    episode = step(claim_orchestration(store))
    episode.close()
    store.commit_episode(episode)
    store.start_instance("parent", "run", None, "")
    late = new_event(EventType.TASK_COMPLETED, TaskScheduledId=0, Result="1")
    assert not store.complete_activity(activity, late)
    assert [message.type for message in claim_orchestration(store).messages] == [EventType.EXECUTION_STARTED]


def test_undelivered_events_carry_over_a_continue_as_new_and_come_after_its_start(store: Store, step: Step) -> None:
    store.start_instance("parent", "run", "1", "")
    episode = step(claim_orchestration(store))
    store.raise_event("run", new_event(EventType.EVENT_RAISED, Name="Go", Input="1"))
    episode.apply(result({"actionType": 4, "input": "2"}, done=True))
    episode.close()
    store.commit_episode(episode)
    work = claim_orchestration(store)
    assert (work.input_json, work.past) == ('"2"', [])
    next_step = step(work)
    assert [event["EventType"] for event in next_step.history] == [
        EventType.ORCHESTRATOR_STARTED,
        EventType.EXECUTION_STARTED,
    ]
    assert len(next_step.consumed) == 1


def test_child_that_is_already_running_fails_its_parents_task(store: Store, step: Step) -> None:
    store.start_instance("parent", "run", None, "")
    episode = step(claim_orchestration(store))
    store.start_instance("child", "taken", None, "")
    episode.sub_orchestrations.append(SubOrchestration(0, "taken", "child", "1", ""))
    store.commit_episode(episode)
    answers = {work.instance_id: work.messages[0] for work in store.claim(9, 0).orchestrations}
    assert answers["run"].type is EventType.SUB_ORCHESTRATION_FAILED


def test_purge_keeps_what_is_running(store: Store) -> None:
    store.start_instance("parent", "run", None, "")
    assert store.purge(["run", "no-such-instance"]) == 0
    assert store.read_instance("run") is not None
