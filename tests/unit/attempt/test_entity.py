"""What operators see of an entity's operations."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from agent_framework_durabletask import RunRequest

from agentstream import telemetry
from agentstream.attempt.entity import Entity
from agentstream.model import RunKey
from agentstream.stream.handler import RedisStreamHandler
from tests.chat_clients import Script, says, scripted_agent
from tests.recorded import Recorded, recording

OPEN = "agentstream.run.open"


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.fixture
async def run(handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> RunKey:
    accepted = await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")
    assert accepted is not None
    return RunKey(conversation_id, correlation_id, accepted.created)


async def execute(run: RunKey, script: Script) -> None:
    agent, _ = scripted_agent(script)
    request = RunRequest("Plan a trip", run.correlation_id, options=run.options()).to_dict()
    operation = {"name": "run", "input": json.dumps(json.dumps(request)), "isSignal": False}
    batch = {"self": {"name": "dafx-a", "key": run.conversation_id}, "state": None, "batch": [operation]}
    await Entity(agent, asyncio.Semaphore(), fallback=False).execute(json.dumps(batch))


async def test_an_attempt_is_a_span_with_its_number_its_outcome_and_its_first_text(
    recorded: Recorded, run: RunKey
) -> None:
    await execute(run, says("", "Day 1"))

    attributes = recorded.span("execute run").attributes or {}
    assert attributes["agentstream.run.id"] == run.correlation_id
    assert attributes["agentstream.run.outcome"] == "answered"
    assert int(str(attributes["agentstream.run.attempt"])) >= run.created
    # By another clock than that of Redis, but on the same machine.
    assert 0 <= float(str(attributes["agentstream.run.time_to_first_chunk"])) < 60


async def test_an_owner_is_in_no_span_but_a_hash_is(recorded: Recorded, run: RunKey) -> None:
    await execute(replace(run, owner="8b3f-alice"), says("Day 1"))

    span = recorded.span("execute run")
    assert (span.attributes or {})["user.hash"] == telemetry.owner_hash("8b3f-alice")
    assert not [each.name for each in recorded.spans if "alice" in each.to_json()]


async def test_a_run_whose_model_fails_has_failed(recorded: Recorded, run: RunKey) -> None:
    async def fails() -> AsyncIterator[str]:
        yield "so far"
        raise ConnectionError("the model is down")

    await execute(run, fails)

    assert (recorded.span("execute run").attributes or {})["agentstream.run.outcome"] == "failed"


async def test_a_run_is_open_while_it_is_executed(recorded: Recorded, run: RunKey) -> None:
    meanwhile = []

    async def script() -> AsyncIterator[str]:
        meanwhile.append(recorded.metric(OPEN))
        yield "Day 1"

    await execute(run, script)

    assert meanwhile == [{(): 1}]
    assert recorded.metric(OPEN) == {}


@pytest.mark.parametrize(("text", "warned"), [("é" * 300, False), ("é" * 1000, True)])
async def test_a_memory_that_grows_too_large_is_warned_of_in_bytes(
    recorded: Recorded,
    run: RunKey,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    warned: bool,
) -> None:
    # Of characters, both have fewer.
    monkeypatch.setattr(telemetry, "LARGE_MEMORY_BYTES", 2500)
    with caplog.at_level(logging.WARNING):
        await execute(run, says(text))

    warnings = [record.getMessage() for record in caplog.records if "its memory has grown" in record.getMessage()]
    assert [message.startswith(f"conversation {run.conversation_id}: ") for message in warnings] == [True] * warned
    (size,) = recorded.metric("agentstream.conversation.size").values()
    assert (size > 2500) is warned
