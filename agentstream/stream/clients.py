"""The connections to Redis, and which handler belongs to whom."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

from agentstream.settings import Settings
from agentstream.stream.cluster_watcher import ClusterWatcher
from agentstream.stream.handler import Keys, RedisStreamHandler, decode_entry
from agentstream.stream.listening import ANSWER_SECONDS
from agentstream.stream.packing import pack_in_c
from agentstream.stream.watcher import StreamWatcher

GetStream = Callable[[], Awaitable[RedisStreamHandler]]


class Streams:
    """The handlers of one configuration: one for each event loop, since an asyncio client belongs to the loop that made
    it, and the agents run on a loop of their own.

    Args:
        settings: The configuration; None to read it from the environment when a loop asks for the first time.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._handlers: WeakKeyDictionary[asyncio.AbstractEventLoop, RedisStreamHandler] = WeakKeyDictionary()

    async def get(self) -> RedisStreamHandler:
        """Return the running event loop's handler.

        Use it as ``async with await streams.get() as handler:``; leaving the block closes nothing.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._handlers:
            self._handlers[loop] = create_stream_handler(self._settings or Settings.load())
        return self._handlers[loop]


_default = Streams()


def make_default(streams: Streams) -> None:
    """Let ``get_stream_handler`` answer with the handlers of this configuration."""
    global _default
    _default = streams


async def get_stream_handler() -> RedisStreamHandler:
    """Return the running event loop's handler: of the app that was loaded, else of the environment's settings.

    Use it as ``async with await get_stream_handler() as handler:``; leaving the block closes nothing.
    """
    return await _default.get()


def create_stream_handler(settings: Settings) -> RedisStreamHandler:
    """Return a new handler with its own connections, to be closed by the caller."""
    url, ttl_seconds = settings.redis_connection_string.get_secret_value(), settings.redis_stream_ttl_minutes * 60
    keys = Keys(settings.redis_key_prefix)
    # Without redis-py's own timeout of a command, whose asyncio.wait_for may swallow a cancellation in Python 3.11
    # (https://github.com/python/cpython/issues/86296): every wait here has a timeout around it.
    options: dict[str, Any] = {
        "decode_responses": True,
        # What others wrote need not be UTF-8.
        "encoding_errors": "replace",
        "socket_connect_timeout": ANSWER_SECONDS,
        "socket_timeout": None,
    }
    # Every script can be repeated, so a connection that broke is tried again at once.
    patient = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2)
    # A connection's subscriptions are told of what comes after them, so a new connection must not take the old one's
    # place unnoticed. And redis-py logs each push of the newer protocol.
    watching: dict[str, Any] = options | {"retry": Retry(NoBackoff(), retries=0), "protocol": 2}

    credentials = None
    if settings.redis_entra_id:
        # Not above: what it imports is a fifth of a cold start.
        from agentstream.stream.entra import EntraCredentials

        credentials = EntraCredentials()
        for connection in (options, watching):
            connection["credential_provider"] = credentials

    def shard(node: ClusterNode) -> Redis:
        client = Redis.from_url(url, **watching)
        client.connection_pool.connection_kwargs.update(host=node.host, port=node.port)
        return client

    if settings.redis_cluster:
        cluster = RedisCluster.from_url(url, retry=patient, address_remap=reachable_at(url), **options)
        cluster_watcher = ClusterWatcher(cluster, shard, decode_entry)
        return RedisStreamHandler(cluster, cluster_watcher, ttl_seconds, keys, credentials)
    commands = Redis.from_url(url, retry=patient, **options)
    pack_in_c(commands)
    watcher = StreamWatcher(Redis.from_url(url, **watching), decode_entry)
    return RedisStreamHandler(commands, watcher, ttl_seconds, keys, credentials)


def reachable_at(url: str) -> Callable[[tuple[str, int]], tuple[str, int]]:
    """Return where the nodes of a cluster are reached, by the address that they announce.

    With TLS, an announced IP address is no name that a certificate has: Azure Managed Redis announces the nodes' own,
    and serves all of them under its one name, each on a port of its own.
    """
    known = urlsplit(url)

    def address(announced: tuple[str, int]) -> tuple[str, int]:
        host, port = announced
        return (known.hostname or host, port) if known.scheme == "rediss" and _is_ip(host) else announced

    return address


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
