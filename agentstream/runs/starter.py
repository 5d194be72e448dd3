"""Accepts a run: registers it in Redis, then starts its orchestration, once however often it is asked to."""

import asyncio
import contextlib
import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass

from redis.exceptions import RedisError

from agentstream import telemetry
from agentstream.model import (
    Acceptance,
    DurableUnavailableError,
    KeyReusedError,
    PerhapsStartedError,
    RunInput,
    RunRequest,
    UnknownRunError,
)
from agentstream.runs.recovery import Recovery, Sources
from agentstream.stream.handler import START_CLAIM_MS

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
        both: Redis and the durable runtime.
        recovery: What the requests of the process share.
        timeout_seconds: When the run timer ends a run.
        owner: Whose the runs are, None where nobody signs in.
    """

    both: Sources
    recovery: Recovery
    timeout_seconds: float
    owner: str | None = None

    async def start(self, agent: str, request: RunRequest) -> RunInput:
        """Start the requested run, unless its idempotency key has started it before.

        Returns:
            The run.

        Raises:
            KeyReusedError: The key has started another run.
            UnknownRunError: The conversation is another owner's.
            BeingErasedError: The conversation is being erased.
            RedisError: Redis did not answer, and the run is not started.
            DurableUnavailableError: The durable runtime did not, and the run does nothing even if it starts later.
            PerhapsStartedError: Neither of them answered in the end.
        """
        if request.conversation_id is not None and self.owner is not None:
            known = await self.recovery.owner(self.both, request.conversation_id)
            if known not in (None, self.owner):
                raise UnknownRunError(request.conversation_id)
        if request.idempotency_key is None:
            run = self._run(agent, request, str(uuid.uuid4()), request.conversation_id or str(uuid.uuid4()))
            accepted = await self._accept(run, is_new=request.conversation_id is None)
            return run if accepted is None else await self._start_accepted(run, accepted)
        return await self._start_once(agent, request, request.idempotency_key)

    async def _start_once(self, agent: str, request: RunRequest, key: str) -> RunInput:
        # The id follows from the key, so the durable state knows the key for as long as it knows the run.
        correlation_id = run_of_key(agent, key, self.owner)
        fingerprint = fingerprint_of(request)
        deadline = time.monotonic() + OTHER_STARTER_SECONDS
        while time.monotonic() < deadline:
            if (started := await self._started(correlation_id)) is not None:
                return _same(started, fingerprint)
            named = f"{request.conversation_id or uuid.uuid4()} {fingerprint}"
            conversation_id, _, known_fingerprint = (
                await self.both.stream.claim_key(correlation_id, named, KEY_TTL_SECONDS)
            ).partition(" ")
            run = self._run(agent, request, correlation_id, conversation_id, fingerprint)
            _same(run, known_fingerprint)
            accepted = await self._accept(run, is_new=request.conversation_id is None)
            if accepted is not None:
                return await self._start_claimed(run, accepted)
            await asyncio.sleep(OTHER_STARTER_POLL_SECONDS)
        raise DurableUnavailableError

    async def _started(self, correlation_id: str) -> RunInput | None:
        run = await self.both.committed.run(correlation_id)
        # One that did nothing may be started again.
        return None if run is None or (run.result and run.result.code == "not_started") else run.input

    async def _start_claimed(self, run: RunInput, accepted: Acceptance) -> RunInput:
        # With the claim in hand it is looked up once more: starting a finished orchestration would run it again.
        try:
            started = await self._started(run.correlation_id)
        except DurableUnavailableError as error:
            await self._withdraw(run, accepted, error)
            raise
        return await self._start_accepted(run, accepted) if started is None else _same(started, run.fingerprint)

    async def _accept(self, run: RunInput, *, is_new: bool) -> Acceptance | None:
        if not is_new and not await self.both.stream.runs(run.conversation_id):
            # Without what expired before, the conversation's stream would seem to begin with this run.
            await self.recovery.restore(self.both, run.conversation_id, None)
        claim = secrets.token_hex(8)
        try:
            return await self.both.stream.accept_run(
                run.conversation_id, run.correlation_id, run.agent, claim, run.owner
            )
        except RedisError:
            # It may have been registered all the same, and is not to be told of as a run that was never started.
            with contextlib.suppress(RedisError):
                await self.both.stream.withdraw_run(run.conversation_id, run.correlation_id, claim)
            raise

    async def _start_accepted(self, run: RunInput, accepted: Acceptance) -> RunInput:
        run = run.model_copy(update={"created": accepted.created})
        try:
            await self.both.committed.start(run)
        except DurableUnavailableError as error:
            if not await self.both.committed.has_started(run.correlation_id):
                await self._withdraw(run, accepted, error)
                raise
        # It is told again at the run's end.
        with contextlib.suppress(DurableUnavailableError):
            await self.both.committed.list_run(run)
        return run

    async def _withdraw(self, run: RunInput, accepted: Acceptance, error: DurableUnavailableError) -> None:
        try:
            await self.both.stream.withdraw_run(run.conversation_id, run.correlation_id, accepted.claim)
        except RedisError:
            raise PerhapsStartedError from error

    def _run(
        self, agent: str, request: RunRequest, correlation_id: str, conversation_id: str, fingerprint: str | None = None
    ) -> RunInput:
        return RunInput(
            agent=agent,
            conversation_id=conversation_id,
            correlation_id=correlation_id,
            message=request.message,
            timeout_seconds=self.timeout_seconds,
            fingerprint=fingerprint,
            owner=self.owner,
            traceparent=telemetry.traceparent(),
        )


def run_of_key(agent: str, key: str, owner: str | None) -> str:
    """Return the correlation_id of the run that an owner's idempotency key for an agent names."""
    # A name of an agent's or a key has no line break.
    return str(uuid.uuid5(_KEYS, f"{agent} {key}" if owner is None else f"{agent} {key}\n{owner}"))


def fingerprint_of(request: RunRequest) -> str:
    """Return what tells the requests of one key apart
    (https://www.ietf.org/archive/id/draft-ietf-httpapi-idempotency-key-header-07.html, section 2.4)."""
    return hashlib.sha256(f"{request.conversation_id or ''}\n{request.message}".encode()).hexdigest()


def _same(run: RunInput, fingerprint: str | None) -> RunInput:
    if run.fingerprint != fingerprint:
        raise KeyReusedError
    return run
