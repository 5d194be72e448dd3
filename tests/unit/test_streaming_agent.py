import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from agent_framework import AgentResponse
from agent_framework_durabletask import RunRequest

from callbacks import RedisStreamCallback, answer_text
from redis_stream_handler import RedisStreamHandler, RunStatus
from streaming_agent import StreamingAgent, streamed_request
from tests.chat_clients import Script, says, scripted_agent
from tests.entities import MemoryState, run_entity


class Run:
    """One run of a scripted agent, as the entity runs it."""

    def __init__(self, handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> None:
        self.handler = handler
        self.conversation_id = conversation_id
        self.correlation_id = correlation_id
        self.state = MemoryState(conversation_id)

    async def answer(self, agent: Any, *, fallback: bool = True) -> AgentResponse:
        request = streamed_request("Plan a trip", self.conversation_id, self.correlation_id, datetime.now(UTC))
        streaming = StreamingAgent(agent, fallback=fallback)
        return await run_entity(streaming, RedisStreamCallback(), request, self.state)

    async def events(self) -> list[tuple[str, str]]:
        batches = self.handler.read_stream(self.conversation_id, follow=False)
        return [(event.event, event.text) async for batch in batches for event in batch]


@pytest.fixture
async def run(handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> Run:
    await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")
    return Run(handler, conversation_id, correlation_id)


def endless(said: asyncio.Event) -> Script:
    async def script() -> AsyncIterator[str]:
        yield "so "
        yield "far"
        said.set()
        await asyncio.Event().wait()

    return script


def failing(*texts: str) -> Script:
    async def script() -> AsyncIterator[str]:
        for text in texts:
            yield text
        raise ConnectionError("the model is down")

    return script


async def test_what_streams_is_the_answer_that_is_committed(run: Run) -> None:
    agent, model = scripted_agent(says("Day 1:", " arrive\n", "", "Day 2"))

    response = await run.answer(agent)

    assert answer_text(response) == "Day 1: arrive\nDay 2"
    assert "".join(text for event, text in await run.events() if event == "message") == "Day 1: arrive\nDay 2"
    assert (model.streaming_calls, model.other_calls) == (1, 0)


async def test_a_cancelled_run_stops_the_model_and_commits_the_partial_answer(run: Run) -> None:
    said = asyncio.Event()
    agent, model = scripted_agent(endless(said))
    answering = asyncio.create_task(run.answer(agent))
    await said.wait()

    await run.handler.cancel_run(run.conversation_id, run.correlation_id)

    async with asyncio.timeout(5):
        response = await answering
    assert answer_text(response) == "so far"
    assert model.other_calls == 0
    [_, committed] = run.state.committed["data"]["conversationHistory"]
    assert committed["messages"][0]["contents"] == [{"$type": "text", "text": "so far"}]


async def test_a_run_cancelled_while_queued_never_calls_the_model(run: Run) -> None:
    agent, model = scripted_agent(says("never"))
    await run.handler.cancel_run(run.conversation_id, run.correlation_id)

    response = await run.answer(agent)

    assert answer_text(response) == ""
    assert (model.streaming_calls, model.other_calls) == (0, 0)


async def test_a_newer_attempt_stops_the_model_of_the_older_one(run: Run) -> None:
    said = asyncio.Event()
    agent, _ = scripted_agent(endless(said))
    zombie = asyncio.create_task(run.answer(agent))
    await said.wait()

    newest, _ = scripted_agent(says("the ", "answer"))
    await run.answer(newest)

    async with asyncio.timeout(5):
        await zombie
    await run.handler.write_completion(run.conversation_id, correlation_id=run.correlation_id, answer="the answer")
    events = await run.events()
    reset = [event for event, _ in events].index("reset")
    assert events[reset + 1 :] == [("message", "the "), ("message", "answer"), ("done", "[DONE]")]


async def test_the_second_call_after_a_failed_stream_is_told_in_the_log_and_streams_its_answer(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    agent, model = scripted_agent(failing("Day ", "1"), once=lambda: "All days")

    with caplog.at_level(logging.WARNING, "streaming_agent"):
        response = await run.answer(agent)

    assert answer_text(response) == "All days"
    assert (model.streaming_calls, model.other_calls) == (1, 1)
    assert [record.getMessage() for record in caplog.records if run.correlation_id in record.getMessage()]
    status = await run.handler.write_completion(
        run.conversation_id, correlation_id=run.correlation_id, answer="All days"
    )
    assert status is RunStatus.COMPLETED
    events = await run.events()
    assert [event for event, _ in events if event == "reset"] == ["reset"]
    assert events[-2:] == [("message", "All days"), ("done", "[DONE]")]


async def test_the_second_call_can_be_turned_off(run: Run) -> None:
    agent, model = scripted_agent(failing("Day "), once=lambda: "never")

    response = await run.answer(agent, fallback=False)

    assert model.other_calls == 0
    [error] = response.messages[0].contents
    assert (error.type, error.message) == ("error", "the model is down")


async def test_a_second_call_can_be_cancelled_too(run: Run) -> None:
    called, never = asyncio.Event(), asyncio.Event()
    agent, model = scripted_agent(failing())

    async def hang() -> Any:
        called.set()
        await never.wait()

    model._answer = hang  # type: ignore[method-assign]
    answering = asyncio.create_task(run.answer(agent))
    await called.wait()

    await run.handler.cancel_run(run.conversation_id, run.correlation_id)

    async with asyncio.timeout(5):
        assert answer_text(await answering) == ""


async def test_a_timeout_of_the_models_own_is_an_error_not_a_cancellation(run: Run) -> None:
    async def script() -> AsyncIterator[str]:
        yield "a"
        raise TimeoutError("the model took too long")

    agent, _ = scripted_agent(script)

    response = await run.answer(agent, fallback=False)

    assert response.messages[0].contents[0].type == "error"


async def test_the_next_message_after_a_failure_and_a_cancellation_is_answered(run: Run) -> None:
    failed, _ = scripted_agent(failing("Day"))
    await run.answer(failed, fallback=False)
    await run.handler.write_completion(run.conversation_id, correlation_id=run.correlation_id, answer=None)
    run.correlation_id += "-next"

    agent, _ = scripted_agent(says("Fine."))

    assert answer_text(await run.answer(agent)) == "Fine."


async def test_a_call_without_a_run_is_passed_on(handler: RedisStreamHandler, conversation_id: str) -> None:
    agent, _ = scripted_agent(says("plain"), once=lambda: "once")
    streaming = StreamingAgent(agent, fallback=True)

    response = await run_entity(streaming, RedisStreamCallback(), RunRequest("Plan", "r"), MemoryState(conversation_id))

    assert answer_text(response) == "plain"
    assert answer_text(await streaming.run("Plan")) == "once"
    assert await handler.runs(conversation_id) == {}
