"""The pattern that ours is measured against, in our own words: a client per chunk, and polling once a second."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis

TTL_SECONDS = 600
POLL_SECONDS = 1.0
READ_ENTRIES = 100


async def write_chunk(url: str, key: str, text: str, sequence: int) -> None:
    """Append a chunk over a connection of its own, and renew the stream's time to live."""
    client = Redis.from_url(url, decode_responses=True)
    async with client:
        await client.xadd(key, {"text": text, "sequence": sequence})
        await client.expire(key, TTL_SECONDS)


async def write_end(url: str, key: str) -> None:
    """Append the entry that ends the stream."""
    client = Redis.from_url(url, decode_responses=True)
    async with client:
        await client.xadd(key, {"done": "true"})


async def read_stream(url: str, key: str) -> AsyncIterator[tuple[str, str]]:
    """Yield the id and text of each chunk up to the end, asking again after a second whenever there is nothing."""
    client: Any = Redis.from_url(url, decode_responses=True)
    async with client:
        cursor = "0-0"
        while True:
            answer = await client.xread({key: cursor}, count=READ_ENTRIES)
            if not answer:
                await asyncio.sleep(POLL_SECONDS)
                continue
            for entry_id, fields in answer[0][1]:
                cursor = entry_id
                if "done" in fields:
                    return
                yield entry_id, fields["text"]
