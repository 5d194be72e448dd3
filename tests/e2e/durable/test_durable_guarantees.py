"""What the embedded host guarantees of entities and of a worker's death: what Azure Storage does, and no more."""

import contextlib
import itertools
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from devhost.testing import HostProcess
from tests.e2e.durable.client import FINAL, wait_until
from tests.redis_process import free_port

OPERATIONS = Path(__file__).parent / "operations"
SETTING = "AzureFunctionsJobHost__"
STEPS_SETTING = f"{SETTING}extensions__durableTask__maxConcurrentOrchestratorFunctions"

NewHost = Callable[..., HostProcess]


@pytest.fixture
def new_host(tmp_path: Path) -> NewHost:
    def make(**env: str) -> HostProcess:
        settings = {"JOURNAL_DIR": str(tmp_path), "DEVHOST_FAULTS": "1", **env}
        return HostProcess(tmp_path / "state", app_dir=OPERATIONS, port=free_port(), env=settings)

    return make


class Operations:
    """The function app in ``operations/`` as a test drives it, by the management API alone."""

    def __init__(self, host: HostProcess, directory: Path) -> None:
        self._api = httpx.Client(base_url=f"{host.base_url}/runtime/webhooks/durabletask/", timeout=30)
        self._directory = directory

    def start(self, name: str, instance_id: str, **plan: Any) -> None:
        answer = self._api.post(f"orchestrators/{name}/{instance_id}", json=json.dumps(plan))
        assert answer.status_code == 202, answer.text

    def status(self, instance_id: str) -> dict[str, Any]:
        status: dict[str, Any] = self._api.get(f"instances/{instance_id}?showHistory=true").json()
        return status

    def wait(self, instance_id: str, timeout: float = 60) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            status = self.status(instance_id)
            return status if status["runtimeStatus"] in FINAL else None

        return wait_until(ended, f"{instance_id} has ended", timeout)

    def raise_event(self, instance_id: str, name: str) -> httpx.Response:
        return self._api.post(f"instances/{instance_id}/raiseEvent/{name}", json="1")

    def signal(self, key: str, **plan: Any) -> None:
        body = json.dumps(plan)
        answer = self._api.post(f"entities/scribe/{key}?op=write", json=body)
        assert answer.status_code == 202

    def state(self, key: str) -> Any:
        answer = self._api.get(f"entities/scribe/{key}")
        return answer.json() if answer.status_code == 200 else None

    def wait_for_state(self, key: str, state: Any) -> None:
        wait_until(lambda: self.state(key) == state, f"{key} is {state}")

    def order(self, fault: str, match: str = "") -> int:
        return self._api.post(f"faults/{fault}", params={"match": match}).status_code

    def journal(self, name: str) -> list[str]:
        path = self._directory / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_lines(self, name: str, count: int, timeout: float = 60) -> list[str]:
        wait_until(lambda: len(self.journal(name)) >= count, f"{count} lines in {name}", timeout)
        return self.journal(name)

    def lease(self, key: str) -> float:
        """Until when an entity is leased, in seconds since the epoch."""
        with contextlib.closing(sqlite3.connect(self._directory / "state" / "durable.sqlite")) as durable_state:
            query = "SELECT lease_until FROM entities WHERE id = ?"
            (until,) = durable_state.execute(query, (f"@scribe@{key}",)).fetchone()
        return float(until)

    def open_gate(self, gate: str) -> None:
        (self._directory / gate).touch()


def test_crash_between_response_and_commit_repeats_the_operation_on_the_old_state(
    new_host: NewHost, tmp_path: Path
) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.order("crash_after_response", "@scribe@a")
        operations.start("dictate", "run", key="a")
        assert host.wait() == -9
        host.start()
        operations.wait_for_state("a", [2])
        assert operations.journal("a.began") == ["None", "None"]
        assert operations.wait("run")["output"] == 1


def test_refused_commit_repeats_the_operation_though_its_response_has_arrived(
    new_host: NewHost, tmp_path: Path
) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.order("refuse_commit", "@scribe@a")
        operations.start("dictate", "run", key="a", signal="b")
        operations.wait_for_state("a", [2])
        assert operations.journal("a.began") == ["None", "None"]
        assert operations.wait("run")["output"] == 1
        # Signals are sent with the response.
        operations.wait_for_state("b", [1, 2])


