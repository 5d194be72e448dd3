from agentstream.model import RunRecord, RunStatus
from agentstream.runs.recovery import NOT_STARTED_SECONDS, RUNS_A_LOOK, due_runs

NOW = 1_000_000_000
OLD = NOW - int(NOT_STARTED_SECONDS * 1000) - 1


def runs(count: int, created: int = OLD, status: RunStatus = RunStatus.QUEUED) -> dict[str, RunRecord]:
    return {f"r{number:04}": RunRecord(status=status, created=created, attempt=0) for number in range(count)}


def test_few_runs_are_all_asked_for_at_every_look() -> None:
    due = due_runs(runs(RUNS_A_LOOK), (OLD, "r0003"), 15, NOW)

    assert sorted(due) == sorted(runs(RUNS_A_LOOK))


def test_many_runs_have_their_turn_one_after_another_each_within_half_a_minute() -> None:
    waiting, last, asked = runs(300), (0, ""), list[str]()

    for _ in range(2):
        due = due_runs(waiting, last, 15, NOW)
        last = (OLD, due[-1])
        asked += due

    assert asked == sorted(waiting)
    assert len(due_runs(waiting, last, 1, NOW)) == RUNS_A_LOOK


def test_only_open_runs_are_asked_for_and_none_that_was_just_accepted() -> None:
    ended = {
        f"{status}": RunRecord(status=status, created=OLD, attempt=0) for status in RunStatus if not status.is_open
    }
    just_accepted = {"new": RunRecord(status=RunStatus.QUEUED, created=NOW, attempt=0)}
    begun = {"begun": RunRecord(status=RunStatus.RUNNING, created=NOW, attempt=1)}

    assert due_runs(ended | just_accepted | begun | runs(1), (0, ""), 15, NOW) == ["r0000", "begun"]
