"""One connection for all live followers of a process: it tells each what is new in its stream."""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ConnectionError, RedisError

# What a follower that does not keep up may have waiting for it; beyond this it reads from Redis at its own pace.
MAX_BUFFERED_ENTRIES = 1000
MAX_BUFFERED_CHARACTERS = 262_144
READ_ENTRIES = 500
# A Redis that takes longer to answer is taken for dead.
ANSWER_SECONDS = 5.0
BLOCK_SECONDS = 10.0
UNBLOCK_RETRY_SECONDS = 0.005

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
        self._entries: deque[Entry] = deque()
        self._characters = 0
        self._error: RedisError | None = None
        self._news = asyncio.Event()

    def rejoin(self) -> None:
        """Take part again, from now on."""
        self.behind = False

    async def next(self, seconds: float) -> list[Entry]:
        """Return what has come, waiting for it; nothing after so many seconds, or when the follower is ``behind``.

        Raises:
            RedisError: Redis does not answer.
        """
        if not self._entries and self._error is None and not self.behind:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        if self._error is not None:
            raise self._error
        entries = list(self._entries)
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
            self._entries.extend(entries)
        self._news.set()

    def fail(self, error: RedisError) -> None:
        self._error = error
        self._news.set()

    def _clear(self) -> None:
        self._entries.clear()
        self._characters = 0


class StreamWatcher(ABC, Generic[Entry]):
    """Knows who follows which stream, and runs ``_watch`` while anybody does.

    Args:
        client: The client that only watches.
        decode: Makes an entry of what Redis answers: an id and its fields; None where it is to be passed over.
    """

    def __init__(self, client: Redis, decode: Callable[[str, dict[str, str]], Entry | None]) -> None:
        self._client = client
        self._decode = decode
        self._subscriptions: dict[str, set[Subscription[Entry]]] = {}
        self._cursors: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def subscribe(self, key: str, cursor: str) -> Subscription[Entry]:
        """Return a subscription to a stream. What came after the cursor before this call is the caller's to read."""
        subscription: Subscription[Entry] = Subscription(key, self)
        if key not in self._subscriptions:
            self._cursors[key] = cursor
            self._changed.set()
        self._subscriptions.setdefault(key, set()).add(subscription)
        if self._watching is None:
            self._watching = asyncio.create_task(self._keep_watching())
        return subscription

    def unsubscribe(self, subscription: Subscription[Entry]) -> None:
        """End a subscription. The watching goes on without its stream when nobody else follows it."""
        subscriptions = self._subscriptions.get(subscription.key, set())
        subscriptions.discard(subscription)
        if not subscriptions and self._subscriptions.pop(subscription.key, None) is not None:
            self._cursors.pop(subscription.key)
            self._changed.set()

    async def aclose(self) -> None:
        """End the watching and close the connections."""
        if self._watching is not None:
            self._watching.cancel()
        await self._client.aclose()

    @abstractmethod
    async def _watch(self) -> None:
        """Tell the subscriptions what comes after the cursors, which may change with every ``_changed``.

        It returns when there are none, and raises RedisError or TimeoutError when Redis does not answer.
        """

    async def _keep_watching(self) -> None:
        try:
            while self._cursors:
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

    def _tell(self, key: str, entries: list[Any]) -> None:
        if key in self._cursors and entries:
            self._cursors[key] = entries[-1][0]
            told = [entry for each in entries if (entry := self._decode(*each)) is not None]
            characters = sum(entry_characters(fields) for _, fields in entries)
            for subscription in self._subscriptions[key] if told else ():
                subscription.tell(told, characters)

    def _fail(self, error: RedisError) -> None:
        subscriptions = [each for of_key in self._subscriptions.values() for each in of_key]
        self._subscriptions.clear()
        self._cursors.clear()
        self._watching = None
        for subscription in subscriptions:
            subscription.fail(error)


class BlockingReadWatcher(StreamWatcher[Entry]):
    """Watches with one blocking XREAD over all the streams.

    Args:
        reader: The client of the blocking read, with one connection.
        commands: The client for all else.
        decode: Makes an entry of what Redis answers: an id and its fields; None where it is to be passed over.
    """

    def __init__(self, reader: Redis, commands: Redis, decode: Callable[[str, dict[str, str]], Entry | None]) -> None:
        super().__init__(reader, decode)
        self._commands = commands

    async def _watch(self) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader_id = await self._client.client_id()
        while self._cursors:
            await self._read(reader_id)

    async def _read(self, reader_id: int) -> None:
        """Read once, and anew as soon as a stream is added or removed."""
        self._changed.clear()
        reading = asyncio.create_task(self._xread(dict(self._cursors)))
        changing = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([reading, changing], timeout=BLOCK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout(ANSWER_SECONDS):
                while not reading.done():
                    # It may not have begun to block yet, so it is asked again until it has ended.
                    await self._commands.client_unblock(reader_id)
                    await asyncio.wait([reading], timeout=UNBLOCK_RETRY_SECONDS)
            for key, entries in await reading or []:
                self._tell(key, entries)
        finally:
            changing.cancel()
            reading.cancel()

    async def _xread(self, cursors: Any) -> Any:
        return await self._client.xread(cursors, count=READ_ENTRIES, block=int(BLOCK_SECONDS * 1000))


def entry_characters(fields: Mapping[str, str]) -> int:
    """Return how large an entry is."""
    return sum(map(len, fields.values()))
