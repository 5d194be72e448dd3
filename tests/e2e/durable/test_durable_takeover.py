"""Several hosts over one state directory: killed, paused and zombie ones lose nothing and repeat nothing."""

import random
import time
from pathlib import Path

from tests.e2e.durable.client import Programs, wait_until
from tests.e2e.durable.conftest import NewHost

LONG_LEASE = "600"
STEPS_SETTING = "AzureFunctionsJobHost__extensions__durableTask__maxConcurrentOrchestratorFunctions"


def test_kills_at_any_instant_lose_and_repeat_nothing(new_host: NewHost, journal_dir: Path) -> None:
    instants = random.Random(7)
    with new_host(DEVHOST_LEASE_SECONDS=LONG_LEASE) as host:
        programs = Programs(host.base_url, journal_dir)
        runs = []
        for _ in range(4):
            runs += [programs.start("adding", {"key": "exact", "times": 5}) for _ in range(20)]
            time.sleep(instants.uniform(0, 0.3))
            host.restart()
        for run in runs:
            assert programs.wait(run)["output"] == "added"
        assert programs.counter("exact") == 400


def test_running_host_takes_over_from_a_killed_one_without_waiting_for_its_lease(
    new_host: NewHost, journal_dir: Path
) -> None:
    with new_host(DEVHOST_LEASE_SECONDS=LONG_LEASE) as first:
        run = Programs(first.base_url, journal_dir).start("chain", {"gate": "gate"})
        Programs(first.base_url, journal_dir).wait_at_gate("gate")
        with new_host(DEVHOST_LEASE_SECONDS=LONG_LEASE) as second:
            programs = Programs(second.base_url, journal_dir)
            first.kill()
            programs.wait_at_gate("gate", times=2)
            programs.open_gate("gate")
            assert programs.wait(run)["runtimeStatus"] == "Completed"


def test_zombie_loses_its_leases_and_its_results_are_dropped(new_host: NewHost, journal_dir: Path) -> None:
    with new_host(DEVHOST_LEASE_SECONDS="1") as zombie:
        programs = Programs(zombie.base_url, journal_dir)
        activity = programs.start("chain", {"gate": "activity"})
        entity = programs.start("locked_counter", {"gate": "entity"}, "locked")
        for gate in ("activity", "entity"):
            programs.wait_at_gate(gate)
        zombie_pid = str(zombie.worker_pid)
        zombie.pause()
        with new_host(DEVHOST_LEASE_SECONDS="1") as successor:
            programs = Programs(successor.base_url, journal_dir)
            for gate in ("activity", "entity"):
                assert programs.wait_at_gate(gate, times=2) == [zombie_pid, str(successor.worker_pid)]
                programs.open_gate(gate)
            assert programs.wait(activity)["runtimeStatus"] == "Completed"
            assert programs.wait(entity)["output"] == 1
            zombie.resume()
            zombie.wait_for_log("activity pass_gate of " + activity + ": the lease was lost")
            zombie.wait_for_log("entity @counter@locked: the state was changed by another execution")
            assert programs.counter("locked") == 1


def test_two_hosts_share_the_work(new_host: NewHost, journal_dir: Path) -> None:
    with new_host(**{STEPS_SETTING: "2"}) as first, new_host(**{STEPS_SETTING: "2"}) as second:
        programs = Programs(first.base_url, journal_dir)
        runs = [programs.start("locked_counter", {"gate": "shared"}) for _ in range(4)]
        pids = wait_until(
            lambda: reached if len(reached := set(programs.journal("shared.reached"))) == 2 else None, "both hosts work"
        )
        assert pids == {str(first.worker_pid), str(second.worker_pid)}
        programs.open_gate("shared")
        assert [programs.wait(run)["output"] for run in runs] == [1, 1, 1, 1]
