"""Each classic program gives its outcome, and the same outcome when the host is killed in its middle."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.durable.client import Programs, wait_until
from tests.e2e.durable.conftest import NewHost

GREETINGS = ["Hello Tokyo!", "Hello Kyoto!"]
OUTCOMES: dict[str, Any] = {
    "chain": GREETINGS,
    "fan_out": 285,
    "retries": [3, 2, 9],
    "exhausted_retries": True,
    "race": "work",
    "timers": True,
    "parent": [GREETINGS, 285],
    "parent_with_retry": 2,
    "eternal": 3,
    "counting": [5, 9],
    "entity_error": ["the counter refuses", 1],
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome(programs: Programs, name: str) -> None:
    programs.open_gate("open")
    status = programs.run(name, {"gate": "open"}, f"outcome-{name}")
    assert (status["runtimeStatus"], status["output"]) == ("Completed", OUTCOMES[name])


def test_outcomes_survive_sigkill_in_the_middle(new_host: NewHost, journal_dir: Path) -> None:
    with new_host(PYTHON_THREADPOOL_THREAD_COUNT="32") as host:
        programs = Programs(host.base_url, journal_dir)
        started = {name: programs.start(name, {"gate": f"gate-{name}"}, name) for name in [*OUTCOMES, "approval"]}
        for name in started:
            programs.wait_at_gate(f"gate-{name}")
        host.restart()
        assert programs.raise_event("approval", "Approval", True).status_code == 202
        for name in started:
            programs.open_gate(f"gate-{name}")
        outputs = {name: programs.wait(instance_id)["output"] for name, instance_id in started.items()}
        assert outputs == {**OUTCOMES, "approval": "true"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raising", "Orchestrator function 'raising' failed: the orchestrator raises"),
        ("unhandled", "Activity function 'fail_first' failed: ValueError: call 1 fails"),
        ("calls_nothing", "The function 'no_such_activity' doesn't exist, is disabled, or is not an activity function"),
        ("calls_http", "this host does not implement the action CALL_HTTP"),
    ],
)
def test_failure(programs: Programs, name: str, message: str) -> None:
    programs.open_gate("open")
    status = programs.run(name, {"gate": "open"})
    assert status["runtimeStatus"] == "Failed"
    assert message in status["output"]


def test_failing_child_fails_its_parent_with_its_reason(programs: Programs) -> None:
    programs.open_gate("open")
    status = programs.run("parent_of_failing", {"gate": "open"})
    assert "Orchestrator function 'raising' failed: the orchestrator raises" in status["output"]


def test_timer_wins_and_open_activity_keeps_the_instance_running(programs: Programs) -> None:
    instance_id = programs.start("race", {"gate": "late", "seconds": 0.1})
    wait_until(lambda: "TimerFired" in programs.http.get(f"status/{instance_id}?history=1").text, "the timer fires")
    assert programs.status(instance_id)["runtimeStatus"] == "Running"
    programs.open_gate("late")
    assert programs.wait(instance_id)["output"] == "timer"


def test_forgotten_timer_keeps_the_instance_running(programs: Programs) -> None:
    programs.open_gate("open")
    forgotten = programs.start("race", {"gate": "open", "seconds": 3600, "forget": True}, "forgotten")
    assert programs.run("race", {"gate": "open", "seconds": 3600})["output"] == "work"
    programs.wait_at_gate("open")
    assert programs.status(forgotten)["runtimeStatus"] == "Running"
    short = programs.run("race", {"gate": "open", "seconds": 0.3, "forget": True})
    assert short["output"] == "work"


def test_event_raised_before_it_is_waited_for_is_kept(programs: Programs) -> None:
    instance_id = programs.start("approval", {"gate": "early"})
    programs.wait_at_gate("early")
    # The SDK encodes the data twice and decodes it once.
    assert programs.raise_event(instance_id, "Approval", {"by": "me"}).status_code == 202
    programs.open_gate("early")
    assert json.loads(programs.wait(instance_id)["output"]) == {"by": "me"}


def test_event_timeout(programs: Programs) -> None:
    programs.open_gate("open")
    assert programs.run("approval", {"gate": "open", "seconds": 0.1})["output"] == "timed out"


def test_events_carry_over_to_the_next_execution(programs: Programs) -> None:
    instance_id = programs.start("collector", {"items": [], "wanted": 5})
    for number in range(5):
        programs.raise_event(instance_id, "Item", number)
    assert programs.wait(instance_id)["output"] == ["0", "1", "2", "3", "4"]


def test_steps_are_replayed_but_new_only_once(programs: Programs) -> None:
    programs.run("replay_flags", None, "replayed")
    assert programs.journal("replayed.steps") == ["0", "1", "2"]


def test_a_hundred_runs_at_once(programs: Programs) -> None:
    runs = [programs.start("adding", {"key": "shared", "times": 2}) for _ in range(100)]
    for run in runs:
        assert programs.wait(run)["output"] == "added"
    assert programs.counter("shared") == 200
