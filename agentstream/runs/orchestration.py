"""The orchestration of a run, and its activities.

The orchestration, not the callback, ends the stream, and only once the agent's answer is in the committed state of its
entity: the durable runtime may send an entity's response before it commits, and lose the state that came with it.
"""

import asyncio
import contextlib
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import azure.durable_functions as df
from agent_framework_durabletask import AgentSessionId, RunRequest

from agentstream import telemetry
from agentstream.model import CANCELLED, DurableUnavailableError, ErasedError, RunInput, RunResult, RunStatus, now_ms
from agentstream.runs.committed import CANCEL_EVENT, ORCHESTRATION, CommittedState
from agentstream.runs.owner_list import add_owner_list
from agentstream.stream.clients import GetStream, get_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from agentstream.stream.text import normalized

# An answer is mostly committed a moment after it arrived.
COMMIT_POLL_SECONDS = 0.02
COMMIT_SECONDS = 2.0
# An answer that was lost with its state is given again within this time, after the time that a run may take.
RECOMMIT_SECONDS = 600.0

FINISH_RUN = "finish_run"
MARK_CANCELLED = "mark_cancelled"

logger = telemetry.logger(__name__)


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


def failure_of(response: Any) -> RunResult | None:
    """Return how a run failed that its entity has not answered, or None for one that it has.

    Args:
        response: What the entity answered: an ``AgentResponse`` as a dict, or anything else where the operation failed.
    """
    if isinstance(response, dict) and "messages" in response:
        return None
    is_dead = isinstance(response, dict) and response.get("status") == "not_started"
    return RunResult.failure("not_started" if is_dead else "internal_error")


def orchestrate_run(context: df.DurableOrchestrationContext) -> Generator[Any, Any, dict[str, Any]]:
    """Run the agent's entity against the run timer and a cancellation, then end the stream."""
    run = RunInput.model_validate(context.get_input())
    entity = df.EntityId(AgentSessionId.to_entity_name(run.agent), run.conversation_id)
    request = RunRequest(
        message=run.message,
        correlation_id=run.correlation_id,
        created_at=context.current_utc_datetime,
        options=run.key.options(),
    )
    timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=run.timeout_seconds))
    answer = context.call_entity(entity, "run", request.to_dict())
    cancel = context.wait_for_external_event(CANCEL_EVENT)
    ending: dict[str, Any] = {"run": run.model_dump(exclude={"message"})}
    winner = yield context.task_any([answer, timer, cancel])
    if winner == cancel:
        status = RunStatus((yield context.call_activity_with_retry(MARK_CANCELLED, REDIS_RETRY, ending)))
        if not status.is_open:
            timer.cancel()
            return RunResult(status=status).model_dump()
        winner = yield context.task_any([answer, timer])
    if winner == timer:
        failure: RunResult | None = RunResult.failure("timeout")
    else:
        timer.cancel()
        failure = failure_of(answer.result)
    ending["failure"] = None if failure is None else failure.model_dump()
    ending["give_up_at"] = context.current_utc_datetime.timestamp() + run.timeout_seconds + RECOMMIT_SECONDS
    result = failure or RunResult.failure("internal_error")
    # Where Redis was gone for all of the retries, the run has ended all the same.
    with contextlib.suppress(Exception):
        ended = yield context.call_activity_with_retry(FINISH_RUN, REDIS_RETRY, ending)
        result = RunResult.model_validate(ended)
    return result.model_dump()


async def write_result(
    handler: RedisStreamHandler, run: RunInput, result: RunResult, *, unless_answered: bool = False
) -> RunStatus | None:
    """End a run's stream with its result, unless it has ended.

    Returns:
        The status with which it ended; None where it was answered before its timer fired, or ``unless_answered``.

    Raises:
        ErasedError: Its conversation was erased.
    """
    status = await handler.write_completion(
        run.conversation_id,
        correlation_id=run.correlation_id,
        outcome=result.outcome(run.correlation_id),
        answer=None if result.response is None else normalized(result.response),
        unless_answered=unless_answered,
        created=run.created,
    )
    if status is not None:
        telemetry.run_ended(run.agent, status, run.created, now_ms())
    return status


