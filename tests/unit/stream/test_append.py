"""Appending the next chunk takes a short way. Nothing tells it from the long one but what it costs."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agentstream.model import BeingErasedError, Chunk, ErasedError, LostRun, Verdict, now_ms
from agentstream.stream import scripts
from agentstream.stream.handler import RedisStreamHandler

RUN = "run"
TIMES_AND_NAMES = (
    "created",
    "claimed",
    "attempt",
    "writer",
    "seen",
    "renewed",
    "from",
    "ended",
    "terminal",
    "cancel_sent",
    "claim",
    "begun_by",
    "cancel_sent_by",
)

SHORT_WAY = scripts.APPEND
LONG_WAY = SHORT_WAY[SHORT_WAY.index((files(scripts) / "prelude.lua").read_text(encoding="utf-8")) :]

append_next = st.tuples(st.just("append"), st.just(-1), st.just(0), st.sampled_from([("a",), ("",), ()]))
append_any = st.tuples(
    st.just("append"), st.integers(-3, -1), st.integers(-2, 2), st.lists(st.sampled_from(["a", "", "{}"]), max_size=3)
)
others = ("accept", "begin", "begin", "answer", "cancel", "finish", "erase", "restore", "lose stream", "lose runs")
steps = st.lists(
    st.one_of(append_next, append_next, append_any, st.tuples(st.sampled_from(others))), min_size=3, max_size=14
)


class _Conversation:
    """A conversation that goes through steps, and what its attempts were told."""

    def __init__(self, handler: RedisStreamHandler, redis: Any) -> None:
        self._handler = handler
        self._redis = redis
        self._name = f"c-{uuid.uuid4()}"
        self._stream = f"agent-stream:{self._name}"
        self._runs = f"agent-runs:{{{self._stream}}}"
        self._attempts: list[int] = []
        self._next = 0

    async def take(self, step: tuple[Any, ...]) -> object:
        """Take a step, and return what it answered."""
        handler, name = self._handler, self._name
        match step:
            case ("append", attempt, offset, texts):
                if len(self._attempts) < -attempt:
                    return None
                first = max(0, self._next + offset)
                chunks = [Chunk(text, 0, "tool_call" if text == "{}" else "message") for text in texts]
                verdict = await handler.append(name, RUN, self._attempts[attempt], first, chunks)
                if verdict is Verdict.CONTINUE:
                    self._next = max(self._next, first + len(chunks))
                return verdict
            case ("accept",):
                return await handler.accept_run(name, RUN, "A") is not None
            case ("begin",):
                # An attempt is known by its millisecond, by nothing else when Redis has lost the one before.
                while self._attempts and now_ms() <= self._attempts[-1]:
                    await self._handler.ping()
                verdict, attempt = await handler.begin_attempt(name, RUN)
                if verdict is not Verdict.STOP:
                    self._attempts.append(attempt)
                    self._next = 0
                return verdict
            case ("answer",):
                return await handler.answer_run(name, RUN, self._attempts[-1] if self._attempts else 1)
            case ("cancel",):
                return (await handler.cancel_run(name, RUN))[0]
            case ("finish",):
                return await handler.write_completion(name, correlation_id=RUN)
            case ("erase",):
                return await handler.erase(name, finished=True) is not None
            case ("restore",):
                lost = [LostRun(RUN, "A", None)]
                return await handler.restore_runs(name, lost, await handler.erasure(name))
            case ("lose stream",):
                return await self._redis.delete(self._stream)
            case _:
                return await self._redis.delete(self._runs)

    async def state(self) -> object:
        """Return what Redis holds of it but times and random names, the attempts by their order."""
        entries = [
            {**fields, "timestamp": "", "attempt": self._order(int(fields["attempt"]))}
            for _, fields in await self._redis.xrange(self._stream)
        ]
        records = [json.loads(record) for record in await self._redis.hvals(self._runs) if record.startswith("{")]
        attempts = [(self._order(record["attempt"]), "writer" in record) for record in records]
        kept = [{name: value for name, value in record.items() if name not in TIMES_AND_NAMES} for record in records]
        return entries, attempts, kept

    def _order(self, attempt: int) -> int:
        return self._attempts.index(attempt) if attempt in self._attempts else -1


@given(steps=steps)
@example(steps=[("lose stream",), ("append", -1, 0, ())])
@example(steps=[("lose stream",), ("append", -1, 0, ("a",))])
@hypothesis_settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_whatever_happens_the_short_way_does_what_the_long_one_does(
    handler: RedisStreamHandler, redis: Any, steps: list[tuple[Any, ...]]
) -> None:
    told: list[list[object]] = []
    for script in (SHORT_WAY, LONG_WAY):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scripts, "APPEND", script)
            conversation = _Conversation(handler, redis)
            answers: list[object] = []
            for step in [("accept",), ("begin",), *steps]:
                try:
                    answers.append(await conversation.take(step))
                except (BeingErasedError, ErasedError) as error:
                    answers.append(type(error))
                answers.append(await conversation.state())
        told.append(answers)

    assert told[0] == told[1]


@asynccontextmanager
async def _hearing(redis: Any, conversation_id: str) -> AsyncIterator[Any]:
    async with redis.pubsub() as pubsub:
        await pubsub.ssubscribe(f"agent-stream:{conversation_id}")
        await pubsub.get_message(timeout=5)
        yield pubsub


@pytest.mark.parametrize("settings", ["server"], indirect=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"])), kind=st.sampled_from(["message", "tool_call"]))
@hypothesis_settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_is_published_is_what_is_in_the_stream(
    handler: RedisStreamHandler, redis: Any, text: str, kind: str
) -> None:
    conversation_id = f"c-{uuid.uuid4()}"
    await handler.accept_run(conversation_id, '"run"', "A")
    _, attempt = await handler.begin_attempt(conversation_id, '"run"')

    async with _hearing(redis, conversation_id) as pubsub:
        await handler.append(conversation_id, '"run"', attempt, 0, [Chunk(text, 7, kind)])
        message = await pubsub.get_message(timeout=5)

    [(entry_id, fields)] = json.loads(message["data"])
    [entry] = await redis.xrange(f"agent-stream:{conversation_id}")
    assert (entry_id, dict(zip(fields[::2], fields[1::2], strict=True))) == entry


@pytest.mark.parametrize("settings", ["server"], indirect=True)
async def test_promise_8_bounded_a_large_chunk_is_not_published_but_read(
    handler: RedisStreamHandler, conversation_id: str, redis: Any
) -> None:
    text = "x" * 20_000
    await handler.accept_run(conversation_id, RUN, "A")
    _, attempt = await handler.begin_attempt(conversation_id, RUN)

    async with _hearing(redis, conversation_id) as pubsub:
        await handler.append(conversation_id, RUN, attempt, 0, [Chunk(text, 0)])
        message = await pubsub.get_message(timeout=5)

    assert message["data"] == ""
    [(_, fields)] = await redis.xrange(f"agent-stream:{conversation_id}")
    assert fields["text"] == text


@pytest.mark.parametrize("settings", ["server"], indirect=True)
async def test_appending_the_next_chunk_and_keeping_alive_take_four_commands(
    handler: RedisStreamHandler, conversation_id: str, redis: Any
) -> None:
    await handler.accept_run(conversation_id, RUN, "A")
    _, attempt = await handler.begin_attempt(conversation_id, RUN)
    await handler.append(conversation_id, RUN, attempt, 0, [])

    async def commands(*chunks: Chunk) -> set[str]:
        await redis.config_resetstat()
        assert await handler.append(conversation_id, RUN, attempt, 0, chunks) is Verdict.CONTINUE
        return {name.removeprefix("cmdstat_") for name in await redis.info("commandstats")} - {"config|resetstat"}

    assert await commands() == {"evalsha", "hget", "exists", "time", "hset"}
    assert await commands(Chunk("a", 0)) == {"evalsha", "hget", "xadd", "hset", "spublish"}


async def test_keeping_a_run_alive_is_seen_by_who_waits_for_it(
    handler: RedisStreamHandler, conversation_id: str, redis: Any
) -> None:
    await handler.accept_run(conversation_id, RUN, "A")
    _, attempt = await handler.begin_attempt(conversation_id, RUN)
    runs = f"agent-runs:{{agent-stream:{conversation_id}}}"
    for chunks in ([], [Chunk("a", 0)]):
        record = json.loads(await redis.hget(runs, RUN))
        record["seen"] -= 60_000
        await redis.hset(runs, RUN, json.dumps(record, separators=(",", ":")))
        assert (await handler.look(conversation_id, RUN)).silent_ms >= 60_000

        await handler.append(conversation_id, RUN, attempt, 0, chunks)

        assert (await handler.look(conversation_id, RUN)).silent_ms < 30_000
