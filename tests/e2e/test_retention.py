"""What has been idle for long is removed whole, and nothing else is. Days pass in the durable state alone."""

import contextlib
import json
import re
import sqlite3
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from devhost.testing import HostProcess
from tests.app import RUN_ROUTE, App, app_of
from tests.model_server import ModelServer
from tests.redis_process import RedisProcess, free_port
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

TWO_AGENTS = Path(__file__).parent / "retention"
DAY = 24 * 3600
INSTANCES = "/runtime/webhooks/durabletask/instances"
IT_WAITS = "retention: the rest is left to the next time"
REMOVED = re.compile(r"retention: removed (\d+) conversations, (\d+) runs of others, (\d+) empty entities")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def host(model: ModelServer, redis: RedisProcess, durable_dir: Path) -> AsyncIterator[HostProcess]:
    """A host whose app keeps what was used within five days, looks every second and removes two of a kind at a time."""
    env = {
        "REDIS_CONNECTION_STRING": redis.url,
        "OPENAI_BASE_URL": model.base_url,
        "AUTH": "easy_auth",
        "WEBSITE_AUTH_ENABLED": "True",
        "HEARTBEAT_SECONDS": "1",
        "RETENTION_DAYS": "5",
        "RETENTION_SCHEDULE": "* * * * * *",
        "RETENTION_BATCH": "2",
    }
    with HostProcess(durable_dir, app_dir=TWO_AGENTS, port=free_port(), env=env) as host:
        yield host


@pytest.fixture
def owner() -> str:
    """A user whom no other test knows."""
    return f"owner-{uuid.uuid4()}"


@pytest_asyncio.fixture(loop_scope="session")
async def app(host: HostProcess, owner: str) -> AsyncIterator[App]:
    """The app as this user sees it."""
    async with app_of(host) as app:
        app.client.headers["x-ms-client-principal-id"] = owner
        yield app


def entity_of(conversation_id: str) -> str:
    return f"@dafx-travelplanner@{conversation_id}"


def age(durable_dir: Path, days: float, *instance_ids: str) -> None:
    """Let so many days pass for these orchestrations and entities."""
    with contextlib.closing(sqlite3.connect(durable_dir / "durable.sqlite", timeout=30)) as state:
        for instance_id in instance_ids:
            shift = (days * DAY, instance_id)
            state.execute("UPDATE instances SET created = created - ?1, updated = updated - ?1 WHERE id = ?2", shift)
            state.execute("UPDATE entities SET updated = updated - ?1 WHERE id = ?2", shift)
        state.commit()


async def pass_by(durable_dir: Path, redis: RedisProcess, days: float, *runs: dict[str, Any]) -> None:
    """Let so many days pass for these runs and their conversations, whose streams have expired by then."""
    for run in runs:
        await expire(redis, run["conversation_id"])
        age(durable_dir, days, run["correlation_id"], entity_of(run["conversation_id"]))


async def expire(redis: RedisProcess, conversation_id: str) -> None:
    stream = f"agent-stream:{conversation_id}"
    async with Redis.from_url(redis.url) as client:
        await client.delete(stream, f"agent-runs:{{{stream}}}")


async def begin(app: App, **fields: Any) -> dict[str, Any]:
    """Run a message to its end."""
    run = await app.start_run(script(chunks=["the answer"]), **fields)
    await app.finish(run)
    await eventually(lambda: has_status(app, run, "completed"))
    return run


async def has_status(app: App, run: dict[str, Any], status: str) -> bool:
    response = await app.client.get(run["status_url"])
    return response.status_code == 200 and response.json()["status"] == status


async def is_gone(app: App, run: dict[str, Any]) -> bool:
    # First what does not restore the stream, which would then be in use.
    for path in (run["status_url"], run["stream_url"], f"/api/agent/conversations/{run['conversation_id']}"):
        if (await app.client.get(path)).status_code != 404:
            return False
    return True


