import asyncio

import pytest

from agentstream.model import DurableUnavailableError, now_ms
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


async def test_of_several_open_runs_the_oldest_is_the_open_one(runs: Runs, conversation_id: str) -> None:
    conversation, stream = await runs.conversation(conversation_id), runs.both.stream
    assert await conversation.open_run() is None
    for correlation_id in ("first", "second"):
        accepted = await stream.accept_run(conversation_id, correlation_id, "TravelPlanner")
        # Ids of the same millisecond would sort by chance.
        while accepted and now_ms() <= accepted.created:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    assert await conversation.open_run() == "first"
    await stream.write_completion(conversation_id, correlation_id="first")
    assert await conversation.open_run() == "second"
