"""Numbering of tasks, retries, cancellation and endings, without a host."""

import json
import time

import pytest

from devhost.functions import FunctionTable
from devhost.protocol_v1.episode import ActionType, Episode, Progress
from devhost.protocol_v1.history import EventType, new_event
from tests.unit.devhost.builders import all_of, call, completed, episode, failed, fired, result, started, timer


def event_types(step: Episode) -> list[EventType]:
    return [EventType(event["EventType"]) for event in step.history]


def test_leaves_are_numbered_in_order_and_only_new_ones_are_scheduled(functions: FunctionTable) -> None:
    step = episode(functions, started())
    step.deliver()
    step.apply(result(all_of(call(), timer(), call())))
    assert [task_id for task_id, *_ in step.activities] == [0, 2]
    assert [task_id for task_id, _ in step.timers] == [1]
    step.activities.clear()
    step.apply(result(all_of(call(), timer(), call()), call()))
    assert [task_id for task_id, *_ in step.activities] == [3]


def test_waits_consume_no_number_and_signals_do(functions: FunctionTable) -> None:
    step = episode(functions, started())
    step.deliver()
    wait = {"actionType": ActionType.WAIT_FOR_EXTERNAL_EVENT, "externalEventName": "Go"}
    signal = {"actionType": ActionType.SIGNAL_ENTITY, "instanceId": "@counter@a", "operation": "add", "input": "1"}
    step.apply(result(wait, signal, call()))
    assert [task_id for task_id, *_ in step.activities] == [1]


def test_entity_call_is_an_event_sent_whose_input_holds_the_request_id(functions: FunctionTable) -> None:
    step = episode(functions, started())
    step.deliver()
    step.apply(result({"actionType": 7, "instanceId": "@counter@a", "operation": "add", "input": '{"by": 1}'}))
    ((entity_id, request),) = step.operations
    sent = step.history[-1]
    assert (entity_id, sent["EventType"], sent["EventId"]) == ("@counter@a", EventType.EVENT_SENT, 0)
    assert json.loads(sent["Input"])["id"] == request["id"]
    assert json.loads(json.loads(request["input"])) == {"by": 1}


def test_failed_attempt_waits_for_a_timer_before_the_next(functions: FunctionTable) -> None:
    progress = Progress()
    step = episode(functions, started(), progress=progress)
    step.deliver()
    step.apply(result(call(firstRetryIntervalInMilliseconds=1000, maxNumberOfAttempts=2)))

    step = episode(functions, failed(0), progress=progress)
    assert step.deliver()
    assert event_types(step)[-2:] == [EventType.TASK_FAILED, EventType.TIMER_CREATED]
    assert [task_id for task_id, _ in step.timers] == [1]

    step = episode(functions, fired(1), progress=progress)
    assert step.deliver()
    assert [task_id for task_id, *_ in step.activities] == [2]

    # The last failure is waited out too: the SDK gives up only when that timer fires.
    step = episode(functions, failed(2), progress=progress)
    step.deliver()
    assert [task_id for task_id, _ in step.timers] == [3]
    step = episode(functions, fired(3), progress=progress)
    assert step.deliver()
    assert (step.activities, progress.tasks) == ([], {})


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 5)])
def test_backoff_up_to_the_longest_interval(functions: FunctionTable, attempt: int, seconds: float) -> None:
    retry = {
        "firstRetryIntervalInMilliseconds": 1000,
        "maxNumberOfAttempts": 9,
        "backoffCoefficient": 2,
        "maxRetryIntervalInMilliseconds": 5000,
    }
    task = {"kind": "activity", "name": "work", "input": "1", "retry": retry, "attempt": attempt, "since": time.time()}
    step = episode(functions, failed(0), progress=Progress(next_id=1, tasks={"0": task}))
    before = time.time()
    step.deliver()
    ((_, due),) = step.timers
    assert seconds <= due - before < seconds + 1


def test_no_timer_after_the_retry_timeout(functions: FunctionTable) -> None:
    retry = {"firstRetryIntervalInMilliseconds": 1, "maxNumberOfAttempts": 9, "retryTimeoutInMilliseconds": 1000}
    task = {"kind": "activity", "name": "work", "input": "1", "retry": retry, "attempt": 1, "since": time.time() - 2}
    step = episode(functions, failed(0), progress=Progress(next_id=1, tasks={"0": task}))
    step.deliver()
    assert step.timers == []


def test_events_of_tasks_with_retry_and_external_events_get_steps_of_their_own(functions: FunctionTable) -> None:
    retry = {"retry": {"firstRetryIntervalInMilliseconds": 1, "maxNumberOfAttempts": 2}, "attempt": 1, "since": 0}
    plain = {"kind": "activity", "name": "work", "input": "1"}
    progress = Progress(next_id=4, tasks={"0": plain, "1": plain, "2": {**plain, **retry}, "3": plain})
    step = episode(functions, completed(0), completed(1), failed(2), completed(3), progress=progress)
    step.deliver()
    assert step.consumed == [0, 1]
    raised = new_event(EventType.EVENT_RAISED, Name="Go", Input="1")
    step = episode(functions, raised, raised)
    step.deliver()
    assert step.consumed == [0]