async def exists(app: App, instance_id: str) -> bool:
    return (await app.client.get(f"{INSTANCES}/{instance_id}")).status_code != 404


async def listed(app: App) -> set[str]:
    body = (await app.client.get("/api/agent/conversations")).json()
    return {each["conversation_id"] for each in body["conversations"]}


def ticks(app: App) -> list[tuple[int, ...]]:
    return [tuple(map(int, found)) for found in REMOVED.findall(app.host.log)]


async def ticked(app: App, times: int = 2) -> None:
    """Wait for ticks that begin after this."""
    before = len(ticks(app))

    async def again() -> bool:
        return len(ticks(app)) >= before + times

    await eventually(again)


async def test_promise_7_an_idle_conversation_goes_whole_and_others_stay_whole(
    app: App, redis: RedisProcess, durable_dir: Path
) -> None:
    idle, recent, open_ = [await begin(app) for _ in range(3)]
    hanging = await app.start_run(script(chunks=["so far"], hangs_after=1), conversation_id=open_["conversation_id"])
    await eventually(lambda: has_status(app, hanging, "running"))
    await pass_by(durable_dir, redis, 11, idle)
    await pass_by(durable_dir, redis, 4, recent)
    # Its open run keeps the stream.
    age(durable_dir, 11, open_["correlation_id"], entity_of(open_["conversation_id"]))

    await eventually(lambda: is_gone(app, idle))
    await ticked(app)

    assert not await exists(app, idle["correlation_id"])
    assert await listed(app) == {recent["conversation_id"], open_["conversation_id"]}
    for run in (recent, open_):
        assert await has_status(app, run, "completed")
        messages = (await app.client.get(f"/api/agent/conversations/{run['conversation_id']}")).json()["messages"]
        assert [message["text"] for message in messages[:2]] == [script(chunks=["the answer"]), "the answer"]
    assert (await app.client.post(f"{hanging['status_url']}/cancel")).status_code == 202
    await eventually(lambda: has_status(app, hanging, "cancelled"))


async def test_a_conversation_that_is_used_keeps_its_oldest_runs(
    app: App, redis: RedisProcess, durable_dir: Path
) -> None:
    key = {"Idempotency-Key": "one"}
    message = {"message": script(chunks=["half", "an answer"], hangs_after=1), "conversation_id": "long-lived"}
    old = (await app.client.post(RUN_ROUTE, json=message, headers=key)).json()
    await eventually(lambda: has_status(app, old, "running"))
    await app.client.post(f"{old['status_url']}/cancel")
    await eventually(lambda: has_status(app, old, "cancelled"))
    await begin(app, conversation_id="long-lived")
    await expire(redis, "long-lived")
    age(durable_dir, 400, old["correlation_id"])

    await ticked(app)

    # The agents' memory does not tell that it was cancelled, nor by which key.
    assert await has_status(app, old, "cancelled")
    again = await app.client.post(RUN_ROUTE, json=message, headers=key)
    assert again.json() == old
    await expire(redis, "long-lived")
    events = await app.events("/api/agent/stream/long-lived", {"follow": "false"})
    assert [event.event for event in events if event.event in ("done", "cancelled")] == ["cancelled", "done"]


async def test_it_is_used_while_one_of_its_agents_is(app: App, redis: RedisProcess, durable_dir: Path) -> None:
    asked = await begin(app, conversation_id="shared")
    body = {"message": script(chunks=["another"]), "conversation_id": "shared"}
    other = (await app.client.post("/api/agents/Guide/run", json=body)).json()
    await eventually(lambda: has_status(app, other, "completed"))
    await pass_by(durable_dir, redis, 11, asked)

    await ticked(app)
    assert await has_status(app, asked, "completed")

    age(durable_dir, 11, other["correlation_id"], "@dafx-guide@shared")
    await eventually(lambda: is_gone(app, asked))
    assert await is_gone(app, other)


