"""Brings Redis in line with the durable state: restores what expired or was lost, ends runs that nobody else ends."""

import azure.durable_functions as df

from conversations import CommittedRun, RunResult, read_results, read_run
from redis_stream_handler import LostRun, RedisStreamHandler, Run, now_ms
from run_orchestration import error_outcome, outcome_of, write_result
from stream_text import normalized

# A run is started right after it was accepted; one that was not by now has lost its process in between.
NOT_STARTED_SECONDS = 30.0


async def restore_stream(
    handler: RedisStreamHandler,
    client: df.DurableOrchestrationClient,
    agents: list[str],
    conversation_id: str,
    correlation_id: str | None,
) -> bool:
    """Rebuild the conversation's stream, or one run's part of it, from the durable state.

    Returns:
        Whether the durable state knows the conversation, or the run in it; not where it was erased meanwhile.

    Raises:
        DurableUnavailableError: The durable runtime did not answer.
        RedisError: Redis did not.
    """
    erasure = await handler.erasure(conversation_id)
    lost = (
        await _lost_run(client, conversation_id, correlation_id)
        if correlation_id is not None
        else await _lost_runs(client, agents, conversation_id)
    )
    return bool(lost) and await handler.restore_runs(conversation_id, lost, erasure)


async def read_trimmed_runs(
    handler: RedisStreamHandler, client: df.DurableOrchestrationClient, agents: list[str], conversation_id: str
) -> list[LostRun]:
    """Return the committed runs that were trimmed from the stream.

    Raises:
        DurableUnavailableError: The durable runtime did not answer.
        RedisError: Redis did not.
    """
    kept = await handler.runs(conversation_id)
    return [run for run in await _lost_runs(client, agents, conversation_id) if run.correlation_id not in kept]


async def settle_runs(handler: RedisStreamHandler, client: df.DurableOrchestrationClient, conversation_id: str) -> None:
    """End the open runs that were never started, and those whose end did not reach Redis.

    Raises:
        DurableUnavailableError: The durable runtime did not answer.
        RedisError: Redis did not.
    """
    for correlation_id, run in (await handler.runs(conversation_id)).items():
        if run.status.is_open:
            await _settle(handler, conversation_id, correlation_id, run, await read_run(client, correlation_id))


async def _settle(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, run: Run, committed: CommittedRun | None
) -> None:
    if committed is None:
        if run.attempt == 0 and now_ms() - run.created > NOT_STARTED_SECONDS * 1000:
            outcome = error_outcome("not_started", correlation_id)
            await handler.end_unstarted(conversation_id, correlation_id=correlation_id, outcome=outcome)
    elif committed.result is not None:
        await write_result(handler, committed.input, committed.result)


async def _lost_run(client: df.DurableOrchestrationClient, conversation_id: str, correlation_id: str) -> list[LostRun]:
    committed = await read_run(client, correlation_id)
    if committed is None or committed.input.conversation_id != conversation_id:
        return []
    return [_lost(correlation_id, committed.input.agent, committed.result, committed.input.created)]


async def _lost_runs(client: df.DurableOrchestrationClient, agents: list[str], conversation_id: str) -> list[LostRun]:
    lost = []
    for agent in agents:
        for correlation_id, result in (await read_results(client, agent, conversation_id)).items():
            # The agent's memory knows answers but not which of them were cancelled or came too late.
            run = await read_run(client, correlation_id)
            lost.append(
                _lost(correlation_id, agent, result, 0)
                if run is None
                else _lost(correlation_id, agent, run.result, run.input.created)
            )
    return lost


def _lost(correlation_id: str, agent: str, result: RunResult | None, created: int) -> LostRun:
    if result is None:
        return LostRun(correlation_id, agent, None, "", created)
    return LostRun(
        correlation_id, agent, outcome_of(result, correlation_id), normalized(result.response or ""), created
    )
