"""Leases, and what is ready."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from devhost.store import Store
from tests.unit.devhost.store.claiming import Step, claim_operation, claim_orchestration, other_host, request


def test_claimed_work_is_not_claimed_twice(store: Store, tmp_path: Path) -> None:
    store.start_instance("parent", "run", None, "")
    claim_orchestration(store)
    assert store.claim(9, 9).orchestrations == []
    assert other_host(tmp_path).claim(9, 9).orchestrations == []


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