async def test_a_tick_removes_no_more_than_a_batch_and_the_next_ones_take_up_the_rest(
    app: App, redis: RedisProcess, durable_dir: Path
) -> None:
    # What was removed before is told of by then.
    await ticked(app, 1)
    runs = [await begin(app, conversation_id=f"{name}-conversation") for name in ("a1", "a2", "a3", "B", "_")]
    before = len(ticks(app))
    await pass_by(durable_dir, redis, 11, *runs)

    for run in runs:
        await eventually(lambda run=run: is_gone(app, run))  # type: ignore[misc]

    await ticked(app)
    found = [conversations for conversations, _, _ in ticks(app)[before:] if conversations]
    assert sum(found) == len(runs)
    assert max(found) <= 2
    assert len(found) >= 3


async def test_what_comes_late_does_not_bring_half_of_it_back(app: App, redis: RedisProcess, durable_dir: Path) -> None:
    run = await begin(app, conversation_id="gone")
    started = (await app.client.get(f"{INSTANCES}/{run['correlation_id']}")).json()
    await pass_by(durable_dir, redis, 11, run)
    await eventually(lambda: is_gone(app, run))

    # A start that took its time: the run as it was accepted.
    late = f"/runtime/webhooks/durabletask/orchestrators/run_agent/{run['correlation_id']}"
    body = started["input"] if isinstance(started["input"], str) else json.dumps(started["input"])
    assert (await app.client.post(late, json=body)).status_code == 202
    await eventually(lambda: has_status(app, run, "failed"))

    assert (await app.client.get("/api/agent/conversations/gone")).status_code == 404
    assert (await app.client.get("/api/agent/stream/gone")).status_code == 404
    # Of a conversation that nobody knows such a run is all there is, until it has been idle, too.
    await ticked(app)
    assert await has_status(app, run, "failed")
    age(durable_dir, 11, run["correlation_id"])
    await eventually(lambda: is_gone(app, run))
    assert await listed(app) == set()

    again = await begin(app, conversation_id="gone")
    messages = (await app.client.get("/api/agent/conversations/gone")).json()["messages"]
    assert {message["correlation_id"] for message in messages} == {again["correlation_id"]}
    assert await listed(app) == {"gone"}


async def owner_lists(app: App) -> set[str]:
    found = (await app.client.get(INSTANCES, params={"instanceIdPrefix": "@owner_conversations@"})).json()
    return {each["instanceId"] for each in found}


async def test_entities_go_once_no_message_from_before_can_come(
    app: App, redis: RedisProcess, durable_dir: Path
) -> None:
    others = await owner_lists(app)
    run = await begin(app)
    entity = entity_of(run["conversation_id"])
    (owner_list,) = await owner_lists(app) - others
    await pass_by(durable_dir, redis, 11, run)
    await eventually(lambda: is_gone(app, run))
    await ticked(app)
    assert await exists(app, entity)

    # Idle for long enough, and not for eight days.
    age(durable_dir, 7, entity, owner_list)
    await ticked(app)
    assert await exists(app, entity)
    assert await exists(app, owner_list)

    age(durable_dir, 2, entity, owner_list)
    await eventually(lambda: both_gone(app, entity, owner_list))

    assert await is_gone(app, run)


async def both_gone(app: App, *instance_ids: str) -> bool:
    return not any([await exists(app, instance_id) for instance_id in instance_ids])


async def test_without_redis_it_waits(app: App, redis: RedisProcess, durable_dir: Path) -> None:
    run = await begin(app)
    await expire(redis, run["conversation_id"])
    before = app.host.log.count(IT_WAITS)
    redis.kill()
    age(durable_dir, 11, run["correlation_id"], entity_of(run["conversation_id"]))

    async def says_that_it_waits() -> bool:
        return app.host.log.count(IT_WAITS) > before

    await eventually(says_that_it_waits)
    assert await exists(app, entity_of(run["conversation_id"]))
    assert await exists(app, run["correlation_id"])

    redis.start()

    await eventually(lambda: is_gone(app, run))
