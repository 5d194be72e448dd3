"""Long-running AI agents on Azure Functions whose answers stream live and survive every disconnect and crash.

The names below are the package's public face; each is imported when it is asked for, so that what does not need the
agent framework does not load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentstream.app import streaming_app, streaming_functions
    from agentstream.attempt.callback import RedisStreamCallback
    from agentstream.settings import Settings
    from agentstream.stream.clients import get_stream_handler
    from agentstream.stream.handler import RedisStreamHandler

__all__ = [
    "RedisStreamCallback",
    "RedisStreamHandler",
    "Settings",
    "get_stream_handler",
    "streaming_app",
    "streaming_functions",
]

_HOMES = {
    "RedisStreamCallback": "agentstream.attempt.callback",
    "RedisStreamHandler": "agentstream.stream.handler",
    "Settings": "agentstream.settings",
    "get_stream_handler": "agentstream.stream.clients",
    "streaming_app": "agentstream.app",
    "streaming_functions": "agentstream.app",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
