import contextlib
import json
import math
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

import azure.durable_functions as df
import pytest

from agentstream.http.observed import observed
from agentstream.model import FIRST_CURSOR, Chunk, Event, StreamLostError, UnknownRunError
from agentstream.runs.committed import CommittedState
from agentstream.runs.follower import Follower
from agentstream.runs.recovery import Recovery, Sources
from agentstream.stream.handler import RedisStreamHandler
from tests.recorded import Recorded, recording
from tests.redis_process import free_port


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.fixture
def follower(handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> Follower:
    """A follower of one run, with a durable runtime that does not answer."""
    address = {"rpcBaseUrl": f"http://127.0.0.1:{free_port()}/", "taskHubName": "", "creationUrls": {}}
    client = df.DurableOrchestrationClient(json.dumps(address | {"managementUrls": {}}))
    return Follower(
        Sources(handler, CommittedState(client, [])),
        Recovery(interval_seconds=60),
        conversation_id,
        cursor=FIRST_CURSOR,
        correlation_id=correlation_id,
        include=frozenset(),
        waits=True,
        heartbeat_seconds=0.05,
        deadline=math.inf,
    )


@pytest.fixture
async def attempt(handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> int:
    """An attempt that has streamed two chunks."""
    await handler.accept_run(conversation_id, correlation_id, "A")
    _, attempt = await handler.begin_attempt(conversation_id, correlation_id)
    await handler.append(conversation_id, correlation_id, attempt, 0, [Chunk("a", 0), Chunk("b", 0)])
    return attempt


def told(recorded: Recorded) -> tuple[object, ...]:
    """Return what the follower's span says: how many events, whether resumed, why it ended."""
    attributes = recorded.span("follow stream").attributes or {}
    return tuple(attributes[f"agentstream.follower.{name}"] for name in ("events", "resumed", "end"))


async def followed(follower: Follower) -> AsyncGenerator[list[Event], None]:
    with observed(follower) as tell:
        async with contextlib.aclosing(follower.batches()) as batches:
            async for events in batches:
                tell(events)
                yield events


async def read(follower: Follower) -> None:
    async for _ in followed(follower):
        pass


@pytest.mark.usefixtures("attempt")
class TestEnd:
    async def test_terminal(
        self, recorded: Recorded, follower: Follower, handler: RedisStreamHandler, correlation_id: str
    ) -> None:
        await handler.write_completion(follower.conversation_id, correlation_id=correlation_id)

        await read(follower)

        assert told(recorded) == (3, False, "terminal")
        span = recorded.span("follow stream")
        assert (span.attributes or {})["agentstream.run.id"] == correlation_id

    async def test_a_client_that_leaves_right_after_the_end_has_not_left(
        self, recorded: Recorded, follower: Follower, handler: RedisStreamHandler, correlation_id: str
    ) -> None:
        await handler.write_completion(follower.conversation_id, correlation_id=correlation_id)
        batches = followed(follower)
        await anext(batches)

        await batches.aclose()

        assert told(recorded) == (3, False, "terminal")

    async def test_deadline(self, recorded: Recorded, follower: Follower) -> None:
        await read(replace(follower, deadline=time.monotonic() + 0.2))

        assert told(recorded) == (2, False, "deadline")

    async def test_caught_up(self, recorded: Recorded, follower: Follower) -> None:
        await read(replace(follower, waits=False))

        assert told(recorded) == (2, False, "caught_up")

    async def test_client_left(self, recorded: Recorded, follower: Follower) -> None:
        batches = followed(follower)
        events = await anext(batches)

        await batches.aclose()

        assert told(recorded) == (len(events), False, "client_left")

    async def test_expired(self, recorded: Recorded, follower: Follower, redis: object) -> None:
        batches = followed(follower)
        await anext(batches)

        await redis.delete(f"agent-stream:{follower.conversation_id}")  # type: ignore[attr-defined]
        with pytest.raises(StreamLostError):
            async for _ in batches:
                pass

        assert told(recorded) == (2, False, "expired")

    async def test_resumed(self, recorded: Recorded, follower: Follower) -> None:
        (first, *_), *_ = [batch async for batch in followed(replace(follower, waits=False))]
        await read(replace(follower, waits=False, cursor=first.id))

        resumed = recorded.spans[-1].attributes or {}
        assert (resumed["agentstream.follower.events"], resumed["agentstream.follower.resumed"]) == (1, True)

    async def test_resumed_by_a_frame(self, recorded: Recorded, follower: Follower) -> None:
        await read(replace(follower, waits=False, held="1-0"))

        assert told(recorded)[1] is True


async def test_an_error_that_is_told_to_the_client_is_told_here(recorded: Recorded, follower: Follower) -> None:
    with contextlib.suppress(Exception):
        await read(follower)

    span = recorded.span("follow stream")
    assert told(recorded) == (0, False, "error")
    assert (span.attributes or {})["error.type"] == "DurableUnavailableError"


async def test_what_nobody_knows_is_no_error(
    recorded: Recorded, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def knows_nothing(*_: object) -> bool:
        return False

    monkeypatch.setattr(follower.recovery, "restore", knows_nothing)

    with pytest.raises(UnknownRunError):
        await read(follower)

    assert told(recorded) == (0, False, "unknown")
