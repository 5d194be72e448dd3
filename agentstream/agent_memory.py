"""An agent's memory of a conversation: the state of its entity, and all else that is known of the framework's types.

The state has the framework's own format (``DurableAgentState``), so that the framework's entities and ours can take
over each other's conversations.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Self

from agent_framework import AgentResponse, Content, Message
from agent_framework_durabletask import (
    AgentEntityStateProviderMixin,
    DurableAgentState,
    DurableAgentStateEntry,
    DurableAgentStateFunctionCallContent,
    DurableAgentStateFunctionResultContent,
    DurableAgentStateRequest,
    DurableAgentStateResponse,
    DurableAgentStateTextContent,
    RunRequest,
)

from agentstream.stream.text import well_formed

# Under this name the state's extension data holds the time up to which the conversation was erased, in ms since the
# epoch.
ERASED = "erasedSince"
# And under this one whose the conversation is.
OWNER = "owner"
# What of a committed response a restored stream tells again. Reasoning is kept, but not in a form of its own.
REPEATED_CONTENTS = (
    DurableAgentStateTextContent,
    DurableAgentStateFunctionCallContent,
    DurableAgentStateFunctionResultContent,
)


class AgentMemory(AgentEntityStateProviderMixin):
    """What an agent remembers of a conversation.

    Args:
        state: The entity's state, None where there is none yet.
        conversation_id: The conversation, which is the entity's key.
    """

    def __init__(self, state: dict[str, Any] | None, conversation_id: str) -> None:
        self._conversation_id = conversation_id
        self.committed = state

    def copy(self) -> Self:
        """Return a memory of the same state that can be changed without changing this one."""
        # The state is parsed anew, and never changed in place.
        return type(self)(self.committed, self._conversation_id)

    @property
    def entries(self) -> list[DurableAgentStateEntry]:
        """What was said, oldest first."""
        return self.state.data.conversation_history

    @property
    def erased_since(self) -> int:
        """The time up to which the conversation was erased, in ms since the epoch; -1 where it never was."""
        return int((self.state.data.extension_data or {}).get(ERASED, -1))

    @property
    def owner(self) -> str | None:
        """Whose the conversation is, None where nobody signed in."""
        owner: str | None = (self.state.data.extension_data or {}).get(OWNER)
        return owner

    def give_to(self, owner: str | None) -> None:
        """Make the conversation this owner's, unless it is somebody's."""
        state = self.state
        if owner is not None and self.owner is None:
            state.data.extension_data = {**(state.data.extension_data or {}), OWNER: owner}
            self.state = state

    def response_to(self, correlation_id: str) -> AgentResponse | None:
        """Return the response that a run has committed, or None."""
        return self.state.try_get_agent_response(correlation_id)

    def remember(self, request: RunRequest, response: AgentResponse) -> None:
        """Commit a run's request and response."""
        self.entries.append(DurableAgentStateRequest.from_run_request(request))
        self.entries.append(DurableAgentStateResponse.from_run_response(request.correlation_id, response))
        self.persist_state()

    def reset(self) -> None:
        """Forget what was said, but not whose the conversation is, nor an erasure, or a run from before it could be
        remembered again."""
        since, owner = self.erased_since, self.owner
        super().reset()
        if since >= 0:
            self.erase(since)
        self.give_to(owner)

    def erase(self, since: int) -> None:
        """Forget everything, for good: a run that was accepted up to ``since`` is not remembered any more."""
        forgotten = DurableAgentState()
        forgotten.data.extension_data = {ERASED: since}
        self.state = forgotten

    def _get_state_dict(self) -> dict[str, Any]:
        return self.committed or {}

    def _set_state_dict(self, state: dict[str, Any]) -> None:
        self.committed = state

    def _get_session_id_from_entity(self) -> str:
        return self._conversation_id


def to_json(value: Any) -> str:
    """Return the value as JSON whose texts are well-formed Unicode, as a model's texts need not be."""
    return well_formed(json.dumps(value, ensure_ascii=False))


def answer_text(response: AgentResponse) -> str:
    """Return the response's text exactly as its updates streamed it.

    ``AgentResponse.text`` joins the text contents of one message with spaces.
    """
    return "".join(
        content.text or "" for message in response.messages for content in message.contents if content.type == "text"
    )


def response_contents(response: AgentResponse) -> list[Content]:
    """Return all contents of the response, as its updates would have streamed them."""
    usage = [Content.from_usage(response.usage_details)] if response.usage_details else []
    return [*(content for message in response.messages for content in message.contents), *usage]


def has_failed(response: AgentResponse) -> bool:
    """Return whether the response is an error, or no answer: nothing was said, or a content filter cut it off.

    An answer that the model's token limit cut off (``finish_reason`` ``length``) is an answer.
    """
    return bool(_errors(response.messages)) or response.finish_reason == "content_filter" or not answer_text(response)


def is_error(entry: DurableAgentStateResponse) -> bool:
    """Return whether a committed response is an error."""
    return bool(_errors(entry.messages))


def entry_text(entry: DurableAgentStateEntry) -> str:
    """Return the text of a committed request or response."""
    return "".join(message.text for message in entry.messages)


def entry_contents(entry: DurableAgentStateEntry) -> list[Content]:
    """Return the texts, tool calls and tool results of a committed request or response, in their order."""
    return [
        content.to_ai_content()
        for message in entry.messages
        for content in message.contents
        if isinstance(content, REPEATED_CONTENTS)
    ]


def text_response(text: str) -> AgentResponse:
    """Return a response that is this text alone."""
    return _response(Content.from_text(text))


def error_response(response: AgentResponse | None = None) -> AgentResponse:
    """Return a response that is an error: this one where it is, else one that stands in its place."""
    errors = _errors(response.messages) if response else []
    return _response(*errors or [Content.from_error(message="the model gave no answer", error_code="no_answer")])


def _errors(messages: Iterable[Any]) -> list[Any]:
    return [content for message in messages for content in message.contents if content.type == "error"]


def _response(*contents: Content) -> AgentResponse:
    message = Message(role="assistant", contents=list(contents))
    return AgentResponse(messages=[message], created_at=datetime.now(UTC).isoformat())
