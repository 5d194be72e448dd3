"""The orchestration of a run, and its activities.

The orchestration, not the callback, ends the stream: it alone knows that the durable runtime has committed the answer.
"""

import contextlib
import json
import logging
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df
from agent_framework_durabletask import AgentSessionId
from pydantic import BaseModel

from redis_stream_handler import CANCELLED, DONE, Outcome, RedisStreamHandler, RunStatus, get_stream_handler
from stream_text import normalized
from streaming_agent import streamed_request

ORCHESTRATION = "run_agent"
CANCEL_EVENT = "cancel"

MESSAGES = {
    "model_error": "The model could not answer. Send the message again.",
    "timeout": "The answer took too long and was stopped. Send the message again, or a simpler one.",
    "not_started": "The run could not be started. Send the message again.",
    "internal_error": "Something went wrong on our side. Send the message again.",
}

logger = logging.getLogger(__name__)


class RunInput(BaseModel):
    """The orchestration's input."""

    agent: str
    conversation_id: str
    correlation_id: str
    message: str
    timeout_seconds: float


class RunResult(BaseModel):
    """How a run ended: the orchestration's output.

    ``response`` is the committed answer; ``code`` is that of the ``error`` event, None unless there was one.
    """

    status: RunStatus
    response: str | None = None
    code: str | None = None


class RetryWithBackoff(df.RetryOptions):  # type: ignore[misc]
    """Retry options with the exponential backoff that the Durable extension knows and the Python SDK does not offer.

    The property names are those of the extension's ``RetryOptions.cs``.
    """

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "backoffCoefficient": 2, "maxRetryIntervalInMilliseconds": 60_000}


# More than three hours, should Redis be gone for as long.
REDIS_RETRY = RetryWithBackoff(first_retry_interval_in_milliseconds=500, max_number_of_attempts=200)


def error_outcome(code: str, correlation_id: str) -> Outcome:
    """Return the outcome of a run that ended with an ``error`` event of this code."""
    data = json.dumps({"code": code, "message": MESSAGES[code], "correlation_id": correlation_id})
    return Outcome(RunStatus.TIMED_OUT if code == "timeout" else RunStatus.FAILED, "error", data)


def outcome_of(result: RunResult, correlation_id: str) -> Outcome:
    """Return the outcome that tells followers of this result."""
    if result.status is RunStatus.CANCELLED:
        return CANCELLED
    return DONE if result.code is None else error_outcome(result.code, correlation_id)


def read_result(response: Any) -> RunResult:
    """Return how a run ended from what the agent entity answered.

    Args:
        response: An ``AgentResponse`` as a dict. The entity reports an error inside the agent as a message with a
            content of type ``error``, and an error around it as a dict without messages.
    """
    if not isinstance(response, dict) or "messages" not in response:
        return RunResult(status=RunStatus.FAILED, code="internal_error")
    contents = [content for message in response["messages"] for content in message.get("contents", [])]
    if any(content.get("type") == "error" for content in contents):
        return RunResult(status=RunStatus.FAILED, code="model_error")
    text = "".join(content.get("text") or "" for content in contents if content.get("type") == "text")
    return RunResult(status=RunStatus.COMPLETED, response=text)


def orchestrate_run(context: df.DurableOrchestrationContext) -> Generator[Any, Any, dict[str, Any]]:
    """Run the agent's entity against the run timer and a cancellation, then end the stream."""
    run = RunInput.model_validate(context.get_input())
    entity = df.EntityId(AgentSessionId.to_entity_name(run.agent), run.conversation_id)
    request = streamed_request(run.message, run.conversation_id, run.correlation_id, context.current_utc_datetime)
    timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=run.timeout_seconds))
    answer = context.call_entity(entity, "run", request)
    cancel = context.wait_for_external_event(CANCEL_EVENT)
    ending = {"run": run.model_dump(exclude={"message"})}
    winner = yield context.task_any([answer, timer, cancel])
    if winner == cancel:
        status = RunStatus((yield context.call_activity_with_retry(mark_cancelled.__name__, REDIS_RETRY, ending)))
        if not status.is_open:
            timer.cancel()
            return RunResult(status=status).model_dump()
        winner = yield context.task_any([answer, timer])
    if winner == timer:
        result = RunResult(status=RunStatus.TIMED_OUT, code="timeout")
    else:
        timer.cancel()
        result = read_result(answer.result)
    ending["result"] = result.model_dump()
    # Where Redis was gone for all of the retries, the answer is committed all the same.
    with contextlib.suppress(Exception):
        result.status = RunStatus((yield context.call_activity_with_retry(finish_run.__name__, REDIS_RETRY, ending)))
    return result.model_dump()


async def write_result(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, result: RunResult
) -> RunStatus:
    """End a run's stream with its result, unless it has ended, and return the status with which it did."""
    return await handler.write_completion(
        conversation_id,
        correlation_id=correlation_id,
        outcome=outcome_of(result, correlation_id),
        answer=None if result.response is None else normalized(result.response),
    )


# The Functions worker refuses a generic alias such as dict[str, Any] as the annotation of an activity's parameter.
async def finish_run(ending: dict) -> str:  # type: ignore[type-arg]
    """Append a run's terminal event, after repairing what was streamed where it is not the committed answer.

    Returns:
        The status with which the run ended, whoever ended it.
    """
    run, result = ending["run"], RunResult.model_validate(ending["result"])
    async with await get_stream_handler() as handler:
        status = await write_result(handler, run["conversation_id"], run["correlation_id"], result)
    logger.info("run %s: %s", run["correlation_id"], status)
    return status


async def mark_cancelled(ending: dict) -> str:  # type: ignore[type-arg]
    """Make sure that a run which is to be cancelled knows it, and end it at once where no attempt has begun.

    Returns:
        The run's status.
    """
    run = {"conversation_id": ending["run"]["conversation_id"], "correlation_id": ending["run"]["correlation_id"]}
    async with await get_stream_handler() as handler:
        await handler.cancel_run(**run)
        return await handler.end_unstarted(**run, outcome=CANCELLED)


def create_run_functions() -> df.Blueprint:
    """Return the orchestration and its activities, to be registered with the function app."""
    blueprint = df.Blueprint()
    blueprint.function_name(ORCHESTRATION)(blueprint.orchestration_trigger(context_name="context")(orchestrate_run))
    for activity in (finish_run, mark_cancelled):
        blueprint.activity_trigger(input_name="ending")(activity)
    return blueprint
