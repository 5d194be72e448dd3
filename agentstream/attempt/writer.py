"""The writer of one attempt: it appends the attempt's chunks to the stream without ever holding up the agent."""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable

from redis.exceptions import RedisError

from agentstream import telemetry
from agentstream.model import MESSAGE, Chunk, Piece, RunKey, Verdict, now_ms
from agentstream.stream.clients import GetStream, get_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from agentstream.stream.text import TextNormalizer
from agentstream.stream.wakeup import Wakeup

# A model that is faster than Redis is slowed down beyond this.
HIGH_WATER_CHARACTERS = 100_000
DRAIN_SECONDS = 5.0
# While Redis does not answer nobody is slowed down, so beyond this chunks are dropped.
MAX_PENDING_CHARACTERS = 1_000_000
MAX_BATCH_CHUNKS = 256
# A silent model's run is kept alive, and its cancellation noticed, this often.
KEEP_ALIVE_SECONDS = 1.0
BEGIN_SECONDS = 2.0
ORDER_POLL_SECONDS = 0.005
FLUSH_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0

logger = telemetry.logger(__name__)


class AttemptWriter:
    """Appends what an attempt streams, in order, many chunks in a round trip when the model is faster than Redis.

    While Redis does not answer, chunks wait; past ``MAX_PENDING_CHARACTERS`` the rest of the attempt is dropped,
    which the end of the run repairs from the committed answer. The writer belongs to the task that starts it and
    ends with it at the latest.

    Args:
        run: The run.
        on_end: Called once when the attempt should end: the run was cancelled, has ended or has a newer attempt.
        instead_of: The attempt whose place this one takes, 0 for none.
        get_stream: Returns the stream handler of the running event loop.

    Attributes:
        verdict: What Redis said last.
        attempt: The attempt's number; 0 until Redis has given it.
    """

    def __init__(
        self,
        run: RunKey,
        on_end: Callable[[], None] | None = None,
        *,
        instead_of: int = 0,
        get_stream: GetStream = get_stream_handler,
    ) -> None:
        self.verdict = Verdict.CONTINUE
        self.attempt = 0
        self._run = run
        self._instead_of = instead_of
        self._name = secrets.token_hex(8)
        self._get_stream = get_stream
        self._said: list[str] = []
        self._on_end = on_end
        self._normalizer = TextNormalizer()
        self._pending: deque[Chunk] = deque()
        self._pending_characters = 0
        self._overflowed = False
        self._closing = False
        self._in_order_until = time.monotonic() + BEGIN_SECONDS
        self._sequence = 0
        self._answered = True
        self._drained = asyncio.Event()
        self._begun = asyncio.Event()
        self._news = Wakeup()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Verdict:
        """Begin the attempt, and return whether to go on.

        The agent waits for Redis no longer than ``BEGIN_SECONDS``; the attempt then begins when Redis answers.
        """
        self._task = asyncio.create_task(self._write_pending())
        owner = asyncio.current_task()
        if owner is not None:
            owner.add_done_callback(self._abandon)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_SECONDS):
                await self._begun.wait()
        return self.verdict

    @property
    def text(self) -> str:
        """All text that was written."""
        return "".join(self._said)

    def write(self, text: str) -> None:
        """Take over a chunk. This only queues it: it does not wait and does not raise."""
        if text and not any(self._said):
            telemetry.first_chunk(self._run.created, now_ms())
        self._said.append(text)
        self._queue(self._normalizer.feed(text))

    async def tell(self, pieces: Iterable[Piece]) -> None:
        """Take over what an agent tells, text and other events, and wait as ``drain`` does after each."""
        for piece in pieces:
            if piece.kind == MESSAGE:
                self.write(piece.data)
            else:
                self._queue(piece.data, piece.kind)
            await self.drain()

    async def drain(self) -> None:
        """Wait while too much is pending and Redis answers, which keeps memory bounded at the pace of Redis."""
        if self._pending_characters <= HIGH_WATER_CHARACTERS:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._pending_characters > HIGH_WATER_CHARACTERS and self._answered and self._is_writing:
                    self._drained.clear()
                    await self._drained.wait()

    async def close(self) -> None:
        """Append what is pending and end the writer, for as long as anything was appended in ``FLUSH_SECONDS``."""
        self._queue(self._normalizer.feed("", last=True))
        self._closing = True
        self._news.wake()
        appended = -1
        while self._task is not None and not self._task.done() and appended < self._sequence:
            appended = self._sequence
            await asyncio.wait([self._task], timeout=FLUSH_SECONDS)
        self._abandon()

    async def answer(self, text: str | None) -> bool:
        """Make this attempt the one that answers the run, after ``close``.

        Args:
            text: The answer, None for an error.

        Returns:
            Whether it may answer. Where Redis cannot say so, no other attempt can have begun by it either, and what the
            durable runtime commits decides.
        """
        if self.verdict is Verdict.STOP:
            return False
        # An answer that the stream does not hold whole is of no use to another attempt.
        is_told = not self._pending and not self._overflowed and text in (None, self.text)
        if self.attempt and is_told:
            with contextlib.suppress(RedisError):
                async with await self._get_stream() as handler:
                    self.verdict = await handler.answer_run(
                        self._run.conversation_id,
                        self._run.correlation_id,
                        self.attempt,
                        failed=text is None,
                        created=self._run.created,
                    )
        return self.verdict is not Verdict.STOP

    @property
    def _is_writing(self) -> bool:
        return self._task is not None and not self._task.done()

    def _abandon(self, _owner: object = None) -> None:
        if self._task is not None:
            self._task.cancel()

    def _queue(self, text: str, kind: str = MESSAGE) -> None:
        if not text or self._overflowed or self.verdict is Verdict.STOP:
            return
        if self._pending_characters + len(text) > MAX_PENDING_CHARACTERS:
            self._overflowed = True
            self._pending.clear()
            self._pending_characters = 0
            run = self._run.correlation_id
            logger.warning("run %s: chunks overflow; the end of the run repairs the stream", run)
            return
        self._pending.append(Chunk(text, now_ms(), kind))
        self._pending_characters += len(text)
        self._news.wake()

    async def _write_pending(self) -> None:
        retry_seconds = FIRST_RETRY_SECONDS
        while self.verdict is not Verdict.STOP:
            try:
                self._obey(await self._round_trip())
                self._answered = True
            except RedisError as error:
                self._answered = False
                self._drained.set()
                if retry_seconds == FIRST_RETRY_SECONDS:
                    run, what = self._run.correlation_id, type(error).__name__
                    logger.warning("run %s: Redis does not answer, chunks wait: %s", run, what)
                await asyncio.sleep(retry_seconds)
                retry_seconds = min(2 * retry_seconds, LAST_RETRY_SECONDS)
                continue
            retry_seconds = FIRST_RETRY_SECONDS
            if not self._pending and not self._closing:
                await self._news.wait(KEEP_ALIVE_SECONDS)
            if not self._pending and self._closing:
                return

    async def _round_trip(self) -> Verdict:
        async with await self._get_stream() as handler:
            if not self.attempt:
                return await self._begin(handler)
            batch = [self._pending[i] for i in range(min(len(self._pending), MAX_BATCH_CHUNKS))]
            verdict = await handler.append(
                self._run.conversation_id,
                self._run.correlation_id,
                self.attempt,
                self._sequence,
                batch,
                created=self._run.created,
            )
        self._sequence += len(batch)
        for _ in range(min(len(batch), len(self._pending))):
            self._pending_characters -= len(self._pending.popleft().text)
        self._drained.set()
        return verdict

    async def _begin(self, handler: RedisStreamHandler) -> Verdict:
        verdict = Verdict.WAIT
        while verdict is Verdict.WAIT:
            in_order = time.monotonic() < self._in_order_until
            verdict, attempt = await handler.begin_attempt(
                self._run.conversation_id,
                self._run.correlation_id,
                in_order=in_order,
                instead_of=self._instead_of,
                caller=self._name,
                created=self._run.created,
            )
            if verdict is Verdict.WAIT:
                await asyncio.sleep(ORDER_POLL_SECONDS)
        self.attempt = attempt
        self._begun.set()
        return verdict

    def _obey(self, verdict: Verdict) -> None:
        if self.verdict is Verdict.CONTINUE and verdict is not Verdict.CONTINUE:
            logger.info("run %s: the attempt ends: %s", self._run.correlation_id, verdict)
            self.verdict = verdict
            if self._on_end is not None:
                self._on_end()
        self.verdict = verdict
