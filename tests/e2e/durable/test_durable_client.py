"""Every method of DurableOrchestrationClient against the management API."""

import pytest

from tests.e2e.durable.client import Programs, wait_until


@pytest.fixture(autouse=True)
def _open_gate(programs: Programs) -> None:
    programs.open_gate("open")


def test_status_of_nothing(programs: Programs) -> None:
    assert programs.status("no-such-instance") is None


def test_status_holds_input_output_and_custom_status(programs: Programs) -> None:
    status = programs.run("chain", {"gate": "open"})
    assert status["name"] == "chain"
    assert status["input"] == '{"gate": "open"}'
    assert status["customStatus"] == {"greeted": 2}
    assert status["createdTime"] <= status["lastUpdatedTime"]


def test_history_names_functions_and_results(programs: Programs) -> None:
    instance_id = programs.start("chain", {"gate": "open"})
    programs.wait(instance_id)
    events = programs.http.get(f"status/{instance_id}?history=1").json()["historyEvents"]
    assert [(event["EventType"], event.get("FunctionName")) for event in events] == [
        ("ExecutionStarted", "chain"),
        ("TaskCompleted", "greet"),
        ("TaskCompleted", "pass_gate"),
        ("TaskCompleted", "greet"),
        ("ExecutionCompleted", None),
    ]
    assert events[1]["Result"] == '"Hello Tokyo!"'


def test_unknown_orchestrator_is_named(programs: Programs) -> None:
    answer = programs.http.post("start/no_such_orchestrator")
    assert "The function 'no_such_orchestrator' doesn't exist" in answer.json()["error"]


def test_running_instance_is_not_started_again_but_a_finished_one_is(programs: Programs) -> None:
    programs.start("chain", {"gate": "twice"}, "same-id")
    again = programs.http.post("start/chain/same-id", json={"gate": "twice"})
    assert "already exists" in again.json()["error"]
    programs.open_gate("twice")
    programs.wait("same-id")
    assert programs.run("eternal", {"gate": "open"}, "same-id")["output"] == 3


@pytest.mark.parametrize("instance_id", ["@entity", "with%5Cbackslash", "x" * 101])
def test_bad_instance_ids(programs: Programs, instance_id: str) -> None:
    answer = programs.webhooks.post(f"orchestrators/chain/{instance_id}", json={})
    assert answer.status_code == 400


def test_find_by_prefix_and_status(programs: Programs) -> None:
    programs.run("chain", {"gate": "open"}, "find-1")
    programs.start("chain", {"gate": "never"}, "find-2")
    assert programs.http.get("find?prefix=find-&status=Completed").json() == ["find-1"]
    assert {"find-1", "find-2"} <= set(programs.http.get("find").json())


def test_a_list_comes_in_pages(programs: Programs) -> None:
    for number in range(3):
        programs.start("chain", {"gate": "never"}, f"page-{number}")
    wanted, token = {"instanceIdPrefix": "page-", "top": "2"}, "x-ms-continuation-token"

    first = programs.webhooks.get("instances", params=wanted)
    second = programs.webhooks.get("instances", params=wanted, headers={token: first.headers[token]})

    assert [[each["instanceId"] for each in page.json()] for page in (first, second)] == [
        ["page-0", "page-1"],
        ["page-2"],
    ]
    assert token not in second.headers


def test_nobody_is_purged_where_there_is_nobody(programs: Programs) -> None:
    for instance_id in ("nobody", "@counter@nobody"):
        assert programs.webhooks.delete(f"instances/{instance_id}").status_code == 404
        assert programs.control("purge", instance_id).json() == 0


def test_events_to_ended_and_unknown_instances_are_refused(programs: Programs) -> None:
    programs.run("chain", {"gate": "open"}, "ended")
    assert "gone" in programs.raise_event("ended", "Approval", 1).json()["error"]
    assert "No instance" in programs.raise_event("no-such-instance", "Approval", 1).json()["error"]


def test_terminate(programs: Programs) -> None:
    programs.start("chain", {"gate": "never"}, "terminated")
    programs.control("terminate", "terminated").raise_for_status()
    status = programs.wait("terminated")
    assert (status["runtimeStatus"], status["output"]) == ("Terminated", "the test asks")
    assert "No instance" in programs.control("terminate", "no-such-instance").json()["error"]


def test_terminated_child_fails_its_parent(programs: Programs) -> None:
    programs.start("parent", {"gate": "never-ever"}, "ward")
    programs.wait_at_gate("never-ever")
    programs.control("terminate", "ward-child").raise_for_status()
    assert programs.wait("ward")["runtimeStatus"] == "Failed"


def test_suspend_and_resume(programs: Programs) -> None:
    programs.start("chain", {"gate": "suspension"}, "suspended")
    programs.wait_at_gate("suspension")
    programs.control("suspend", "suspended").raise_for_status()
    programs.wait("suspended", "Suspended")
    programs.open_gate("suspension")
    assert programs.run("chain", {"gate": "open"})["runtimeStatus"] == "Completed"
    assert programs.status("suspended")["runtimeStatus"] == "Suspended"
    programs.control("resume", "suspended").raise_for_status()
    assert programs.wait("suspended")["runtimeStatus"] == "Completed"


def test_restart(programs: Programs) -> None:
    programs.run("eternal", {"gate": "open"}, "restarted")
    fresh = programs.control("restart", "restarted", "?new=1").json()
    assert programs.wait(fresh["id"])["output"] == 3
    assert programs.control("restart", "restarted").json()["id"] == "restarted"
    assert programs.wait("restarted")["output"] == 3
    assert "400" in programs.control("restart", "no-such-instance").json()["error"]


def test_rewind_is_refused(programs: Programs) -> None:
    programs.run("raising", {"gate": "open"}, "failed")
    assert "does not implement rewind" in programs.control("rewind", "failed").json()["error"]


def test_purge(programs: Programs) -> None:
    programs.run("chain", {"gate": "open"}, "purged")
    assert programs.control("purge", "purged").json() == 1
    assert programs.status("purged") is None
    assert programs.control("purge", "purged").json() == 0
    programs.run("unhandled", {"gate": "open"})
    assert programs.http.post("purge?status=Failed").json() >= 1
    assert programs.http.post("purge?status=Failed").json() == 0


def test_entity_is_signalled_read_and_deleted(programs: Programs) -> None:
    assert programs.http.get("counter/fresh").json() == {"exists": False, "state": None}
    programs.http.post("counter/fresh?op=add", json=5)
    programs.http.post("counter/fresh?op=add", json=6)
    wait_until(lambda: programs.counter("fresh") == 11, "the counter is 11")
    programs.http.post("counter/fresh?op=delete")
    wait_until(lambda: not programs.http.get("counter/fresh").json()["exists"], "the counter is deleted")


def test_signal_to_an_unknown_entity_is_refused(programs: Programs) -> None:
    answer = programs.webhooks.post("entities/NoSuch/key?op=add", json=1)
    assert answer.status_code == 400
    assert "not an entity function" in answer.json()["Message"]


def test_management_api_takes_plain_json(programs: Programs) -> None:
    created = programs.webhooks.post("orchestrators/chain", json={"gate": "open"})
    assert created.status_code == 202
    assert programs.wait(created.json()["id"])["input"] == {"gate": "open"}
    assert programs.webhooks.post("orchestrators/chain", content=b"{").status_code == 400
