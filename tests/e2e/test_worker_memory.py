"""What the worker's library remembers of the requests that it has answered."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.app import running_app
from tests.model_server import ModelServer
from tests.scripts import script
from tests.waiting import eventually

pytest.importorskip("azure_functions_runtime", reason="Microsoft's library is published for Python 3.13 only")
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_promise_8_bounded_what_the_worker_remembers_of_answered_requests(
    model: ModelServer, redis_url: str, state_dir: Path
) -> None:
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url}
    async with running_app(state_dir, env, Path(__file__).parent / "counting") as app:
        asked = 0

        async def remembered() -> int:
            nonlocal asked
            asked += 1
            # Those who ask are remembered, for they are no functions of ours.
            return int((await app.client.get("/api/remembered")).json()) - asked

        async def are_all_forgotten() -> bool:
            return await remembered() == 0

        runs = await asyncio.gather(*(app.start_run(script(chunks=["a"])) for _ in range(5)))
        await asyncio.gather(*(app.finish(run) for run in runs))
        hanging = await app.start_run(script(chunks=["a"], hangs_after=1))
        following = asyncio.create_task(app.finish(hanging))
        refused = await app.client.post("/api/agents/Nobody/run", content="hello")
        assert refused.status_code == httpx.codes.NOT_FOUND

        try:
            await eventually(are_all_forgotten, seconds=15)
            assert not following.done()
        finally:
            await app.client.post(f"{hanging['status_url']}/cancel")
        assert (await following)[-1].event == "cancelled"
