"""The orchestration of a run, and its activities.

The orchestration, not the callback, ends the stream, and only once the agent's answer is in the committed state of its
entity: the durable runtime may send an entity's response before it commits, and lose the state that came with it.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df
from agent_framework_durabletask import AgentSessionId

from attempt import RunKey, streamed_request
from conversations import ORCHESTRATION, DurableUnavailableError, RunInput, RunResult, read_results
from redis_stream_handler import (
    CANCELLED,
    DONE,
    ErasedError,
    Outcome,
    RedisStreamHandler,
    RunStatus,
    get_stream_handler,
)
from stream_text import normalized

CANCEL_EVENT = "cancel"

MESSAGES = {
    "model_error": "The model could not answer. Send the message again.",
    "timeout": "The answer took too long and was stopped. Send the message again, or a simpler one.",
    "not_started": "The run could not be started. Send the message again.",
    "internal_error": "Something went wrong on our side. Send the message again.",
}
# An answer is mostly committed a moment after it arrived.
COMMIT_POLL_SECONDS = 0.02
COMMIT_SECONDS = 2.0
# An answer that was lost with its state is given again within this time, after the time that a run may take.
RECOMMIT_SECONDS = 600.0

logger = logging.getLogger(__name__)


class NotCommittedError(Exception):
    """The answer is not in the agent's committed memory yet."""


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


def failure_of(response: Any) -> RunResult | None:
    """Return how a run failed that its entity has not answered, or None for one that it has.

    Args:
        response: What the entity answered: an ``AgentResponse`` as a dict, or anything else where the operation failed.
    """
    if isinstance(response, dict) and "messages" in response:
        return None
    is_dead = isinstance(response, dict) and response.get("status") == "not_started"
    return RunResult(status=RunStatus.FAILED, code="not_started" if is_dead else "internal_error")


def orchestrate_run(context: df.DurableOrchestrationContext) -> Generator[Any, Any, dict[str, Any]]:
    """Run the agent's entity against the run timer and a cancellation, then end the stream."""
    run = RunInput.model_validate(context.get_input())
    entity = df.EntityId(AgentSessionId.to_entity_name(run.agent), run.conversation_id)
    key = RunKey(run.conversation_id, run.correlation_id, run.created)
    timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=run.timeout_seconds))
    answer = context.call_entity(entity, "run", streamed_request(run.message, key, context.current_utc_datetime))
    cancel = context.wait_for_external_event(CANCEL_EVENT)
    ending: dict[str, Any] = {"run": run.model_dump(exclude={"message"})}
    winner = yield context.task_any([answer, timer, cancel])
    if winner == cancel:
        status = RunStatus((yield context.call_activity_with_retry(mark_cancelled.__name__, REDIS_RETRY, ending)))
        if not status.is_open:
            timer.cancel()
            return RunResult(status=status).model_dump()
        winner = yield context.task_any([answer, timer])
    if winner == timer:
        failure: RunResult | None = RunResult(status=RunStatus.TIMED_OUT, code="timeout")
    else:
        timer.cancel()
        failure = failure_of(answer.result)
    ending["failure"] = None if failure is None else failure.model_dump()
    ending["give_up_at"] = context.current_utc_datetime.timestamp() + run.timeout_seconds + RECOMMIT_SECONDS
    result = failure or RunResult(status=RunStatus.FAILED, code="internal_error")
    # Where Redis was gone for all of the retries, the run has ended all the same.
    with contextlib.suppress(Exception):
        ended = yield context.call_activity_with_retry(finish_run.__name__, REDIS_RETRY, ending)
        result = RunResult.model_validate(ended)
    return result.model_dump()


async def write_result(handler: RedisStreamHandler, run: RunInput, result: RunResult) -> RunStatus | None:
    """End a run's stream with its result, unless it has ended.

    Returns:
        The status with which it ended; None where its timer fired after it had been answered.

    Raises:
        ErasedError: Its conversation was erased.
    """
    return await handler.write_completion(
        run.conversation_id,
        correlation_id=run.correlation_id,
        outcome=outcome_of(result, run.correlation_id),
        answer=None if result.response is None else normalized(result.response),
        created=run.created,
    )


# The annotations are plain types: the Functions worker refuses a generic one on a binding.
async def finish_run(ending: dict, client: df.DurableOrchestrationClient) -> dict:  # type: ignore[type-arg]
    """Append a run's terminal event, after repairing what was streamed where it is not the committed answer.

    Args:
        ending: ``{"run": RunInput without its message, "failure": RunResult or None where the entity has answered,
            "give_up_at": seconds since the epoch}``.
        client: The durable client.

    Returns:
        How the run ended, whoever ended it: a ``RunResult``.

    Raises:
        NotCommittedError: The answer is not committed yet.
        RedisError: Redis did not answer.
    """
    run = RunInput.model_validate({**ending["run"], "message": ""})
    result = RunResult.model_validate(ending["failure"]) if ending["failure"] else None
    async with await get_stream_handler() as handler:
        if result is None:
            result = await _committed_result(client, run, ending["give_up_at"])
        with contextlib.suppress(ErasedError):
            status = await write_result(handler, run, result)
            if status is None:
                result = await _committed_result(client, run, ending["give_up_at"])
                status = await write_result(handler, run, result)
            result = _ended_as(status or result.status, result)
    logger.info("run %s: %s", run.correlation_id, result.status)
    return result.model_dump()


def _ended_as(status: RunStatus, result: RunResult) -> RunResult:
    if status in (RunStatus.FAILED, RunStatus.TIMED_OUT) and result.code is None:
        return RunResult(status=status, code="timeout" if status is RunStatus.TIMED_OUT else "internal_error")
    return result.model_copy(update={"status": status})


async def _committed_result(client: df.DurableOrchestrationClient, run: RunInput, give_up_at: float) -> RunResult:
    deadline = time.monotonic() + COMMIT_SECONDS
    while True:
        with contextlib.suppress(DurableUnavailableError):
            results = await read_results(client, run.agent, run.conversation_id)
            if run.correlation_id in results:
                return results[run.correlation_id]
        if time.time() > give_up_at:
            # The memory was reset, or the runtime has lost it.
            return RunResult(status=RunStatus.FAILED, code="internal_error")
        if time.monotonic() > deadline:
            raise NotCommittedError(run.correlation_id)
        await asyncio.sleep(COMMIT_POLL_SECONDS)


async def mark_cancelled(ending: dict) -> str:  # type: ignore[type-arg]
    """Make sure that a run which is to be cancelled knows it, and end it at once where no attempt has begun.

    Args:
        ending: ``{"run": RunInput without its message}``.

    Returns:
        The run's status.
    """
    run = RunInput.model_validate({**ending["run"], "message": ""})
    names = {"conversation_id": run.conversation_id, "correlation_id": run.correlation_id}
    async with await get_stream_handler() as handler:
        try:
            await handler.cancel_run(**names, created=run.created)
            return await handler.end_unstarted(**names, outcome=CANCELLED, created=run.created)
        except ErasedError:
            return RunStatus.CANCELLED


def create_run_functions() -> df.Blueprint:
    """Return the orchestration and its activities, to be registered with the function app."""
    blueprint = df.Blueprint()
    blueprint.function_name(ORCHESTRATION)(blueprint.orchestration_trigger(context_name="context")(orchestrate_run))
    blueprint.activity_trigger(input_name="ending")(mark_cancelled)
    finishing = blueprint.durable_client_input(client_name="client")(finish_run)
    blueprint.activity_trigger(input_name="ending")(finishing)
    return blueprint