def test_cancelled_timer_lets_the_instance_end_and_a_forgotten_one_does_not(functions: FunctionTable) -> None:
    for cancelled, status in ((True, "Completed"), (False, "Running")):
        step = episode(functions, started())
        step.deliver()
        step.apply(result(timer()))
        step.apply(result(timer(cancelled=cancelled), done=True, output="done"))
        step.close()
        assert step.status == status
        assert (step.cancelled_timers == [0]) is cancelled


def test_forgotten_timer_ends_the_instance_without_a_replay(functions: FunctionTable) -> None:
    progress = Progress(
        next_id=1, tasks={"0": {"kind": "timer", "leaf": 0}}, end={"status": "Completed", "output": "7"}
    )
    step = episode(functions, fired(0), progress=progress)
    assert not step.deliver()
    step.close()
    assert (step.status, step.output_json) == ("Completed", "7")


def test_event_of_no_open_task_is_dropped(functions: FunctionTable) -> None:
    step = episode(functions, completed(5))
    assert not step.deliver()
    assert step.consumed == [0]


def test_suspended_instance_takes_only_control_events(functions: FunctionTable) -> None:
    progress = Progress(next_id=1, tasks={"0": {"kind": "activity"}})
    step = episode(functions, completed(0), new_event(EventType.EXECUTION_SUSPENDED, Input="why"), progress=progress)
    assert not step.deliver()
    assert (step.status, step.consumed) == ("Suspended", [1])
    resumed = new_event(EventType.EXECUTION_RESUMED, Input="go")
    step = episode(functions, completed(0), resumed, progress=progress, status="Suspended")
    assert step.deliver()
    assert (step.status, sorted(step.consumed)) == ("Running", [0, 1])


def test_error_behind_the_marker_is_the_reason_and_its_actions_are_scheduled(functions: FunctionTable) -> None:
    step = episode(functions, started())
    step.deliver()
    signal = {"actionType": 9, "instanceId": "@counter@a", "operation": "add", "input": "1"}
    state = json.dumps(result(signal, error="bad luck"))
    step.fail(Exception(f"bad luck\n\n$OutOfProcData$:{state}"), "the stack")
    step.close()
    assert step.failure == ("Orchestrator function 'parent' failed: bad luck", "the stack")
    assert len(step.operations) == 1


def test_unknown_functions_are_named(functions: FunctionTable) -> None:
    step = episode(functions, started())
    step.deliver()
    step.apply(result(call("no_such")))
    step.close()
    assert step.failure is not None
    assert "'no_such' doesn't exist, is disabled, or is not an activity function" in step.failure[0]


def test_continue_as_new_warns_of_events_nobody_waited_for(
    functions: FunctionTable, caplog: pytest.LogCaptureFixture
) -> None:
    step = episode(functions, new_event(EventType.EVENT_RAISED, Name="Go", Input="1"))
    step.deliver()
    step.apply(result({"actionType": ActionType.CONTINUE_AS_NEW, "input": "2"}, done=True))
    step.close()
    assert (step.status, step.next_input_json) == ("ContinuedAsNew", '"2"')
    assert "Go" in caplog.text


def test_only_the_first_answer_of_a_call_is_delivered(functions: FunctionTable) -> None:
    progress = Progress()
    step = episode(functions, started(), progress=progress)
    step.deliver()
    step.apply(result({"actionType": 7, "instanceId": "@counter@a", "operation": "add", "input": "1"}))
    ((_, request),) = step.operations
    first, second = (new_event(EventType.EVENT_RAISED, Name=request["id"], Input=text) for text in "12")
    step = episode(functions, first, progress=progress)
    assert step.deliver()
    step = episode(functions, second, progress=progress)
    assert not step.deliver()
    assert (event_types(step), step.consumed) == ([EventType.ORCHESTRATOR_STARTED], [0])


def test_events_from_outside_may_have_one_name(functions: FunctionTable) -> None:
    progress = Progress(waits=["Go", "Go"])
    for _ in range(2):
        step = episode(functions, new_event(EventType.EVENT_RAISED, Name="Go", Input="1"), progress=progress)
        assert step.deliver()


def test_function_that_does_not_come_back_fails_its_orchestration_whatever_is_open(functions: FunctionTable) -> None:
    progress = Progress(next_id=1, tasks={"0": {"kind": "timer", "leaf": 0}})
    step = episode(functions, new_event(EventType.EVENT_RAISED, Name="Go", Input="1"), progress=progress)
    step.deliver()
    step.fail_at_once("the worker process died")
    step.close()
    assert step.status == "Failed"
    assert step.failure == ("Orchestrator function 'parent' failed: the worker process died", "")
