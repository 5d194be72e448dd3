import json
from typing import Any

import pytest

from agentstream.model import CANCELLED, DONE, ERROR_MESSAGES, Outcome, RunInput, RunResult, RunStatus
from agentstream.runs.orchestration import REDIS_RETRY, failure_of, finish
from agentstream.stream.handler import RedisStreamHandler


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ({"messages": []}, None),
        ({"error": "secret", "status": "error"}, "internal_error"),
        ({"status": "not_started"}, "not_started"),
        ({"status": "erased"}, "internal_error"),
        (Exception("secret"), "internal_error"),
        (None, "internal_error"),
    ],
)
def test_whether_the_entity_has_answered_is_read_from_what_it_sent(response: Any, code: str | None) -> None:
    assert failure_of(response) == (code and RunResult(status=RunStatus.FAILED, code=code))


@pytest.mark.parametrize("code", ERROR_MESSAGES)
def test_an_error_event_tells_a_user_what_to_do_and_nothing_of_the_inside(code: str) -> None:
    outcome = Outcome.failure(code, "r")

    assert outcome.event == "error"
    assert json.loads(outcome.data) == {"code": code, "message": ERROR_MESSAGES[code], "correlation_id": "r"}
    assert ERROR_MESSAGES[code].endswith(".")


def test_an_outcome_tells_of_each_end() -> None:
    assert RunResult(status=RunStatus.COMPLETED, response="a").outcome("r") == DONE
    assert RunResult(status=RunStatus.CANCELLED, response="a").outcome("r") == CANCELLED
    assert RunResult(status=RunStatus.TIMED_OUT, code="timeout").outcome("r").status is RunStatus.TIMED_OUT


def test_the_end_is_retried_with_backoff_for_more_than_an_hour_of_outage() -> None:
    options = REDIS_RETRY.to_json()

    delay, total = options["firstRetryIntervalInMilliseconds"], 0
    for _ in range(options["maxNumberOfAttempts"] - 1):
        total += delay
        delay = min(delay * options["backoffCoefficient"], options["maxRetryIntervalInMilliseconds"])
    assert total > 3_600_000
    assert options["firstRetryIntervalInMilliseconds"] <= 1000


async def test_finishing_twice_is_finishing_once(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    run = RunInput(
        agent="A", conversation_id=conversation_id, correlation_id=correlation_id, message="", timeout_seconds=1
    )
    failure = RunResult(status=RunStatus.FAILED, code="internal_error").model_dump()
    await handler.accept_run(conversation_id, correlation_id, "A")

    ending = {"run": run.model_dump(exclude={"message"}), "failure": failure, "give_up_at": 0}
    ended = [await finish(handler, None, ending) for _ in range(2)]

    assert [result.model_dump() for result in ended] == [failure, failure]
    events = [event async for batch in handler.read_stream(conversation_id) for event in batch]
    assert [event.kind for event in events] == ["error"]
