"""What chat clients send, and how tests read the frames that they are answered."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

import httpx

from tests.event_stream import parse

AGUI_ROUTE = "/api/agui/TravelPlanner"
CHAT_ROUTE = "/api/chat"

Frame = tuple[str, Any]


def new_id() -> str:
    return str(uuid.uuid4())


def agui_input(message: str, **fields: Any) -> dict[str, Any]:
    """Return what ``HttpAgent`` of AG-UI sends to run a message."""
    return {
        "threadId": new_id(),
        "runId": new_id(),
        "protocolVersion": "1.0",
        "messages": [{"id": new_id(), "role": "user", "content": message}],
        "tools": [],
        "context": [],
        "state": {},
        "forwardedProps": {},
    } | fields


def chat_input(message: str, **fields: Any) -> dict[str, Any]:
    """Return what ``DefaultChatTransport`` of the AI SDK sends with a new message."""
    said = {"id": new_id(), "role": "user", "parts": [{"type": "text", "text": message}]}
    return {"id": new_id(), "messages": [said], "trigger": "submit-message"} | fields


def frames_of(response: httpx.Response) -> list[Frame]:
    """Return the frames of a stream: each with its id, and its data, JSON except for the last of the AI SDK's."""
    assert response.status_code == httpx.codes.OK, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.startswith("retry: 500\n")
    events = parse(response.content)
    assert {event.event for event in events} <= {"message"}
    return [(event.id, event.data if event.data == "[DONE]" else json.loads(event.data)) for event in events]


def data_of(frames: Sequence[Frame]) -> list[Any]:
    return [data for _, data in frames]
