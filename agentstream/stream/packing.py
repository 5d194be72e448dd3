"""Connections whose commands are packed in C: redis-py's asyncio client does it in Python, which takes seven times as
long, and was a tenth of what a chunk costs."""

from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection


def pack_in_c(client: Redis) -> None:
    """Let the client's connections pack their commands in C. None may have been made yet."""
    pool = client.connection_pool
    pool.connection_class = type("PackingConnection", (_Packing, pool.connection_class), {})


class _Packing(AbstractConnection):
    def pack_command(self, *args: Any) -> list[bytes]:
        try:
            # The first may be two words, such as SCRIPT LOAD.
            return [hiredis.pack_command((*args[0].split(), *args[1:]))]
        except (TypeError, UnicodeError):
            # It is for redis-py to say what becomes of an argument that is no text in UTF-8, nor a number.
            packed: list[bytes] = super().pack_command(*args)
            return packed
