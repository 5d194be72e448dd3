"""What the routes share: to reach the runs, to start one, and to follow one within the bounds of this process."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from http import HTTPStatus

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import Request

from agentstream import telemetry
from agentstream.http.observed import observed
from agentstream.http.owners import owner_of
from agentstream.http.problems import TRY_AGAIN, ProblemError, not_now
from agentstream.http.turns import Turns
from agentstream.model import (
    FIRST_CURSOR,
    BeingErasedError,
    DurableUnavailableError,
    Event,
    KeyReusedError,
    PerhapsStartedError,
    RunInput,
    RunRequest,
    UnknownRunError,
)
from agentstream.runs.committed import CommittedState
from agentstream.runs.follower import Follower
from agentstream.runs.handles import ConversationHandle, Runs
from agentstream.runs.recovery import Recovery, Sources
from agentstream.runs.shared_calls import SharedCalls
from agentstream.settings import Settings
from agentstream.stream.clients import GetStream

# To start a run takes a few round trips to Redis and to the durable runtime; more of them at a time do not take less.
STARTS_AT_ONCE = 16
STARTS_WAITING = 1_000
START_WAIT_SECONDS = 5.0
# For the health check, a Redis that takes longer is not available.
PING_SECONDS = 2.0

logger = telemetry.logger(__name__)


class Service:
    """The runs of one process, and what its requests may take of it.

    Args:
        settings: The app's settings.
        agents: The names of the agents that can be run.
        get_stream: Returns the stream handler of the running event loop.
        prefix: What the paths of all routes begin with, such as ``/api``.
    """

    def __init__(self, settings: Settings, agents: Sequence[str], get_stream: GetStream, prefix: str) -> None:
        self.settings = settings
        self.agents = list(agents)
        self.get_stream = get_stream
        self.prefix = prefix
        self._followers = 0
        self._starts = Turns(STARTS_AT_ONCE, STARTS_WAITING, START_WAIT_SECONDS)
        self._recovery = Recovery(settings.heartbeat_seconds)
        self._pings = SharedCalls()

    @property
    def signs_in(self) -> bool:
        """Whether users sign in, and know of their own conversations only."""
        return self.settings.auth == "easy_auth"

    async def runs(self, request: Request, client: df.DurableOrchestrationClient) -> Runs:
        """Return the runs and conversations that a request may know of, and that its durable client reaches.

        Raises:
            ProblemError: 401, nobody is signed in where users do.
        """
        owner = owner_of(request) if self.signs_in else None
        committed = CommittedState(client, self.agents, self.settings.max_tool_result_bytes)
        both = Sources(await self.get_stream(), committed)
        return Runs(both, self._recovery, self.settings.run_timeout_seconds, self.settings.heartbeat_seconds, owner)

    def known_agent(self, name: str) -> str:
        """Return the agent's name.

        Raises:
            ProblemError: 404, there is none of this name.
        """
        if name not in self.agents:
            known = ", ".join(self.agents)
            raise ProblemError(HTTPStatus.NOT_FOUND, f"There is no agent of this name. The agents are: {known}.")
        return name

    async def start(self, runs: Runs, agent: str, request: RunRequest) -> RunInput:
        """Start a run, in turn.

        Raises:
            ProblemError: 409, 422 or 503, as the API's contract says.
        """
        async with self._starts.take():
            with telemetry.run_span("accept run", {}) as span:
                run = await _started(runs, agent, request)
                span.set_attributes(telemetry.run_ids(run.conversation_id, run.correlation_id, agent, run.owner))
            return run

    def refuse_when_busy(self) -> None:
        """Refuse a run that has no prospect of being started soon, before anything is done for it.

        Raises:
            OverloadedError: Too many wait, or take too long.
        """
        self._starts.check()

    async def redis_latency_ms(self) -> float:
        """Return how long Redis takes to answer: asked once for all who ask at the same time.

        Raises:
            RedisError: It does not answer.
            TimeoutError: It has not in ``PING_SECONDS``.
        """

        async def ping() -> float:
            async with asyncio.timeout(PING_SECONDS):
                return await (await self.get_stream()).ping()

        return await self._pings.call("ping", ping)

    @property
    def is_full(self) -> bool:
        """Whether as many follow as may."""
        return self._followers >= self.settings.stream_max_followers

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count a follower for as long as the block runs."""
        self._followers += 1
        telemetry.followers.add(1)
        try:
            yield
        finally:
            self._followers -= 1
            telemetry.followers.add(-1)

    def refuse_when_full(self) -> None:
        """Refuse a follower beyond those that are served at a time.

        Raises:
            ProblemError: 503.
        """
        if self.is_full:
            raise not_now(f"Too many followers are connected. {TRY_AGAIN}")

    def follow_run(self, conversation: ConversationHandle, correlation_id: str, held: str) -> Follower:
        """Return a follower of a run from its beginning, which has had its entries up to this one before."""
        return conversation.follow(
            cursor=FIRST_CURSOR,
            correlation_id=correlation_id,
            waits=True,
            seconds=self.settings.stream_max_seconds,
            held=held,
        )

    async def batches(self, follower: Follower) -> AsyncGenerator[list[Event], None]:
        """Yield the follower's batches, and count it meanwhile.

        Raises:
            ProblemError: 404, nobody knows what to follow; 503, there are too many followers.
            StreamLostError: Redis has lost the stream meanwhile.
        """
        self.refuse_when_full()
        with self.counting():
            try:
                with observed(follower) as tell:
                    async with contextlib.aclosing(follower.batches()) as batches:
                        async for events in batches:
                            tell(events)
                            yield events
            except UnknownRunError:
                what = "conversation" if follower.correlation_id is None else "run in this conversation"
                detail = f"There is no such {what}. Start one with POST run."
                raise ProblemError(HTTPStatus.NOT_FOUND, detail) from None


async def _started(runs: Runs, agent: str, request: RunRequest) -> RunInput:
    try:
        return await runs.start(agent, request)
    except KeyReusedError:
        detail = (
            "This Idempotency-Key, or this id of a run or message, was used for another message or conversation. "
            "Send a new one."
        )
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail) from None
    except BeingErasedError:
        detail = "This conversation is being deleted. Send the message again in a moment."
        raise ProblemError(HTTPStatus.CONFLICT, detail, {"Retry-After": "1"}) from None
    except DurableUnavailableError as error:
        logger.warning("a run was not started: the durable runtime does not answer: %r", error.__cause__)
        raise not_now("The durable runtime does not answer, and nothing was run. Send the message again.") from None
    except PerhapsStartedError:
        detail = (
            "The durable runtime and Redis do not answer, and the run may have started or not. "
            "With an Idempotency-Key, or the same id of a run or message, send it again: it is then run once."
        )
        raise not_now(detail) from None
