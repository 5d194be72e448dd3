"""A real browser, the real app with a model on loopback, and the sample app as `make run` starts it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from devhost.testing import HostProcess
from tests.browser.chromium import ARGUMENTS, executable
from tests.model_server import ModelServer, Reply, user_text

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.browser.chat import Visit

Replies = dict[str, Reply]
NewVisit = Callable[..., "AbstractAsyncContextManager[Visit]"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> "AsyncIterator[Browser]":
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def replies() -> Replies:
    """How the model replies to which message; a tool's result is answered by the reply to its name."""
    return {}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model(replies: Replies) -> AsyncIterator[ModelServer]:
    def reply(messages: list[dict[str, Any]]) -> Reply:
        chosen = replies[user_text(messages)]
        return chosen if messages[-1]["role"] != "tool" else Reply(chosen.chunks, chosen.delay_seconds)

    async with ModelServer(reply) as server:
        yield server


@pytest.fixture(scope="session")
def host(model: ModelServer, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """The app with a model that replies as it is told, and with a second agent."""
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url, "HEARTBEAT_SECONDS": "1"}
    env["DEVHOST_LEASE_SECONDS"] = "1"
    with HostProcess(tmp_path_factory.mktemp("state"), app_dir=Path(__file__).parent / "app", env=env) as host:
        yield host


@pytest.fixture(scope="session")
def planner(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """The app with the offline planner."""
    env = {"REDIS_CONNECTION_STRING": redis_url, "REDIS_KEY_PREFIX": "planner", "OFFLINE_TOKENS_PER_SECOND": "100"}
    with HostProcess(tmp_path_factory.mktemp("planner"), env=env) as host:
        yield host


@pytest.fixture
def new_visit(browser: "Browser") -> NewVisit:
    """Opens a visit to an address, the reader's context in whatever way the test wants it."""
    from tests.browser.chat import visit

    return lambda origin, **options: visit(browser, origin, **options)
