"""``RedisStreamCallback``, where those who know Microsoft's sample look for it."""

from agentstream import RedisStreamCallback

__all__ = ["RedisStreamCallback"]
