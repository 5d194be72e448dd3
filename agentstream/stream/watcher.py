"""What tells all live followers of a process what is new in their streams, over one connection that listens."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pydantic_core import from_json
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, RedisError

from agentstream.model import cursor_order
from agentstream.stream.listening import ANSWER_SECONDS, Listening
from agentstream.stream.wakeup import Wakeup

# What a follower that does not keep up may have waiting for it; beyond this it reads from Redis at its own pace.
MAX_BUFFERED_ENTRIES = 1000
MAX_BUFFERED_CHARACTERS = 262_144
READ_ENTRIES = 500
READ_STREAMS = 100
# What may be published on a stream while it is read, before it is read once more.
MAX_HELD = 32

Entry = TypeVar("Entry")

logger = logging.getLogger(__name__)


class Subscription(Generic[Entry]):
    """A follower's view of one stream: the entries that came since it subscribed.

    Attributes:
        behind: Whether entries were dropped because the follower did not keep up. It has to ``rejoin`` and then read
            what it missed.
    """

    def __init__(self, key: str, watcher: "StreamWatcher[Entry]") -> None:
        self.key = key
        self.behind = False
        self._watcher = watcher
        self._entries: list[Entry] = []
        self._characters = 0
        self._error: RedisError | None = None
        self._news = Wakeup()

    def rejoin(self) -> None:
        """Take part again, from now on."""
        self.behind = False

    async def next(self, seconds: float) -> list[Entry]:
        """Return what has come, waiting for it; nothing after so many seconds, or when the follower is ``behind``.

        Raises:
            RedisError: Redis does not answer.
        """
        if not self._entries and self._error is None and not self.behind:
            await self._news.wait(seconds)
        if self._error is not None:
            raise self._error
        entries = self._entries
        self._clear()
        return entries

    def end(self) -> None:
        """Take no more part."""
        self._watcher.unsubscribe(self)

    def tell(self, entries: list[Entry], characters: int) -> None:
        if self.behind:
            return
        self._characters += characters
        if len(self._entries) + len(entries) > MAX_BUFFERED_ENTRIES or self._characters > MAX_BUFFERED_CHARACTERS:
            self._clear()
            self.behind = True
        else:
            self._entries += entries
        self._news.wake()

    def fail(self, error: RedisError) -> None:
        self._error = error
        self._news.wake()

    def _clear(self) -> None:
        self._entries = []
        self._characters = 0


class _Stream(Generic[Entry]):
    """A stream that somebody follows.

    Attributes:
        cursor: The last entry of which its followers were told.
        is_live: Whether what is published follows the cursor without a gap; else the stream is read first.
        held: What was published before it was read.
    """

    def __init__(self, cursor: str) -> None:
        self.cursor = cursor
        self.is_live = False
        self.held: list[list[Any]] = []
        self.subscriptions: set[Subscription[Entry]] = set()


class StreamWatcher(Generic[Entry]):
    """Watches the streams of one server, or of one shard of a cluster, while anybody follows them.

    What is appended to a stream is published in the same step, so a stream is read only once, when its subscription
    has begun: whatever comes after that is heard, in order, for as long as the connection lasts. When it breaks, all
    subscriptions fail. An entry that is not published, for it is none of ours, is found by the next who reads.

    Args:
        client: The client of the server, which only watches. It holds two connections: one that listens and one that
            reads.
        decode: Makes an entry of what Redis answers: an id and its fields; None where it is to be passed over.
    """

    def __init__(self, client: Redis, decode: Callable[[str, dict[str, str]], Entry | None]) -> None:
        self._client = client
        self._decode = decode
        self._streams: dict[str, _Stream[Entry]] = {}
        self._changes: set[str] = set()
        self._changed = asyncio.Event()
        self._unread: set[str] = set()
        self._reads = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def subscribe(self, key: str, cursor: str) -> Subscription[Entry]:
        """Return a subscription to a stream. What came after the cursor before this call is the caller's to read."""
        subscription: Subscription[Entry] = Subscription(key, self)
        if key not in self._streams:
            self._streams[key] = _Stream(cursor)
            self._change(key)
        self._streams[key].subscriptions.add(subscription)
        if self._watching is None:
            self._watching = asyncio.create_task(self._keep_watching())
        return subscription

    def unsubscribe(self, subscription: Subscription[Entry]) -> None:
        """End a subscription. The watching goes on without its stream when nobody else follows it."""
        stream = self._streams.get(subscription.key)
        if stream is not None and subscription in stream.subscriptions:
            stream.subscriptions.remove(subscription)
            if not stream.subscriptions:
                del self._streams[subscription.key]
                self._change(subscription.key)

    async def aclose(self) -> None:
        """End the watching and close the connections."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._client.aclose()

    def _change(self, key: str) -> None:
        self._changes.add(key)
        self._changed.set()

    async def _keep_watching(self) -> None:
        try:
            while self._streams:
                await self._watch()
            self._watching = None
        except RedisError as error:
            self._fail(error)
        except TimeoutError:
            self._fail(ConnectionError("Redis does not answer"))
        except Exception:
            # A watching that ended unnoticed would leave every follower waiting, the later ones too.
            logger.exception("watching the streams failed")
            self._fail(ConnectionError("watching the streams failed"))

    async def _watch(self) -> None:
        pool: Any = self._client.connection_pool
        async with asyncio.timeout(ANSWER_SECONDS):
            connection = await pool.get_connection()
        listening = Listening(connection)
        try:
            await self._work(listening)
        finally:
            # The next who takes it would take a late answer for its own.
            if not listening.is_answered:
                await connection.disconnect(nowait=True)
            await pool.release(connection)

    async def _work(self, listening: Listening) -> None:
        """Tell the followers what is new, until there are none."""
        jobs = (self._keep_subscribed(listening), self._listen(listening), self._read(), listening.stay_alive())
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in ended:
            task.result()

    async def _keep_subscribed(self, listening: Listening) -> None:
        while self._streams:
            await self._changed.wait()
            self._changed.clear()
            keys, self._changes = self._changes, set()
            joined = keys & self._streams.keys()
            await listening.change(joined, keys - joined)
        await listening.wait_until_answered()

    async def _listen(self, listening: Listening) -> None:
        while True:
            key, published = await listening.next()
            stream = self._streams.get(key)
            if stream is None:
                continue
            entries = _parse(published)
            if stream.is_live and entries:
                self._tell(stream, entries)
            elif entries and len(stream.held) < MAX_HELD:
                stream.held.append(entries)
            else:
                self._read_soon(key, stream)

    def _read_soon(self, key: str, stream: _Stream[Entry]) -> None:
        stream.is_live = False
        # The read brings them too.
        stream.held.clear()
        self._unread.add(key)
        self._reads.set()

    async def _read(self) -> None:
        while True:
            await self._reads.wait()
            streams = self._take_unread()
            async with asyncio.timeout(ANSWER_SECONDS), self._client.pipeline(transaction=False) as pipeline:
                for key, stream in streams.items():
                    pipeline.xrange(key, min=f"({stream.cursor}", count=READ_ENTRIES)
                answers: list[list[Any]] = await pipeline.execute()
            for (key, stream), entries in zip(streams.items(), answers, strict=True):
                self._take_in(key, stream, entries)

    def _take_unread(self) -> dict[str, _Stream[Entry]]:
        keys = list(itertools.islice(self._unread, READ_STREAMS))
        self._unread.difference_update(keys)
        if not self._unread:
            self._reads.clear()
        return {key: self._streams[key] for key in keys if key in self._streams}

    def _take_in(self, key: str, stream: _Stream[Entry], entries: list[Any]) -> None:
        """Tell of what was read, and go on with what is heard unless there is more to read."""
        self._tell(stream, entries)
        if len(entries) == READ_ENTRIES:
            self._read_soon(key, stream)
        elif key not in self._unread:
            stream.is_live = True
            for published in stream.held:
                self._tell(stream, published)
            stream.held.clear()

    def _tell(self, stream: _Stream[Entry], entries: list[Any]) -> None:
        """Tell of entries as Redis answers them, except those told before: a read brings what is published as well."""
        after = cursor_order(stream.cursor)
        if entries and cursor_order(entries[0][0]) <= after:
            entries = [each for each in entries if cursor_order(each[0]) > after]
        if entries:
            stream.cursor = entries[-1][0]
            told = [entry for each in entries if (entry := self._decode(*each)) is not None]
            characters = sum(entry_characters(fields) for _, fields in entries)
            for subscription in stream.subscriptions if told else ():
                subscription.tell(told, characters)

    def _fail(self, error: RedisError) -> None:
        subscriptions = [each for stream in self._streams.values() for each in stream.subscriptions]
        self._streams.clear()
        self._changes.clear()
        self._unread.clear()
        self._watching = None
        for subscription in subscriptions:
            subscription.fail(error)


def _parse(published: str) -> list[tuple[str, dict[str, str]]]:
    """Return the entries that were published; none where they have to be read, whatever else came."""
    try:
        # Not json.loads, which takes more than twice as long, for each chunk that is delivered.
        entries = from_json(published, cache_strings="none")
        return [(entry_id, dict(zip(fields[::2], fields[1::2], strict=True))) for entry_id, fields in entries]
    except (ValueError, TypeError):
        return []


def entry_characters(fields: Mapping[str, str]) -> int:
    """Return how large an entry is."""
    return sum(map(len, fields.values()))