@pytest.mark.parametrize("first", [1, 2])
def test_of_overlapping_executions_the_first_counts(new_host: NewHost, tmp_path: Path, first: int) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.start("dictate", "run", key="a", gate="gate", then="go")
        operations.wait_for_lines("a.began", 1)
        assert operations.order("overlap", "@scribe@a") == 202
        assert operations.wait_for_lines("a.began", 2) == ["None", "None"]
        operations.open_gate(f"gate.{first}")
        operations.wait_for_state("a", [first])
        operations.open_gate(f"gate.{3 - first}")
        host.wait_for_log("entity @scribe@a: the state was changed by another execution")
        operations.raise_event("run", "go")
        ended = operations.wait("run")
        assert ended["output"] == first
        raised = [event["Name"] for event in ended["historyEvents"] if event["EventType"] == "EventRaised"]
        assert len(raised) == len(set(raised)) == 2
        assert operations.state("a") == [first]
        # The entity is free for the next one.
        operations.start("dictate", "next", key="a")
        assert operations.wait("next")["output"] == 3
        operations.wait_for_state("a", [first, 3])


def test_function_that_raises_is_executed_again_with_growing_pauses(new_host: NewHost, tmp_path: Path) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.start("dictate", "run", key="a", failures=3, signal="b")
        assert operations.wait("run")["output"] == 4
        operations.wait_for_state("a", [4])
        operations.wait_for_state("b", [1])
        times = [float(line) for line in operations.journal("a.times")]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert [pause >= least for pause, least in zip(pauses, (0.25, 0.5, 1), strict=True)] == [True] * 3


