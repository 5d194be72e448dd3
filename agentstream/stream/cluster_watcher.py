"""Watching streams where Redis is a cluster: one listening connection to each shard that has a followed stream.

A cluster refuses an XREAD of streams in different slots, even of one shard. So the watcher of a shard is told by
sharded pub/sub that there is news (https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub), and then reads it. The
channel of a stream bears the stream's key as its name, and so lives in its slot.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Generic

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError, RedisClusterException

from agentstream.stream.watcher import ANSWER_SECONDS, BLOCK_SECONDS, READ_ENTRIES, Entry, StreamWatcher, Subscription


class ClusterWatcher(Generic[Entry]):
    """Gives every stream to the watcher of its shard.

    Args:
        commands: The client of the cluster.
        connect: Returns a client of one of its nodes.
        decode: Makes an entry of what Redis answers: an id and its fields.
    """

    def __init__(
        self,
        commands: RedisCluster,
        connect: Callable[[ClusterNode], Redis],
        decode: Callable[[str, dict[str, str]], Entry | None],
    ) -> None:
        self._commands = commands
        self._connect = connect
        self._decode = decode
        self._shards: dict[str, ShardWatcher[Entry]] = {}

    def subscribe(self, key: str, cursor: str) -> Subscription[Entry]:
        """Return a subscription to a stream. What came after the cursor before this call is the caller's to read.

        Raises:
            RedisError: No shard has the stream's slot.
        """
        with cluster_errors():
            node = self._commands.get_node_from_key(key)
        if node is None:
            raise ConnectionError("no shard has the stream's slot")
        if node.name not in self._shards:
            self._shards[node.name] = ShardWatcher(self._connect(node), self._decode)
        return self._shards[node.name].subscribe(key, cursor)

    async def aclose(self) -> None:
        """Close the connections."""
        for shard in self._shards.values():
            await shard.aclose()


class ShardWatcher(StreamWatcher[Entry]):
    """Watches the streams of one shard.

    Args:
        client: The client of the shard's primary. It holds two connections: one that listens and one that reads.
        decode: Makes an entry of what Redis answers: an id and its fields.
    """

    async def _watch(self) -> None:
        async with self._client.pubsub() as pubsub:
            async with asyncio.timeout(ANSWER_SECONDS):
                await pubsub.connect()
            listening = _Listening(pubsub)
            jobs = (self._keep_subscribed(listening), listening.listen(), self._read_news(listening))
            tasks = [asyncio.create_task(job) for job in jobs]
            try:
                ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            for task in ended:
                task.result()

    async def _keep_subscribed(self, listening: "_Listening") -> None:
        while self._cursors:
            self._changed.clear()
            await listening.subscribe(set(self._cursors))
            await self._changed.wait()

    async def _read_news(self, listening: "_Listening") -> None:
        while True:
            keys = [key for key in await listening.news() if key in self._cursors]
            async with asyncio.timeout(ANSWER_SECONDS), self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.xrange(key, min=f"({self._cursors[key]}", count=READ_ENTRIES)
                answers: list[list[Any]] = await pipeline.execute()
            for key, entries in zip(keys, answers, strict=True):
                self._tell(key, entries)
                if len(entries) == READ_ENTRIES:
                    listening.add_news(key)


class _Listening:
    """A connection's subscriptions, and the keys of the streams that it told of."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self._subscribed: set[str] = set()
        self._leaving: Counter[str] = Counter()
        self._keys: set[str] = set()
        self._told = asyncio.Event()

    async def subscribe(self, keys: set[str]) -> None:
        """Subscribe to the channels of these streams and no others."""
        for key in self._subscribed - keys:
            self._leaving[key] += 1
            await self._pubsub.sunsubscribe(key)
        for key in keys - self._subscribed:
            await self._pubsub.ssubscribe(key)
        self._subscribed = keys

    async def listen(self) -> None:
        """Take in what the shard tells.

        Raises:
            RedisError: The connection broke, or a stream's slot has moved to another shard.
        """
        while True:
            message = await self._pubsub.get_message(timeout=BLOCK_SECONDS)
            if message is None:
                await self._pubsub.ping()
                message = await self._pubsub.get_message(timeout=ANSWER_SECONDS)
            match message:
                case None:
                    raise ConnectionError("the shard does not answer")
                case {"type": "ssubscribe" | "smessage", "channel": key}:
                    # What came before the subscription was not told of.
                    self.add_news(key)
                case {"type": "sunsubscribe", "channel": key} if not self._leaving[key]:
                    raise ConnectionError("the stream's slot has moved")
                case {"type": "sunsubscribe", "channel": key}:
                    self._leaving[key] -= 1
                    self._leaving += Counter()

    def add_news(self, key: str) -> None:
        self._keys.add(key)
        self._told.set()

    async def news(self) -> set[str]:
        """Wait for news, and return the keys of the streams that have any."""
        await self._told.wait()
        self._told.clear()
        keys, self._keys = self._keys, set()
        return keys


@contextlib.contextmanager
def cluster_errors() -> Iterator[None]:
    """Raise the errors of a cluster's client that are no ``RedisError`` as what they mean: it is out of reach.

    The AttributeError and the TypeError come from a connection that another caller's failure closed
    (https://github.com/redis/redis-py/issues/4287, not mended in 8.1.0).
    """
    try:
        yield
    except (RedisClusterException, AttributeError, TypeError) as error:
        raise ConnectionError(str(error)) from error
