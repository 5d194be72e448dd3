"""Chat clients for tests: the framework's own pipeline above them is the real one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
)

Script = Callable[[], AsyncIterator[str]]


class ScriptedChatClient(FunctionInvocationLayer[Any], BaseChatClient[Any]):
    """A model that streams what a script yields.

    Args:
        script: Called for each streaming call; what it yields is streamed, what it raises is the model's failure.
        once: Called for each call that does not stream; returns the answer.
    """

    def __init__(self, script: Script, once: Callable[[], str] | None = None) -> None:
        super().__init__()
        self._script = script
        self._once = once
        self.streaming_calls = 0
        self.other_calls = 0

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        if stream:
            self.streaming_calls += 1
            return ResponseStream(self._updates(), finalizer=ChatResponse.from_updates)
        self.other_calls += 1
        return self._answer()

    async def _updates(self) -> AsyncIterator[ChatResponseUpdate]:
        async for text in self._script():
            yield ChatResponseUpdate(contents=[Content.from_text(text)], role="assistant")

    async def _answer(self) -> ChatResponse:
        if self._once is None:
            raise ConnectionError("the model is down")
        return ChatResponse(messages=[Message(role="assistant", contents=[self._once()])])


def scripted_agent(script: Script, once: Callable[[], str] | None = None) -> tuple[Agent, ScriptedChatClient]:
    """Return an agent named TravelPlanner, and the model it talks to."""
    client = ScriptedChatClient(script, once)
    return Agent(client, "Plan.", name="TravelPlanner"), client


def says(*texts: str) -> Script:
    """A script that yields these texts, one per turn of the event loop."""

    async def script() -> AsyncIterator[str]:
        for text in texts:
            await asyncio.sleep(0)
            yield text

    return script
