"""A connection that hears what is published on the channels of streams, by sharded pub/sub.

Sharded pub/sub (https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub) is what a cluster and a plain server both
have, from Redis 7 on. The channel of a stream bears the stream's key as its name, and so lives in its slot.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError

# A Redis that takes longer to answer is taken for dead.
ANSWER_SECONDS = 5.0
PING_SECONDS = 10.0


class Listening:
    """The subscriptions of one connection.

    Args:
        connection: A connection of a client's pool; not ``PubSub``, which costs several times as much per message.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._leaving: Counter[str] = Counter()
        self._unanswered = 0
        self._answered = asyncio.Event()

    @property
    def is_answered(self) -> bool:
        """Whether nothing more will come of what was sent."""
        return self._unanswered == 0

    async def change(self, joined: Iterable[str], left: Iterable[str]) -> None:
        """Subscribe to the channels of some streams, and unsubscribe from those of others."""
        left = list(left)
        self._leaving.update(left)
        # One command for each, since a cluster takes no two slots in one, but all in one piece.
        await self._send([("SSUBSCRIBE", key) for key in joined] + [("SUNSUBSCRIBE", key) for key in left])

    async def next(self) -> tuple[str, str]:
        """Wait for what is heard of a stream next, and return its key and what was published.

        The second is empty where the stream has to be read: its subscription begins here, for one.

        Raises:
            RedisError: The connection broke, or a stream's slot has moved to another shard.
        """
        while True:
            # A wait that is given up has read nothing, so the connection is as good as before.
            match await self._connection.read_response(timeout=math.inf, disconnect_on_error=False, push_request=True):
                case ["smessage", str(key), str(published)]:
                    return key, published
                case ["ssubscribe", str(key), *_]:
                    self._answer()
                    return key, ""
                case ["sunsubscribe", str(key), *_]:
                    if not self._leaving[key]:
                        raise ConnectionError("the stream's slot has moved")
                    self._leaving[key] -= 1
                    self._leaving += Counter()
                    self._answer()
                case _:
                    self._answer()

    async def stay_alive(self) -> None:
        """Ask now and then whether anybody is there.

        Raises:
            TimeoutError: Redis does not answer.
        """
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self._send([("PING",)])
            await self.wait_until_answered()

    async def wait_until_answered(self) -> None:
        """Wait until Redis has answered all that was sent.

        Raises:
            TimeoutError: It does not answer.
        """
        while not self.is_answered:
            self._answered.clear()
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._answered.wait()

    async def _send(self, commands: list[tuple[Any, ...]]) -> None:
        self._unanswered += len(commands)
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    def _answer(self) -> None:
        self._unanswered -= 1
        self._answered.set()
