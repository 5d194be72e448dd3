"""A handler that reaches Redis through a proxy."""

from pydantic import SecretStr

from agentstream.settings import Settings
from agentstream.stream.clients import create_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from tests.proxy import Proxy


def handler_through(proxy: Proxy, settings: Settings) -> RedisStreamHandler:
    """Return a new handler, to be closed by the caller."""
    url = SecretStr(f"redis://127.0.0.1:{proxy.port}")
    return create_stream_handler(settings.model_copy(update={"redis_connection_string": url}))