def create_run_functions(get_stream: GetStream = get_stream_handler) -> df.Blueprint:
    """Return the orchestration and its activities, to be registered with the function app.

    Args:
        get_stream: Returns the stream handler of the running event loop.
    """

    # The annotations are plain types: the Functions worker refuses a generic one on a binding.
    async def finish_run(ending: dict, client: df.DurableOrchestrationClient) -> dict:  # type: ignore[type-arg]
        with _span_of("finish run", ending):
            async with await get_stream() as stream:
                return (await finish(stream, client, ending)).model_dump()

    async def mark_cancelled(ending: dict) -> str:  # type: ignore[type-arg]
        with _span_of("cancel run", ending):
            async with await get_stream() as stream:
                return await cancel(stream, _run_of(ending))

    blueprint = df.Blueprint()
    blueprint.function_name(ORCHESTRATION)(blueprint.orchestration_trigger(context_name="context")(orchestrate_run))
    finishing = blueprint.durable_client_input(client_name="client")(finish_run)
    blueprint.function_name(FINISH_RUN)(blueprint.activity_trigger(input_name="ending")(finishing))
    add_owner_list(blueprint)
    blueprint.function_name(MARK_CANCELLED)(blueprint.activity_trigger(input_name="ending")(mark_cancelled))
    return blueprint


async def finish(
    stream: RedisStreamHandler, client: df.DurableOrchestrationClient, ending: dict[str, Any]
) -> RunResult:
    """Append a run's terminal event, after repairing what was streamed where it is not the committed answer.

    Args:
        stream: The stream handler.
        client: The durable client.
        ending: ``{"run": RunInput without its message, "failure": RunResult or None where the entity has answered,
            "give_up_at": seconds since the epoch}``.

    Returns:
        How the run ended, whoever ended it.

    Raises:
        NotCommittedError: The answer is not committed yet.
        RedisError: Redis did not answer.
    """
    run = _run_of(ending)
    committed = CommittedState(client, [run.agent])
    if ending["failure"]:
        result = RunResult.model_validate(ending["failure"])
    else:
        result = await _committed_result(committed, run, ending["give_up_at"])
    with contextlib.suppress(ErasedError, DurableUnavailableError):
        while (status := await write_result(stream, run, result)) is None:
            result = await _committed_result(committed, run, ending["give_up_at"])
        result = _ended_as(status, result)
        await committed.list_run(run)
    logger.info("run %s: %s", run.correlation_id, result.status)
    return result


async def cancel(stream: RedisStreamHandler, run: RunInput) -> RunStatus:
    """Make sure that a run which is to be cancelled knows it, and end it at once where no attempt has begun.

    Returns:
        The run's status.

    Raises:
        RedisError: Redis did not answer.
    """
    key = run.key
    try:
        await stream.cancel_run(key.conversation_id, key.correlation_id, created=key.created)
        status = await stream.end_unstarted(
            key.conversation_id, correlation_id=key.correlation_id, outcome=CANCELLED, created=key.created
        )
    except ErasedError:
        return RunStatus.CANCELLED
    if not status.is_open:
        telemetry.run_ended(run.agent, status, run.created, now_ms())
    return status


def _span_of(name: str, ending: dict[str, Any]) -> AbstractContextManager[Any]:
    run = _run_of(ending)
    ids = telemetry.run_ids(run.conversation_id, run.correlation_id, run.agent, run.owner)
    return telemetry.run_span(name, ids, continues=run.traceparent)


def _run_of(ending: dict[str, Any]) -> RunInput:
    return RunInput.model_validate({**ending["run"], "message": ""})


def _ended_as(status: RunStatus, result: RunResult) -> RunResult:
    if status in (RunStatus.FAILED, RunStatus.TIMED_OUT) and result.code is None:
        return RunResult.failure("timeout" if status is RunStatus.TIMED_OUT else "internal_error")
    return result.model_copy(update={"status": status})


async def _committed_result(committed: CommittedState, run: RunInput, give_up_at: float) -> RunResult:
    deadline = time.monotonic() + COMMIT_SECONDS
    while True:
        with contextlib.suppress(DurableUnavailableError):
            results = await committed.results(run.agent, run.conversation_id)
            if run.correlation_id in results:
                return results[run.correlation_id]
        if time.time() > give_up_at:
            # The memory was reset, or the runtime has lost it.
            return RunResult.failure("internal_error")
        if time.monotonic() > deadline:
            raise NotCommittedError(run.correlation_id)
        await asyncio.sleep(COMMIT_POLL_SECONDS)
