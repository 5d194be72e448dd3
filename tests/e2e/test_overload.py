"""More than a worker has to do at a time: whoever cannot be served is told so, and the others are served."""

import asyncio
from pathlib import Path

import httpx
import pytest

from devhost.testing import HostProcess
from tests.app import RUN_ROUTE, App, text_of
from tests.model_server import ModelServer
from tests.scripts import script, scripted_reply
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

POSTS = 250
UNBOUNDED = httpx.Limits(max_connections=None)


async def test_promise_8_bounded_a_flood_of_runs_is_accepted_or_told_and_what_was_there_goes_on(
    model: ModelServer, redis_url: str, state_dir: Path
) -> None:
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url}
    with HostProcess(state_dir, env=env) as host:
        async with (
            httpx.AsyncClient(base_url=host.base_url, timeout=120, limits=UNBOUNDED) as client,
            httpx.AsyncClient(base_url=host.base_url, timeout=120) as other,
        ):
            app, flood = App(host, other), App(host, client)
            texts = [f"{number} " for number in range(20)]
            following = asyncio.create_task(app.finish(await app.start_run(script(chunks=texts, delay_seconds=0.1))))
            message = {"message": script(chunks=["fine"])}
            posting = asyncio.gather(*(client.post(RUN_ROUTE, json=message) for _ in range(POSTS)))
            healths = []
            while not posting.done():
                healths.append((await other.get("/api/health")).status_code)
                await asyncio.sleep(0.05)
            answers = await posting
            accepted = [answer.json() for answer in answers if answer.status_code == httpx.codes.ACCEPTED]
            refused = [answer for answer in answers if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE]
            ends = await asyncio.gather(*(flood.finish(run) for run in accepted))

            assert set(healths) == {httpx.codes.OK}
            assert len(accepted) + len(refused) == POSTS
            assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
            assert len(accepted) > POSTS / 10
            assert {(text_of(events), events[-1].event) for events in ends} == {("fine", "done")}
            assert text_of(await following) == "".join(texts)


async def test_promise_8_bounded_who_waits_for_a_response_counts_as_a_follower(
    model: ModelServer, redis_url: str, state_dir: Path
) -> None:
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url, "STREAM_MAX_FOLLOWERS": "1"}
    with HostProcess(state_dir, env=env) as host:
        async with httpx.AsyncClient(base_url=host.base_url, timeout=60) as client:
            app = App(host, client)
            run = await app.start_run(script(chunks=["a"]))
            await app.finish(run)
            body = {"message": script(chunks=["a"], hangs_after=1), "wait_for_response": True}
            waiting = asyncio.create_task(client.post(RUN_ROUTE, json=body))

            async def is_full() -> bool:
                return (await client.get(run["stream_url"])).status_code == httpx.codes.SERVICE_UNAVAILABLE

            await eventually(is_full)
            beyond = await client.post(RUN_ROUTE, json=body)
            assert beyond.status_code == httpx.codes.ACCEPTED
            assert not waiting.done()
            waiting.cancel()


async def test_promise_8_bounded_runs_are_executed_so_many_at_a_time_and_the_others_wait_for_their_turn(
    redis_url: str, state_dir: Path
) -> None:
    async with ModelServer(scripted_reply) as model:
        env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url, "MAX_RUNS_AT_A_TIME": "2"}
        with HostProcess(state_dir, env=env) as host:
            async with httpx.AsyncClient(base_url=host.base_url, timeout=60) as client:
                app = App(host, client)
                message = script(chunks=["a", "b"], delay_seconds=0.2)
                runs = [await app.start_run(message) for _ in range(6)]
                ends = await asyncio.gather(*(app.finish(run) for run in runs))

        assert {(text_of(events), events[-1].event) for events in ends} == {("ab", "done")}
        assert model.most_open == 2
