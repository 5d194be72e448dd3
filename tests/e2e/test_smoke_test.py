"""The smoke test that follows a deployment, against a running app, and against one with something wrong."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devhost.testing import REPOSITORY, HostProcess
from tests.proxy import Proxy

SECONDS = 60


class BufferingProxy(Proxy):
    """Passes a response on when it has ended, as a gateway that buffers does."""

    async def _pump_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await writer.drain()
        raise ConnectionResetError


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[HostProcess]:
    """The app as `make run` starts it, with the offline planner; it lasts some seconds, so that live can be told."""
    env = {"REDIS_CONNECTION_STRING": redis_url, "OFFLINE_TOKENS_PER_SECOND": "100"}
    with HostProcess(tmp_path_factory.mktemp("state"), env=env) as process:
        yield process


@pytest.fixture
async def buffering(host: HostProcess) -> AsyncIterator[BufferingProxy]:
    async with BufferingProxy(host.port) as proxy:
        yield proxy


async def smoke_test(url: str, **environment: str) -> tuple[int | None, str]:
    """Return its exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(REPOSITORY / "infra" / "smoke_test.py"),
        url,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_it_passes_on_an_app_that_works(host: HostProcess) -> None:
    status, said = await smoke_test(host.base_url)

    assert status == 0, said
    for step in ("health", "run", "stream: live", "resume: exact over 2 connections", "news", "delete"):
        assert f"  {step}" in said


async def test_it_says_that_nobody_answers() -> None:
    status, said = await smoke_test("http://127.0.0.1:1")

    assert status == 1
    assert "FAILED: http://127.0.0.1:1 does not answer" in said


async def test_it_says_that_redis_does_not_answer(tmp_path: Path) -> None:
    async with Proxy(1) as nowhere:
        env = {"REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{nowhere.port}"}
        with HostProcess(tmp_path / "state", env=env) as host:
            status, said = await smoke_test(host.base_url)

    assert status == 1
    assert "FAILED: health: the app runs, but its Redis does not answer" in said


async def test_it_says_that_the_model_does_not_answer(tmp_path: Path, redis_url: str) -> None:
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    with HostProcess(tmp_path / "state", env=env) as host:
        status, said = await smoke_test(host.base_url)

    assert status == 1
    assert "model" in said.partition("FAILED: ")[2]


async def test_it_says_that_something_buffers(buffering: BufferingProxy) -> None:
    status, said = await smoke_test(f"http://127.0.0.1:{buffering.port}")

    assert status == 1
    assert "FAILED: stream: its first event came when the run was completed already" in said
