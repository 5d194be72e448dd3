"""``RedisStreamHandler``, where those who know Microsoft's sample look for it."""

from agentstream import RedisStreamHandler, get_stream_handler

__all__ = ["RedisStreamHandler", "get_stream_handler"]
