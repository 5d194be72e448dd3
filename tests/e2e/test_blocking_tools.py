"""A tool that is a plain function and blocks."""

import asyncio
from pathlib import Path

import httpx
import pytest

from devhost.testing import HostProcess
from tests.app import App, text_of
from tests.model_server import ModelServer
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAX_TOOLS = 2


def notes(file: Path) -> int:
    """Return how many tools have begun to wait for a file."""
    return len(list(file.parent.glob(f"{file.name}.*")))


async def test_tools_that_block_hold_up_no_other_run_and_no_follower(
    model: ModelServer, redis_url: str, state_dir: Path, tmp_path: Path
) -> None:
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "OPENAI_BASE_URL": model.base_url,
        "MAX_TOOLS_AT_A_TIME": str(MAX_TOOLS),
    }
    file = tmp_path / "released"
    with HostProcess(state_dir, app_dir=Path(__file__).parent / "blocking", env=env) as host:
        async with httpx.AsyncClient(base_url=host.base_url, timeout=60) as client:
            app = App(host, client)
            blocks = script(chunks=["released"], tool_calls=[("wait_for_file", {"path": str(file)})])
            blocked = [await app.start_run(blocks) for _ in range(MAX_TOOLS + 1)]

            async def is_blocked() -> bool:
                return notes(file) == MAX_TOOLS

            await eventually(is_blocked, 30)
            other = await app.finish(await app.start_run(script(chunks=["a", "b"])))
            assert text_of(other) == "ab"
            statuses = {(await app.run(run["correlation_id"]))["status"] for run in blocked}
            assert statuses == {"running"}
            assert await is_blocked()

            file.touch()
            ends = await asyncio.gather(*(app.finish(run) for run in blocked))
            assert [(text_of(events), events[-1].event) for events in ends] == [("released", "done")] * len(blocked)
