"""The description of the API is true: what it allows is served, what it forbids refused, nothing else answered."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.app import App, running_app

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIG = Path(__file__).with_name("schemathesis.toml")
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def quick_app(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """An app whose streams end soon, on the offline planner, which answers any message."""
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "STREAM_MAX_SECONDS": "1",
        "WAIT_FOR_RESPONSE_SECONDS": "1",
        "OFFLINE_TOKENS_PER_SECOND": "5000",
    }
    async with running_app(tmp_path_factory.mktemp("state"), env) as app:
        yield app


async def test_every_generated_request_is_answered_as_described(quick_app: App, tmp_path: Path) -> None:
    description = f"{quick_app.host.base_url}/api/openapi.json"
    options = "--max-examples 6 --workers 4 --request-timeout 30 --generation-deterministic --no-color".split()

    run = await asyncio.create_subprocess_exec(
        SCHEMATHESIS, "--config-file", CONFIG, "run", description, *options, stdout=PIPE, stderr=STDOUT, cwd=tmp_path
    )
    async with asyncio.timeout(200):
        printed, _ = await run.communicate()

    assert run.returncode == 0, printed.decode()


async def test_the_description_names_the_agents_and_where_the_routes_are(app: App) -> None:
    description = (await app.client.get("/api/openapi.json")).json()

    assert description["openapi"] == "3.1.0"
    assert description["servers"] == [{"url": "/api"}]
    [agent] = description["paths"]["/agents/{agent_name}/run"]["post"]["parameters"][:1]
    assert agent["schema"] == {"enum": ["TravelPlanner"]}
