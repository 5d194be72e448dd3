import pytest

from agentstream.model import DurableUnavailableError, RunRequest, RunStatus
from agentstream.runs.recovery import Recovery, Sources
from agentstream.runs.starter import RunStarter, fingerprint_of, run_of_key


def request(message: str = "Paris", conversation_id: str | None = None) -> RunRequest:
    return RunRequest(message=message, conversation_id=conversation_id, wait_for_response=False, idempotency_key=None)


async def test_a_run_that_cannot_be_started_is_shown_to_its_followers_as_ended(
    both: Sources, conversation_id: str
) -> None:
    # A run before it, so that the conversation is known without asking the durable runtime.
    await both.stream.accept_run(conversation_id, "before", "TravelPlanner", "claim")
    starter = RunStarter(both, Recovery(interval_seconds=60), timeout_seconds=60)

    with pytest.raises(DurableUnavailableError):
        await starter.start("TravelPlanner", request(conversation_id=conversation_id))

    runs = await both.stream.runs(conversation_id)
    assert sorted(run.status for name, run in runs.items() if name != "before") == [RunStatus.FAILED]
    assert runs["before"].status is RunStatus.QUEUED


def test_a_key_names_one_run_for_each_agent() -> None:
    assert run_of_key("TravelPlanner", "k", None) == run_of_key("TravelPlanner", "k", None)
    assert len({run_of_key(agent, key, None) for agent in ("A", "B") for key in ("k", "l")}) == 4


def test_a_request_is_told_apart_by_its_conversation_and_its_message() -> None:
    requests = [request(message, conversation) for message in ("Paris", "Rome") for conversation in (None, "c", "d")]

    assert len({fingerprint_of(each) for each in requests}) == len(requests)
    assert fingerprint_of(request()) == fingerprint_of(request())
