"""Parsing of the requests of chat clients, which send a history of their own with each message."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from azurefunctions.extensions.http.fastapi import Request

from agentstream.http.requests import bad_request, parse_id, parse_json, parse_message
from agentstream.model import RunRequest
from agentstream.wire.ag_ui import VERSION
from agentstream.wire.frames import NOWHERE, Position

# A history that is longer is no use to anybody: only its newest message is read.
MAX_HISTORY_BYTES = 2 * 1024 * 1024
TOOLS_ARE_OURS = "Tools of the client are not supported: the agent has its own."
MEMORY_IS_OURS = (
    "The conversation's memory is kept here, and only a new message of the user's is taken from the history."
)


class RunAgentInput(NamedTuple):
    """What an AG-UI client asks for (https://docs.ag-ui.com/concepts/agents). One that only joins has no message."""

    thread_id: str
    run_id: str
    speaks_1_0: bool
    message: str

    @property
    def request(self) -> RunRequest:
        """The run to start: the same one for the same ids."""
        return RunRequest(self.message, self.thread_id, False, run_key(self.thread_id, self.run_id))


class ChatRequest(NamedTuple):
    """What ``useChat`` of the AI SDK asks for; ``agent`` is None where it names none."""

    agent: str | None
    request: RunRequest


def run_key(thread_id: str, run_id: str) -> str:
    """Return the idempotency key of an AG-UI client's run. No key of a header has a space in it."""
    return f"agui {thread_id} {run_id}"


async def parse_run_agent_input(request: Request, max_message_bytes: int, *, joins: bool = False) -> RunAgentInput:
    """Read a ``RunAgentInput``.

    Args:
        request: The request.
        max_message_bytes: What a message may have.
        joins: Whether it starts no run, so that its messages and tools are of no interest.

    Raises:
        ProblemError: 400, 413 or 415, as the API's contract says.
    """
    body = await parse_json(request, MAX_HISTORY_BYTES)
    thread_id, run_id = (parse_id(name, _text(body, name)) for name in ("threadId", "runId"))
    message = ""
    if not joins:
        _refuse(body, "tools", TOOLS_ARE_OURS)
        _refuse(body, "resume", "Interrupts are not supported, so there is nothing to resume.")
        message = parse_message(_content(_newest_message(body).get("content")), max_message_bytes)
    return RunAgentInput(thread_id, run_id, body.get("protocolVersion") == VERSION, message)


async def parse_chat_request(request: Request, max_message_bytes: int) -> ChatRequest:
    """Read what the AI SDK's transport sends: the same run for the same message.

    Raises:
        ProblemError: 400, 413 or 415, as the API's contract says.
    """
    body = await parse_json(request, MAX_HISTORY_BYTES)
    conversation_id = parse_id("id", _text(body, "id"))
    if body.get("trigger", "submit-message") != "submit-message" or body.get("messageId") is not None:
        raise bad_request(f"Messages cannot be edited or answered again. {MEMORY_IS_OURS}")
    _refuse(body, "tools", TOOLS_ARE_OURS)
    newest = _newest_message(body)
    message_id = parse_id("messages[].id", _text(newest, "id"))
    message = parse_message(_content(newest.get("parts")), max_message_bytes)
    agent = request.query_params.get("agent", body.get("agent"))
    key = f"chat {conversation_id} {message_id}"
    return ChatRequest(None if agent is None else str(agent), RunRequest(message, conversation_id, False, key))


def parse_resume_position(request: Request) -> Position:
    """Return where to resume: what ``Last-Event-ID`` or ``cursor`` names, a frame or an entry."""
    frame_id = request.headers.get("last-event-id") or request.query_params.get("cursor")
    try:
        return Position.parse(frame_id) if frame_id else NOWHERE
    except ValueError:
        detail = "The Last-Event-ID is not valid: send the id of an event, such as 1734649123456-0.0."
        raise bad_request(detail) from None


def _newest_message(body: Mapping[str, Any]) -> Mapping[str, Any]:
    messages = body.get("messages")
    newest = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(newest, dict) or newest.get("role") != "user":
        raise bad_request(f"The last of the messages is not the user's. {MEMORY_IS_OURS}")
    return newest


def _content(content: Any) -> Any:
    """Return the text of a message's content, which is text itself or a list of parts."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(content):
        raise bad_request("Only text is supported: leave out images, files and all other parts of the message.")
    return "\n".join(text if isinstance(text, str) else "" for text in texts)


def _refuse(body: Mapping[str, Any], name: str, detail: str) -> None:
    if body.get(name):
        raise bad_request(f"{detail} Leave out {name}.")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""
