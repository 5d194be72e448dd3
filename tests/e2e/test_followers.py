"""Followers that do not read, that leave half-way, that hold what Redis has lost, and the bounds they are under."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from redis.asyncio import Redis

from agentstream.model import Chunk
from agentstream.settings import Settings
from agentstream.stream.clients import create_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from tests.app import RUN_ROUTE, App, running_app, text_of
from tests.model_server import ModelServer
from tests.proxy import Proxy
from tests.recording_follower import RecordingFollower, problem_detail
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hasty(model: ModelServer, redis_url: str, durable_dir: Path) -> AsyncIterator[App]:
    """An app that serves one follower at a time, for two seconds."""
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "OPENAI_BASE_URL": model.base_url,
        "HEARTBEAT_SECONDS": "1",
        "STREAM_MAX_SECONDS": "2",
        "STREAM_MAX_FOLLOWERS": "1",
        "WAIT_FOR_RESPONSE_SECONDS": "20",
    }
    async with running_app(durable_dir, env) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="session")
async def stream(redis_url: str) -> AsyncIterator[RedisStreamHandler]:
    """The app's Redis."""
    handler = create_stream_handler(Settings(redis_connection_string=SecretStr(redis_url)))
    yield handler
    await handler.aclose()


@contextmanager
def sent(app: App, request: bytes) -> Iterator[socket.socket]:
    """Connect with the smallest receive buffer there is and send these bytes."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.connect(("127.0.0.1", app.host.port))
        client.sendall(request)
        yield client


async def write_much(stream: RedisStreamHandler, conversation_id: str) -> None:
    """Write more than the buffers of a connection hold, of a run that stays open."""
    await stream.accept_run(conversation_id, "run", "TravelPlanner")
    _, attempt = await stream.begin_attempt(conversation_id, "run")
    for sequence in range(0, 4_000, 50):
        await stream.append(conversation_id, "run", attempt, sequence, [Chunk("x" * 4_000, 0)] * 50)


async def test_promise_8_bounded_a_follower_that_never_reads_ends_by_the_clock(
    hasty: App, stream: RedisStreamHandler, conversation_id: str
) -> None:
    await write_much(stream, conversation_id)
    path = f"/api/agent/stream/{conversation_id}"

    async def is_refused() -> bool:
        async with hasty.client.stream("GET", path) as response:
            return response.status_code == httpx.codes.SERVICE_UNAVAILABLE

    async def is_served() -> bool:
        return not await is_refused()

    with sent(hasty, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()):
        await eventually(is_refused)
        await eventually(is_served)


async def test_promise_8_bounded_waiting_for_a_response_is_following_for_as_long_as_the_client_is_there(
    hasty: App, model: ModelServer, conversation_id: str
) -> None:
    run = await hasty.start_run(script(chunks=["b"]))
    await hasty.finish(run)
    calls = len(model.calls)
    hanging = {"message": script(chunks=["a"], hangs_after=1), "wait_for_response": True}
    waiting = asyncio.create_task(hasty.client.post(RUN_ROUTE, json=hanging | {"conversation_id": conversation_id}))

    async def has_begun() -> bool:
        return len(model.calls) > calls

    await eventually(has_begun)
    follower = await hasty.client.get(run["stream_url"])
    over = await hasty.client.post(RUN_ROUTE, json=hanging, timeout=10)

    assert follower.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "followers" in problem_detail(follower)
    assert over.status_code == httpx.codes.ACCEPTED
    assert over.headers["location"] == over.json()["stream_url"]

    async def has_room() -> bool:
        return (await hasty.client.get(run["stream_url"])).status_code == httpx.codes.OK

    waiting.cancel()
    await eventually(has_room, seconds=10)
    messages = (await hasty.client.get(f"/api/agent/conversations/{conversation_id}")).json()["messages"]
    left = messages[0]["correlation_id"]
    assert (await hasty.run(left))["status"] == "running"
    for status_url in (over.json()["status_url"], f"/api/agent/runs/{left}"):
        await hasty.client.post(f"{status_url}/cancel")


async def test_a_plain_text_that_ends_by_the_clock_says_so_and_where_it_goes_on(hasty: App) -> None:
    run = await hasty.start_run(script(chunks=["a", "b"], hangs_after=1))
    plain = {"Accept": "text/plain"}

    cut = await hasty.get(run["stream_url"], headers=plain)
    text, _, notice = cut.text.partition("\n\n[")
    cursor = notice.partition("cursor=")[2].partition(".]")[0]
    [first] = await hasty.events(run["stream_url"], {"follow": "false"})

    assert (text, cursor) == ("a", first.id)
    await hasty.client.post(f"{run['status_url']}/cancel")

    async def has_ended() -> bool:
        rest = await hasty.get(run["stream_url"], {"cursor": cursor, "follow": "false"}, headers=plain)
        return rest.text == "\n"

    await eventually(has_ended)
    assert (await hasty.get(run["stream_url"], headers=plain)).text == "a\n"


async def test_a_client_that_cuts_its_upload_is_no_traceback(hasty: App) -> None:
    request = f"POST {RUN_ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf"
    with sent(hasty, request.encode()):
        pass
    await asyncio.to_thread(hasty.host.wait_for_log, "the client left before it had sent its request")

    assert "Traceback" not in hasty.host.log


async def fall_back(redis: Any, conversation_id: str) -> None:
    """Leave what a replica would have, on a machine whose clock is behind: less, and then another end."""
    key = f"agent-stream:{conversation_id}"
    runs = f"agent-runs:{{{key}}}"
    fields = {"correlation_id": "run", "attempt": "1"}
    record = '{"status": "completed", "created": 1, "attempt": 1, "next": 3, "ended": 9999999999999}'
    pipeline = redis.pipeline(transaction=True)
    pipeline.delete(key)
    pipeline.xadd(key, fields | {"text": "the ", "sequence": "0"}, id="1-0")
    pipeline.xadd(key, fields | {"text": "answer", "sequence": "1"}, id="2-0")
    pipeline.xadd(key, fields | {"text": "[DONE]", "sequence": "2", "event": "done"}, id="3-0")
    pipeline.hset(runs, "run", record)
    await pipeline.execute()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """What stands between Redis and the app that is called remote."""
    async with Proxy(int(redis_url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def remote(model: ModelServer, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    env = {
        "REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{proxy.port}",
        "OPENAI_BASE_URL": model.base_url,
        "HEARTBEAT_SECONDS": "1",
    }
    async with running_app(tmp_path_factory.mktemp("remote"), env) as app:
        yield app


@pytest.mark.parametrize("path", ["", "?correlation_id=run"])
async def test_promise_5_it_converges_when_a_failover_lost_what_a_follower_holds(
    remote: App, proxy: Proxy, redis_url: str, stream: RedisStreamHandler, conversation_id: str, path: str
) -> None:
    path = f"/api/agent/stream/{conversation_id}{path}"
    await stream.accept_run(conversation_id, "run", "TravelPlanner")
    _, attempt = await stream.begin_attempt(conversation_id, "run")
    await stream.append(conversation_id, "run", attempt, 0, [Chunk(text, 0) for text in ("the ", "lost ", "text")])
    following = RecordingFollower(lambda: remote.host.base_url, path)
    reading = asyncio.create_task(following.follow())
    await following.received(3)
    held = following.events[-1].id
    client: Any = Redis.from_url(redis_url)
    async with client:
        with proxy.outage():
            await fall_back(client, conversation_id)
        await reading
    late = await remote.events(path, {"cursor": held})
    resumed = await remote.events(path, {"cursor": late[0].id})

    assert (following.text, following.connections) == ("the answer", 1)
    assert [event.event for event in late] == ["reset", "message", "message", "done"]
    assert text_of(late) == "the answer"
    assert resumed == late[1:]
