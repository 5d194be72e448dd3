"""The whole app without a password: Redis takes the tokens of the app's identity, and they expire under load."""

import asyncio
from pathlib import Path

import pytest

from tests.app import running_app, text_of
from tests.identity import Identity
from tests.model_server import ModelServer
from tests.redis_process import RedisProcess
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_followers_do_not_notice_that_tokens_expire(
    redis: RedisProcess, model: ModelServer, state_dir: Path
) -> None:
    chunks = [f"{number} " for number in range(120)]
    async with Identity(redis.port, seconds=1) as identity:
        env = {
            "REDIS_CONNECTION_STRING": redis.url,
            "OPENAI_BASE_URL": model.base_url,
            "HEARTBEAT_SECONDS": "1",
            **identity.env,
        }
        async with running_app(state_dir, env) as app:
            runs = [await app.start_run(script(chunks=chunks, delay_seconds=0.05)) for _ in range(3)]
            following = [asyncio.create_task(app.events(run["stream_url"])) for run in runs]
            expiries = 0
            while not all(task.done() for task in following):
                await asyncio.sleep(1)
                identity.expire()
                expiries += 1
            ended = [await task for task in following]

    # Each of them is one response, from the first event to the last.
    assert [text_of(events) for events in ended] == ["".join(chunks)] * 3
    assert all(events[-1].event == "done" for events in ended)
    assert expiries >= 4
    assert len(identity.tokens) >= 4
