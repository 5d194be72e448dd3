import json
from typing import Any

import pytest

from redis_stream_handler import CANCELLED, DONE, RedisStreamHandler, RunStatus
from run_orchestration import MESSAGES, REDIS_RETRY, RunResult, error_outcome, finish_run, outcome_of, read_result


def message(*contents: dict[str, Any], role: str = "assistant") -> dict[str, Any]:
    return {"role": role, "contents": list(contents)}


def text(value: str | None) -> dict[str, Any]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("response", "result"),
    [
        (
            {"messages": [message(text("a"), text("b")), message(text("c"))]},
            RunResult(status=RunStatus.COMPLETED, response="abc"),
        ),
        ({"messages": []}, RunResult(status=RunStatus.COMPLETED, response="")),
        ({"messages": [message(text(None))]}, RunResult(status=RunStatus.COMPLETED, response="")),
        (
            {"messages": [message({"type": "function_call", "name": "f"}), message(text("a"))]},
            RunResult(status=RunStatus.COMPLETED, response="a"),
        ),
        (
            {"messages": [message({"type": "error", "message": "secret"})]},
            RunResult(status=RunStatus.FAILED, code="model_error"),
        ),
        ({"error": "secret", "status": "error"}, RunResult(status=RunStatus.FAILED, code="internal_error")),
        (Exception("secret"), RunResult(status=RunStatus.FAILED, code="internal_error")),
        (None, RunResult(status=RunStatus.FAILED, code="internal_error")),
    ],
)
def test_how_a_run_ended_is_read_from_the_entitys_answer(response: Any, result: RunResult) -> None:
    assert read_result(response) == result


@pytest.mark.parametrize("code", MESSAGES)
def test_an_error_event_tells_a_user_what_to_do_and_nothing_of_the_inside(code: str) -> None:
    outcome = error_outcome(code, "r")

    assert outcome.event == "error"
    assert json.loads(outcome.data) == {"code": code, "message": MESSAGES[code], "correlation_id": "r"}
    assert MESSAGES[code].endswith(".")


def test_an_outcome_tells_of_each_end() -> None:
    assert outcome_of(RunResult(status=RunStatus.COMPLETED, response="a"), "r") == DONE
    assert outcome_of(RunResult(status=RunStatus.CANCELLED, response="a"), "r") == CANCELLED
    assert outcome_of(RunResult(status=RunStatus.TIMED_OUT, code="timeout"), "r").status is RunStatus.TIMED_OUT


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
    await handler.accept_run(conversation_id, correlation_id, "A")
    ending = {
        "run": {"conversation_id": conversation_id, "correlation_id": correlation_id},
        "result": RunResult(status=RunStatus.COMPLETED, response="a\r\nb").model_dump(),
    }

    statuses = [await finish_run(ending) for _ in range(2)]

    assert statuses == ["completed", "completed"]
    events = [event async for batch in handler.read_stream(conversation_id) for event in batch]
    assert [(event.event, event.text) for event in events] == [("message", "a\nb"), ("done", "[DONE]")]
