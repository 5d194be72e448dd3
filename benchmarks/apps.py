"""The running apps that are measured, and the streams they serve."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from redis.asyncio import Redis

from agentstream.model import Chunk
from agentstream.stream.clients import get_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from devhost.testing import REPOSITORY, HostProcess
from tests.model_server import ModelServer
from tests.scripts import scripted_reply

TEXT = "A chunk of an answer, about as long as a few tokens. "
PAGE_CHUNKS = 250
# On a machine that is busy with something else.
START_SECONDS = 120
STOP_SECONDS = 60
REFERENCE_APP = Path(__file__).parent / "reference_app"

_names = (f"bench-{number}" for number in itertools.count())


def new_name() -> str:
    """Return a name that no stream has."""
    return next(_names)


@asynccontextmanager
async def stream_handler() -> AsyncIterator[RedisStreamHandler]:
    """Use the event loop's stream handler, and close it afterwards."""
    handler = await get_stream_handler()
    try:
        yield handler
    finally:
        await handler.aclose()


@asynccontextmanager
async def running_app(url: str, app_dir: Path = REPOSITORY, **settings: str) -> AsyncIterator[HostProcess]:
    """Run an app on the embedded host, with a model that answers at once."""
    async with ModelServer(scripted_reply) as model:
        with tempfile.TemporaryDirectory() as state:
            async with hosted(url, model.base_url, Path(state), app_dir, **settings) as host:
                yield host


@asynccontextmanager
async def hosted(
    url: str, model_url: str, state_dir: Path, app_dir: Path = REPOSITORY, **settings: str
) -> AsyncIterator[HostProcess]:
    """Run an app on the embedded host."""
    env = {"REDIS_CONNECTION_STRING": url, "OPENAI_BASE_URL": model_url, **settings}
    host = HostProcess(state_dir, app_dir=app_dir, env=env)
    await asyncio.to_thread(host.start, START_SECONDS)
    try:
        yield host
    finally:
        await asyncio.to_thread(host.stop, STOP_SECONDS)


def http_client(host: HostProcess) -> aiohttp.ClientSession:
    """Return a client of the host, for any number of connections at once."""
    return aiohttp.ClientSession(host.base_url, connector=aiohttp.TCPConnector(limit=0))


async def begin_run(handler: RedisStreamHandler, name: str) -> int:
    """Begin a conversation's run, ``run``, and return its attempt."""
    await handler.accept_run(name, "run", "TravelPlanner")
    return (await handler.begin_attempt(name, "run"))[1]


async def write_whole_run(handler: RedisStreamHandler, name: str, texts: Sequence[str]) -> None:
    """Write a run that has ended."""
    attempt = await begin_run(handler, name)
    for first in range(0, len(texts), PAGE_CHUNKS):
        chunks = [Chunk(text, 0) for text in texts[first : first + PAGE_CHUNKS]]
        await handler.append(name, "run", attempt, first, chunks)
    await handler.write_completion(name, correlation_id="run")


async def fill_reference_stream(url: str, key: str, texts: Sequence[str]) -> None:
    """Write a stream as the reference pattern leaves it."""
    async with Redis.from_url(url) as client:
        for first in range(0, len(texts), PAGE_CHUNKS):
            async with client.pipeline(transaction=False) as pipeline:
                for sequence, text in enumerate(texts[first : first + PAGE_CHUNKS], first):
                    pipeline.xadd(key, {"text": text, "sequence": sequence})
                await pipeline.execute()
        await client.xadd(key, {"done": "true"})
