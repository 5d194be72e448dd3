"""Messages that tell the test model how to reply: a run's script travels in the message it sends."""

import json
from typing import Any

from tests.model_server import Reply, user_text


def script(**reply: Any) -> str:
    """Return a message to which the model replies like this (the arguments of ``Reply``)."""
    return json.dumps(reply)


def scripted_reply(messages: list[dict[str, Any]]) -> Reply:
    """Return the reply that the newest message asks for; after a tool's result, without calling it again."""
    reply = json.loads(user_text(messages))
    if messages[-1]["role"] == "tool":
        reply.pop("tool_calls", None)
    if "tool_calls" in reply:
        reply["tool_calls"] = tuple((name, arguments) for name, arguments in reply["tool_calls"])
    return Reply(**reply | {name: tuple(reply[name]) for name in ("chunks", "reasoning", "usage") if name in reply})
