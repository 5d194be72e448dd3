"""Operations of entities, and whose commit stands."""

import time
from pathlib import Path

import pytest

from devhost.store import Store
from tests.unit.devhost.store.claiming import Step, claim_operation, claim_orchestration, other_host, request


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
