"""The app where Redis is a cluster."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.app import App, running_app, text_of
from tests.model_server import ModelServer
from tests.recording_follower import RecordingFollower
from tests.redis_process import RedisClusterProcesses
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHUNKS = [f"{number} " for number in range(40)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClusterProcesses]:
    with RedisClusterProcesses(tmp_path_factory.mktemp("cluster")) as processes:
        yield processes


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def app(
    cluster: RedisClusterProcesses, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[App]:
    env = {"REDIS_CONNECTION_STRING": cluster.url, "REDIS_CLUSTER": "true", "OPENAI_BASE_URL": model.base_url}
    async with running_app(tmp_path_factory.mktemp("state"), env) as app:
        yield app


async def test_runs_on_every_shard_are_followed_live_and_resumed(app: App, cluster: RedisClusterProcesses) -> None:
    names = [f"trip-{number}" for number in range(8)]
    runs = [await app.start_run(script(chunks=CHUNKS, delay_seconds=0.01), conversation_id=name) for name in names]
    followed = await asyncio.gather(*(app.finish(run) for run in runs for _ in range(3)))

    assert all([event.data for event in events] == [*CHUNKS, "[DONE]"] for events in followed)
    for run, events in zip(runs, followed[::3], strict=True):
        assert await app.events(run["stream_url"], {"cursor": events[9].id}) == events[10:]
    assert {cluster.node_of(f"agent-stream:{name}") for name in names} == set(cluster.nodes)


async def test_a_shard_is_killed_in_the_middle_of_a_run_and_keeps_its_data(
    app: App, cluster: RedisClusterProcesses
) -> None:
    run = await app.start_run(script(chunks=CHUNKS, delay_seconds=0.03))
    following = RecordingFollower(lambda: app.host.base_url, run["stream_url"])
    reading = asyncio.create_task(following.follow())
    await following.received(5)
    shard = cluster.node_of(f"agent-stream:{run['conversation_id']}")
    shard.kill()
    shard.start()

    await reading
    assert [event.data for event in following.events] == [*CHUNKS, "[DONE]"]
    assert text_of(await app.events(run["stream_url"])) == "".join(CHUNKS)
