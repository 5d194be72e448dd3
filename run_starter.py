"""Accepts a run: registers it in Redis, then starts its orchestration, once however often it is asked to."""

import asyncio
import time
import uuid
from dataclasses import dataclass

import azure.durable_functions as df

from conversations import DurableUnavailableError, durable_call, read_run
from recovery import restore_stream
from redis_stream_handler import START_CLAIM_MS, RedisStreamHandler
from run_orchestration import ORCHESTRATION, RunInput
from run_requests import RunRequest

# How long a key names its conversation while its run has not reached the durable state.
KEY_TTL_SECONDS = 24 * 3600.0
# Long enough for another request's claim to run out.
OTHER_STARTER_SECONDS = START_CLAIM_MS / 1000 + 2
OTHER_STARTER_POLL_SECONDS = 0.1
_KEYS = uuid.UUID("6d1f4c4e-8d0b-5b6e-9a51-0c3d5a6f7e21")


@dataclass(frozen=True, slots=True)
class RunStarter:
    """Starts runs.

    Args:
        handler: The stream handler of the running event loop.
        client: The durable client of the request.
        agents: The names of all agents.
        timeout_seconds: When the run timer ends a run.
    """

    handler: RedisStreamHandler
    client: df.DurableOrchestrationClient
    agents: list[str]
    timeout_seconds: float

    async def start(self, agent: str, request: RunRequest) -> RunInput:
        """Start the requested run, unless its idempotency key has started it before.

        Returns:
            The run.

        Raises:
            RedisError: Redis did not answer.
            DurableUnavailableError: The durable runtime did not, and the run is not registered.
        """
        if request.idempotency_key is None:
            run = self._run(agent, request, str(uuid.uuid4()), request.conversation_id or str(uuid.uuid4()))
            claim = await self._accept(run, is_new=request.conversation_id is None)
            await self._start_claimed(run, claim or "")
            return run
        return await self._start_once(agent, request, request.idempotency_key)

    async def _start_once(self, agent: str, request: RunRequest, key: str) -> RunInput:
        # The id follows from the key, so the durable state knows the key for as long as it knows the run.
        correlation_id = run_of_key(agent, key)
        claim = None
        deadline = time.monotonic() + OTHER_STARTER_SECONDS
        while time.monotonic() < deadline:
            # With the claim in hand it is looked up once more: starting a finished orchestration would run it again.
            started = await read_run(self.client, correlation_id)
            if started is not None:
                return started.input
            conversation_id = await self.handler.claim_key(
                f"agent-idempotency:{correlation_id}", request.conversation_id or str(uuid.uuid4()), KEY_TTL_SECONDS
            )
            run = self._run(agent, request, correlation_id, conversation_id)
            if claim is not None:
                await self._start_claimed(run, claim)
                return run
            claim = await self._accept(run, is_new=request.conversation_id is None)
            if claim is None:
                await asyncio.sleep(OTHER_STARTER_POLL_SECONDS)
        raise DurableUnavailableError

    async def _accept(self, run: RunInput, *, is_new: bool) -> str | None:
        if not is_new and not await self.handler.runs(run.conversation_id):
            # Without what expired before, the conversation's stream would seem to begin with this run.
            await restore_stream(self.handler, self.client, self.agents, run.conversation_id, None)
        return await self.handler.accept_run(run.conversation_id, run.correlation_id, run.agent)

    async def _start_claimed(self, run: RunInput, claim: str) -> None:
        try:
            await durable_call(
                self.client.start_new(ORCHESTRATION, instance_id=run.correlation_id, client_input=run.model_dump())
            )
        except DurableUnavailableError:
            if not await self._has_started(run):
                await self.handler.withdraw_run(run.conversation_id, run.correlation_id, claim)
                raise

    async def _has_started(self, run: RunInput) -> bool:
        try:
            return await read_run(self.client, run.correlation_id) is not None
        except DurableUnavailableError:
            return False

    def _run(self, agent: str, request: RunRequest, correlation_id: str, conversation_id: str) -> RunInput:
        return RunInput(
            agent=agent,
            conversation_id=conversation_id,
            correlation_id=correlation_id,
            message=request.message,
            timeout_seconds=self.timeout_seconds,
        )


def run_of_key(agent: str, key: str) -> str:
    """Return the correlation_id of the run that an agent's idempotency key names."""
    return str(uuid.uuid5(_KEYS, f"{agent} {key}"))
