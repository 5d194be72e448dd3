"""What episodes and activities leave behind, and whose commit stands."""

from pathlib import Path

from devhost.protocol_v1.episode import SubOrchestration
from devhost.protocol_v1.history import EventType, new_event
from devhost.store import Store
from tests.unit.devhost.builders import call, result
from tests.unit.devhost.store.claiming import Step, claim_orchestration, other_host


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
