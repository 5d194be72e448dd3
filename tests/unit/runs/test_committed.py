import pytest

from agentstream.model import DurableUnavailableError, RunInput
from agentstream.runs.recovery import Sources

RUN = RunInput(agent="TravelPlanner", conversation_id="c", correlation_id="r", message="Paris", timeout_seconds=60)


async def test_a_durable_runtime_that_does_not_answer_is_told_and_never_taken_for_one_that_knows_nothing(
    both: Sources,
) -> None:
    committed = both.committed
    for call in (
        committed.start(RUN),
        committed.send_cancel("r"),
        committed.run("r"),
        committed.results("TravelPlanner", "c"),
        committed.answers("TravelPlanner", "c"),
        committed.cut_off_result(RUN),
        committed.messages("c"),
        committed.erase("c", ["r"], since=1),
    ):
        with pytest.raises(DurableUnavailableError):
            await call


async def test_a_run_that_cannot_be_asked_for_has_not_certainly_started(both: Sources) -> None:
    assert not await both.committed.has_started("r")
