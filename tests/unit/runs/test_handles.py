import pytest

from agentstream.model import DurableUnavailableError
from agentstream.runs.handles import Runs
from agentstream.runs.recovery import Recovery, Sources


@pytest.fixture
def runs(both: Sources) -> Runs:
    return Runs(both, Recovery(interval_seconds=60), timeout_seconds=60, heartbeat_seconds=0.05)


async def test_without_the_durable_runtime_no_run_is_unknown(runs: Runs) -> None:
    run = runs.run("r")
    for call in (run.view(), run.cancel(), run.wait("c", seconds=0.1)):
        with pytest.raises(DurableUnavailableError):
            await call


async def test_nothing_is_erased_before_the_durable_runtime_says_how_its_runs_are(
    runs: Runs, conversation_id: str
) -> None:
    await runs.both.stream.accept_run(conversation_id, "r", "TravelPlanner", "claim")

    with pytest.raises(DurableUnavailableError):
        await (await runs.conversation(conversation_id)).erase()

    assert "r" in await runs.both.stream.runs(conversation_id)
