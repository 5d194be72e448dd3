"""The JSON bodies of the HTTP API as types: what is answered with, and what its description is made of."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentstream.model import CommittedMessage, ListedConversation

ID_PATTERN = r"^(?!\.+$)[A-Za-z0-9._-]{1,128}$"
IDEMPOTENCY_KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"

# Only told of: pydantic's own patterns know no look-ahead.
Id = Annotated[str, Field(json_schema_extra={"pattern": ID_PATTERN})]


class Problem(BaseModel):
    """What is wrong with a request and what to do, for the person who sent it (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class _Ids(BaseModel):
    conversation_id: Id
    correlation_id: Id
    session_id: Annotated[Id, Field(description="The same as conversation_id.")]
    stream_url: str
    status_url: str


class Accepted(_Ids):
    """A run that is to be followed at ``stream_url``."""

    status: Literal["accepted"] = "accepted"
    response: Literal["Agent request accepted"] = "Agent request accepted"


class Answered(_Ids):
    """A run that has ended while its client waited."""

    status: Literal["success", "cancelled"]
    response: str


class Conversation(BaseModel):
    """The committed messages of a conversation, oldest first, with those of open runs."""

    conversation_id: Id
    messages: list[CommittedMessage]


class Conversations(BaseModel):
    """The conversations of the user who is signed in, newest first."""

    conversations: list[ListedConversation]


class AgentName(BaseModel):
    """An agent that can be run."""

    name: str


class RedisHealth(BaseModel):
    """Whether Redis answers, and how long it took in ms."""

    status: Literal["healthy", "unavailable"]
    latency_ms: float | None


class Health(BaseModel):
    """Whether the app and its Redis are alive."""

    status: Literal["healthy", "degraded"]
    agents: list[AgentName]
    redis: RedisHealth


# What the framework's own route takes, and its next version will, and ours does not: to ignore it would be to do
# something else than was asked for.
UNSUPPORTED_OPTIONS = (
    "role",
    "response_format",
    "enable_tool_calls",
    "request_response_format",
    "options",
    "waitForResponse",
    "correlationId",
)


class RunBody(BaseModel):
    """A message to an agent. ``session_id``, ``sessionId`` and ``thread_id`` are other names of ``conversation_id``."""

    # An option that is refused counts as absent where it is null.
    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema["properties"].update(
            {name: {"type": "null", "description": "Not supported."} for name in UNSUPPORTED_OPTIONS}
        )
    )

    message: Annotated[str, Field(pattern=r"\S")]
    conversation_id: Annotated[Id | None, Field(description="Without one, a new conversation begins.")] = None
    wait_for_response: Annotated[
        bool | Literal["true", "false", "1", "0", "yes", "no"] | None,
        Field(description="Whether to answer with the answer itself."),
    ] = None


class RunAgentBody(BaseModel):
    """``RunAgentInput`` of AG-UI. Of the messages the last is read, which has to be the user's and text."""

    threadId: Id  # noqa: N815 - the protocol's name
    runId: Id  # noqa: N815
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tools: Annotated[list[object] | None, Field(max_length=0, description="Not supported.")] = None
    resume: Annotated[None, Field(description="Not supported.")] = None
    protocolVersion: str | None = None  # noqa: N815


class ConnectBody(BaseModel):
    """``RunAgentInput`` of AG-UI, of which only the ids are read."""

    threadId: Id  # noqa: N815 - the protocol's name
    runId: Id  # noqa: N815
    protocolVersion: str | None = None  # noqa: N815


class ChatBody(BaseModel):
    """What the AI SDK's transport sends. Of the messages the last is read, which has to be the user's and text."""

    id: Id
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    trigger: Literal["submit-message"] = "submit-message"
    messageId: Annotated[None, Field(description="Not supported.")] = None  # noqa: N815
    tools: Annotated[list[object] | None, Field(max_length=0, description="Not supported.")] = None
    agent: Annotated[str | None, Field(description="The agent's name; the first one without it.")] = None
