"""Timer functions on the embedded host."""

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from devhost.testing import HostProcess
from tests.e2e.durable.client import wait_until
from tests.redis_process import free_port

TIMERS = Path(__file__).parent / "timers"


@pytest.fixture
def host(tmp_path: Path) -> HostProcess:
    return new_host(tmp_path)


def new_host(directory: Path) -> HostProcess:
    env = {"JOURNAL_DIR": str(directory), "DEVHOST_LEASE_SECONDS": "2"}
    return HostProcess(directory / "state", app_dir=TIMERS, port=free_port(), env=env)


def lines(directory: Path, name: str) -> list[Any]:
    path = directory / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_lines(directory: Path, name: str, count: int) -> list[Any]:
    wait_until(lambda: len(lines(directory, name)) >= count, f"{name} has {count} lines")
    return lines(directory, name)


def due(directory: Path, name: str, seconds: float | None = None) -> float:
    """Return when a timer is due, having set it if that is given."""
    with contextlib.closing(sqlite3.connect(directory / "state" / "durable.sqlite")) as state:
        if seconds is not None:
            state.execute("UPDATE timers SET due = ? WHERE id = ?", (seconds, name))
            state.commit()
        found: float = state.execute("SELECT due FROM timers WHERE id = ?", (name,)).fetchone()[0]
        return found


def test_a_function_is_invoked_each_time_that_it_is_due(host: HostProcess, tmp_path: Path) -> None:
    with host:
        told = wait_for_lines(tmp_path, "every_second", 3)
        failed = wait_for_lines(tmp_path, "fails", 2)
        assert "every_second: timerTrigger * * * * * *" in host.log
    times = [next_time for _, _, next_time in told]
    assert times == sorted(set(times))
    assert [past_due for past_due, _, _ in told[:3]] == [False] * 3
    assert told[0][1].startswith("0001-01-01T00:00:00")
    assert all(last >= before for (_, last, _), before in zip(told[1:], times, strict=False))
    assert failed[:2] == [False, False]
    assert "timer fails failed: LookupError: as planned" in host.log


def test_a_time_that_was_missed_is_made_up_for_once_after_a_start(host: HostProcess, tmp_path: Path) -> None:
    with host:
        wait_for_lines(tmp_path, "every_second", 1)
        assert wait_for_lines(tmp_path, "at_start", 1) == [False]
    assert lines(tmp_path, "yearly") == []
    due(tmp_path, "yearly", time.time() - 3 * 366 * 24 * 3600)
    with host:
        assert wait_for_lines(tmp_path, "yearly", 1) == [True]
        wait_until(lambda: due(tmp_path, "yearly") > time.time(), "it is due next year")
        wait_for_lines(tmp_path, "at_start", 2)
    with host:
        wait_for_lines(tmp_path, "at_start", 3)
    assert lines(tmp_path, "yearly") == [True]


def test_one_invocation_at_a_time_and_it_is_made_again_where_its_host_died(host: HostProcess, tmp_path: Path) -> None:
    with host, new_host(tmp_path) as other:
        wait_for_lines(tmp_path, "held.began", 1)
        # Both hosts go on with the others meanwhile.
        wait_for_lines(tmp_path, "every_second", 4)
        assert lines(tmp_path, "held.began") == [False]
        victim = host if "held" in running(host, tmp_path) else other
        victim.kill()
        wait_for_lines(tmp_path, "held.began", 2)
        (tmp_path / "gate").touch()
        wait_for_lines(tmp_path, "held.ended", 1)
        victim.start()


def running(host: HostProcess, directory: Path) -> set[str]:
    """Return the timers that this host has claimed."""
    query = "SELECT timers.id FROM timers JOIN owners ON owners.id = timers.owner WHERE pid = ?"
    with contextlib.closing(sqlite3.connect(directory / "state" / "durable.sqlite")) as state:
        return {name for (name,) in state.execute(query, (host.pid,))}
