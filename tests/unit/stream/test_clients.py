import asyncio
import threading
from typing import Any

import pytest

from agentstream.settings import Settings
from agentstream.stream import clients
from agentstream.stream.clients import Streams, get_stream_handler, make_default
from agentstream.stream.handler import RedisStreamHandler


async def test_two_configurations_in_one_process_do_not_see_each_other(
    settings: Settings, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    mine, other = (Streams(settings.model_copy(update={"redis_key_prefix": prefix})) for prefix in ("mine", "other"))
    async with await mine.get() as handler:
        await handler.accept_run(conversation_id, correlation_id, "A")
        await handler.claim_key(correlation_id, "used", 60)

        async with await other.get() as stranger:
            assert await stranger.runs(conversation_id) == {}
            assert await stranger.claim_key(correlation_id, "free", 60) == "free"

        assert set(await handler.runs(conversation_id)) == {correlation_id}
        assert await redis.exists(f"mine-stream:{conversation_id}")
    for streams in (mine, other):
        await (await streams.get()).aclose()


async def test_an_event_loop_has_one_handler_and_each_loop_its_own(settings: Settings) -> None:
    streams = Streams(settings)
    handlers: list[RedisStreamHandler] = []

    def in_another_loop() -> None:
        async def get() -> None:
            handlers.append(await streams.get())
            await handlers[-1].aclose()

        asyncio.run(get())

    thread = threading.Thread(target=in_another_loop)
    thread.start()
    await asyncio.to_thread(thread.join)

    assert await streams.get() is await streams.get()
    assert await streams.get() is not handlers[0]
    await (await streams.get()).aclose()


async def test_get_stream_handler_answers_with_what_the_app_was_made_of(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_default", clients._default)
    streams = Streams(settings)

    make_default(streams)

    assert await get_stream_handler() is await streams.get()
    await (await streams.get()).aclose()