def test_waiting_entities_take_the_slots_of_orchestrations(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(**{STEPS_SETTING: "2"}, DEVHOST_LEASE_SECONDS="1") as host:
        operations = Operations(host, tmp_path)
        for key in ("a", "b"):
            operations.signal(key, gate=key)
            operations.wait_for_lines(f"{key}.began", 1)
        operations.start("note", "run", gate="open")
        started = operations.lease("a")
        wait_until(lambda: operations.lease("a") > started + 1, "the host has had a second's time to look for work")
        assert operations.journal("order") == []
        operations.open_gate("a.1")
        operations.open_gate("open")
        assert operations.wait("run")["runtimeStatus"] == "Completed"
        assert operations.journal("order")[:2] == ["a ended", "run"]


def test_a_thousand_operations_wait_at_once(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(**{STEPS_SETTING: "1000"}, DEVHOST_LEASE_SECONDS="2") as host:
        operations = Operations(host, tmp_path)
        with httpx.Client(base_url=f"{host.base_url}/runtime/webhooks/durabletask/") as client:
            for number in range(1000):
                plan = json.dumps({"gate": "gate"})
                assert client.post(f"entities/scribe/{number}?op=write", json=plan).status_code == 202
        wait_until(lambda: len(list(tmp_path.glob("*.began"))) == 1000, "all wait", 60)
        operations.open_gate("gate.1")
        wait_until(lambda: len(operations.journal("order")) == 1000, "all end", 60)
        for number in (0, 999):
            operations.wait_for_state(str(number), [1])
        # None lost its lease meanwhile.
        assert all(len(path.read_text().splitlines()) == 1 for path in tmp_path.glob("*.began"))


def test_signal_of_a_client_may_be_executed_twice_and_one_of_an_orchestration_is_not(
    new_host: NewHost, tmp_path: Path
) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.order("crash_after_commit", "@scribe@client")
        operations.signal("client")
        assert host.wait() == -9
        host.start()
        operations.wait_for_state("client", [1, 2])
        operations.order("crash_after_commit", "@scribe@call")
        operations.start("dictate", "run", key="call", then="go")
        assert host.wait() == -9
        host.start()
        operations.raise_event("run", "go")
        assert operations.wait("run")["output"] == 1
        assert operations.state("call") == [1]


def test_function_timeout_restarts_the_worker_with_everything_in_it(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(**{f"{SETTING}functionTimeout": "00:00:02"}) as host:
        operations, pid = Operations(host, tmp_path), host.pid
        operations.start("dictate", "cause", key="cause", gate="never")
        operations.wait_for_lines("cause.began", 1)
        operations.start("dictate", "other", key="other", gate="gate")
        operations.wait_for_lines("other.began", 1)
        operations.open_gate("gate.2")
        host.wait_for_log("scribe @scribe@cause ran for longer than functionTimeout")
        host.wait_for_log("\nReady\n", times=2)
        assert host.pid == pid
        # It is answered, in a text that no SDK can read.
        assert "Failed" in operations.wait("cause")["runtimeStatus"]
        assert operations.state("cause") is None
        assert operations.wait("other")["output"] == 2


def test_function_that_blocks_the_event_loop_exceeds_its_time_too(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(**{f"{SETTING}functionTimeout": "00:00:01"}, DEVHOST_LEASE_SECONDS="1") as host:
        operations = Operations(host, tmp_path)
        operations.start("dictate", "run", key="a", blocks=1)
        host.wait_for_log("\nReady\n", times=2)
        assert "Failed" in operations.wait("run")["runtimeStatus"]


def test_a_stream_counts_for_function_timeout(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(**{f"{SETTING}functionTimeout": "00:00:01"}) as host:
        with pytest.raises(httpx.TransportError), httpx.stream("GET", f"{host.base_url}/api/stream") as answer:
            for _ in answer.iter_lines():
                pass
        host.wait_for_log("\nReady\n", times=2)


def test_without_a_function_timeout_nothing_restarts(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(**{f"{SETTING}functionTimeout": "-1"}) as host:
        operations = Operations(host, tmp_path)
        operations.start("dictate", "run", key="a", gate="gate")
        operations.wait_for_lines("a.began", 1)
        operations.open_gate("gate.1")
        assert operations.wait("run")["output"] == 1


def test_death_of_the_worker_fails_steps_and_activities_and_repeats_operations(
    new_host: NewHost, tmp_path: Path
) -> None:
    with new_host(DEVHOST_LEASE_SECONDS="600") as host:
        operations = Operations(host, tmp_path)
        operations.start("hold_step", "step", gate="step")
        operations.start("act", "activity", gate="activity")
        operations.start("dictate", "entity", key="a", gate="gate")
        operations.wait_for_lines("a.began", 1)
        operations.wait_for_lines("activity.reached", 1)
        operations.raise_event("step", "go")
        operations.wait_for_lines("step.reached", 1)
        assert operations.order("worker_death") == 202
        host.wait_for_log("\nReady\n", times=2)
        for gate in ("step", "activity", "gate.2"):
            operations.open_gate(gate)
        step = operations.wait("step")
        assert (step["runtimeStatus"], step["output"]) == (
            "Failed",
            "Orchestrator function 'hold_step' failed: the worker process died, as ordered",
        )
        assert "Activity function 'hold' failed: the worker process died" in operations.wait("activity")["output"]
        assert operations.wait("entity")["output"] == 2


def test_worker_that_ends_by_itself_restarts(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(DEVHOST_LEASE_SECONDS="600") as host:
        operations = Operations(host, tmp_path)
        operations.start("dictate", "run", key="a", gate="gate")
        operations.wait_for_lines("a.began", 1)
        before = host.worker_pid
        psutil.Process(before).kill()
        host.wait_for_log("\nReady\n", times=2)
        operations.open_gate("gate.2")
        assert operations.wait("run")["output"] == 2
        assert host.worker_pid != before


def test_worker_ends_with_its_host_though_a_function_blocks_its_event_loop(new_host: NewHost, tmp_path: Path) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.start("dictate", "run", key="a", blocks=1)
        operations.wait_for_lines("a.began", 1)
        worker = psutil.Process(host.worker_pid)
        psutil.Process(host.pid).kill()
        worker.wait(timeout=10)


def test_death_in_a_step_fails_the_orchestration(new_host: NewHost, tmp_path: Path) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.start("hold_step", "run", gate="gate")
        wait_until(lambda: operations.status("run")["runtimeStatus"] == "Running", "it runs")
        operations.order("die_in_step", "run")
        operations.raise_event("run", "go")
        host.wait_for_log("\nReady\n", times=2)
        assert operations.wait("run")["runtimeStatus"] == "Failed"
        assert operations.journal("gate.reached") == []


def test_death_of_the_machine_in_a_step_only_repeats_it(new_host: NewHost, tmp_path: Path) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.start("hold_step", "run", gate="gate")
        wait_until(lambda: operations.status("run")["runtimeStatus"] == "Running", "it runs")
        operations.raise_event("run", "go")
        operations.wait_for_lines("gate.reached", 1)
        host.restart()
        operations.wait_for_lines("gate.reached", 2)
        operations.open_gate("gate")
        assert operations.wait("run")["output"] == "came through"


def test_step_that_exceeds_its_time_is_repeated(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(DEVHOST_LEASE_SECONDS="600") as host:
        operations = Operations(host, tmp_path)
        operations.start("hold_step", "run", gate="gate")
        wait_until(lambda: operations.status("run")["runtimeStatus"] == "Running", "it runs")
        assert operations.order("function_timeout", "hold_step") == 409
        operations.raise_event("run", "go")
        operations.wait_for_lines("gate.reached", 1)
        assert operations.order("function_timeout", "hold_step") == 202
        operations.wait_for_lines("gate.reached", 2)
        operations.open_gate("gate")
        assert operations.wait("run")["output"] == "came through"


def test_embedded_valkey_outlives_a_restart_of_the_worker_and_ends_with_the_host(
    new_host: NewHost, tmp_path: Path
) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with new_host(REDIS_CONNECTION_STRING=url) as host, redis.Redis.from_url(url) as client:
        run_id = client.info("server")["run_id"]
        Operations(host, tmp_path).order("worker_death")
        host.wait_for_log("\nReady\n", times=2)
        assert client.info("server")["run_id"] == run_id
        assert host.log.count("Redis: embedded Valkey") == 2
        assert host.stop() == 0
        with pytest.raises(redis.ConnectionError):
            client.ping()


def test_full_disk_holds_work_up_for_as_long_as_it_lasts(new_host: NewHost, tmp_path: Path) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        for key in ("a", "b"):
            operations.start("dictate", key, key=key, gate=key)
            operations.wait_for_lines(f"{key}.began", 1)
        process = psutil.Process(host.pid)
        before = process.rlimit(psutil.RLIMIT_FSIZE)
        # A write beyond this offset of any file fails; the journals are shorter.
        process.rlimit(psutil.RLIMIT_FSIZE, (4096, before[1]))
        operations.open_gate("a.1")
        host.wait_for_log("work cannot be given up")
        process.rlimit(psutil.RLIMIT_FSIZE, before)
        for gate in ("a.2", "b.1", "b.2"):
            operations.open_gate(gate)
        assert operations.wait("a")["output"] in (1, 2)
        assert operations.wait("b")["output"] in (1, 2)


def test_ended_instances_are_purged_after_a_while(new_host: NewHost, tmp_path: Path) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.start("dictate", "ended", key="a")
        operations.wait("ended")
        operations.start("dictate", "open", key="b", gate="never")
        operations.wait_for_lines("b.began", 1)
    with new_host(DEVHOST_RETENTION_HOURS="0") as host:
        operations = Operations(host, tmp_path)
        base = f"{host.base_url}/runtime/webhooks/durabletask/instances"
        wait_until(lambda: httpx.get(f"{base}/ended").status_code == 404, "it is purged")
        assert httpx.get(f"{base}/open").status_code == 202
        assert operations.state("a") == [1]


def test_faults_cannot_be_ordered_unless_it_is_asked_for(new_host: NewHost, tmp_path: Path) -> None:
    with new_host(DEVHOST_FAULTS="") as host:
        assert Operations(host, tmp_path).order("overlap") == 404


def test_what_clients_are_told(new_host: NewHost, tmp_path: Path) -> None:
    with new_host() as host:
        operations = Operations(host, tmp_path)
        operations.start("dictate", "run", key="a", then="go")
        assert operations.raise_event("nobody", "go").status_code == 404
        again = f"{host.base_url}/runtime/webhooks/durabletask/orchestrators/dictate/run"
        assert httpx.post(again, json=json.dumps({"key": "b"})).status_code == 500
        assert operations.raise_event("run", "go").status_code == 202
        created = operations.wait("run")["createdTime"]
        assert time.strptime(created, "%Y-%m-%dT%H:%M:%SZ")
        assert operations.raise_event("run", "go").status_code == 410
        assert httpx.post(again, json=json.dumps({"key": "b"})).status_code == 202
