"""Whose run it is: known to the agent's tools and memory."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationContext,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
)

from agentstream.model import RunKey
from agentstream.stream.handler import RedisStreamHandler
from tests.chat_clients import says, scripted_agent
from tests.unit.attempt.test_attempt import EntityRun, text_of


class AsksWhoItIs(FunctionInvocationLayer[Any], BaseChatClient[Any]):
    """A model that calls ``whoami`` and says what it was told."""

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> ResponseStream[ChatResponseUpdate, ChatResponse]:
        return ResponseStream(self._updates(messages), finalizer=ChatResponse.from_updates)

    async def _updates(self, messages: Sequence[Message]) -> AsyncIterator[ChatResponseUpdate]:
        results = [content for content in messages[-1].contents if content.type == "function_result"]
        content = (
            Content.from_text(f"You are {results[0].result}.")
            if results
            else Content.from_function_call("call", "whoami", arguments="{}")
        )
        yield ChatResponseUpdate(contents=[content], role="assistant")


def whoami(context: FunctionInvocationContext) -> str:
    """Tell who asks."""
    return str(context.kwargs["owner"])


async def entity_run(handler: RedisStreamHandler, conversation_id: str, owner: str | None) -> EntityRun:
    accepted = await handler.accept_run(conversation_id, "r", "TravelPlanner", owner=owner)
    assert accepted is not None
    return EntityRun(handler, RunKey(conversation_id, "r", accepted.created, owner))


async def test_a_tool_finds_out_whose_run_it_is(handler: RedisStreamHandler, conversation_id: str) -> None:
    run = await entity_run(handler, conversation_id, "alice")

    answer = await run.answer(Agent(AsksWhoItIs(), "Ask.", name="TravelPlanner", tools=[whoami]))

    assert "You are alice." in answer


async def test_a_memory_answers_its_owner_only(handler: RedisStreamHandler, conversation_id: str) -> None:
    run = await entity_run(handler, conversation_id, "alice")
    await run.answer(scripted_agent(says("secret of alice"))[0])
    assert run.memory.owner == "alice"
    run.key = replace(run.key, correlation_id="another", owner="bob")
    agent, model = scripted_agent(says("hello"))

    answered, state = await run.execute(agent)

    assert answered == {"status": "not_started"}
    assert state == run.state
    assert model.streaming_calls == 0


async def test_without_users_a_memory_has_no_owner(handler: RedisStreamHandler, conversation_id: str) -> None:
    run = await entity_run(handler, conversation_id, None)
    answered, run.state = await run.execute(scripted_agent(says("hello"))[0])

    assert text_of(answered) == "hello"
    assert run.memory.owner is None


async def test_a_reset_memory_is_its_owners_still(handler: RedisStreamHandler, conversation_id: str) -> None:
    run = await entity_run(handler, conversation_id, "alice")
    await run.answer(scripted_agent(says("hello"))[0])
    memory = run.memory

    memory.reset()

    assert (memory.owner, memory.entries) == ("alice", [])
