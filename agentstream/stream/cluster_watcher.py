"""Watching streams where Redis is a cluster: one watcher for each shard that has a followed stream."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Generic

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError, RedisClusterException

from agentstream.stream.watcher import Entry, StreamWatcher, Subscription


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
        self._shards: dict[str, StreamWatcher[Entry]] = {}

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
            self._shards[node.name] = StreamWatcher(self._connect(node), self._decode)
        return self._shards[node.name].subscribe(key, cursor)

    async def aclose(self) -> None:
        """Close the connections."""
        for shard in self._shards.values():
            await shard.aclose()


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
