"""When timers are due, and who invokes them."""

import time
from pathlib import Path

import pytest

from devhost.store import Store
from devhost.store.work import TimerWork
from tests.unit.devhost.store.claiming import other_host

HOURLY, DAILY = "0 0 * * * *", "0 0 0 * * *"


@pytest.fixture
def now() -> float:
    return time.time()


def claimed(store: Store) -> TimerWork | None:
    return store.claim_timer("tick")[0]


def test_a_timer_is_claimed_when_it_is_due_and_not_before(store: Store, now: float) -> None:
    store.set_timer("tick", HOURLY, now + 60, None)
    assert store.claim_timer("tick") == (None, now + 60)

    store.set_timer("tick", DAILY, now - 60, None)
    work = claimed(store)

    assert work is not None
    assert (work.due, work.last) == (now - 60, None)


def test_a_time_that_was_missed_is_still_due_after_a_start_and_once(store: Store, now: float) -> None:
    store.set_timer("tick", HOURLY, now - 7200, None)

    store.set_timer("tick", HOURLY, now + 60, None)  # what a start does
    work = claimed(store)
    assert work is not None
    assert work.due == now - 7200
    assert store.complete_timer(work, now, now + 60)

    assert store.claim_timer("tick") == (None, now + 60)
    store.set_timer("tick", DAILY, now - 1, None)
    again = claimed(store)
    assert again is not None
    assert again.last == now


def test_another_schedule_begins_anew(store: Store, now: float) -> None:
    store.set_timer("tick", HOURLY, now - 7200, None)
    store.set_timer("tick", DAILY, now + 60, None)

    assert store.claim_timer("tick") == (None, now + 60)


def test_what_is_to_run_at_the_start_is_due_at_once(store: Store, now: float) -> None:
    store.set_timer("tick", HOURLY, now + 60, now)

    assert claimed(store) is not None


def test_one_host_at_a_time_has_it(store: Store, tmp_path: Path, now: float) -> None:
    other = other_host(tmp_path)
    store.set_timer("tick", HOURLY, now - 60, None)

    assert claimed(store) is not None
    assert claimed(store) is None
    assert claimed(other) is None
    other.close()


def test_a_host_that_is_gone_leaves_it_to_another_one(store: Store, tmp_path: Path, now: float) -> None:
    other = other_host(tmp_path, lease_seconds=-1)
    store.set_timer("tick", HOURLY, now - 60, None)
    lost = claimed(other)
    assert lost is not None

    work = claimed(store)

    assert work is not None
    assert not other.complete_timer(lost, now, now + 1)
    assert store.complete_timer(work, now, now + 60)
    assert store.claim_timer("tick") == (None, now + 60)
    other.close()
