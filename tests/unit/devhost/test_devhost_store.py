"""Leases, order and transactions of the store."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devhost.functions import FunctionTable
from devhost.history import EventType, new_event
from devhost.orchestrations import Episode, OrchestrationWork, SubOrchestration
from devhost.store import EntityWork, InstanceExistsError, Store
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


def test_first_commit_over_a_state_wins(store: Store, tmp_path: Path) -> None:
    expiring = other_host(tmp_path, lease_seconds=-1)
    for first, second in ((expiring, store), (store, expiring)):
        store.signal_entity("@counter@a", request("add"))
        late = claim_operation(expiring)
        taken = claim_operation(store)
        works = {expiring: late, store: taken}
        assert first.commit_state(works[first], "1", True)
        assert not second.commit_state(works[second], "666", True)
        assert store.read_entity("@counter@a") == "1"
        store.release(taken.claim)


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
