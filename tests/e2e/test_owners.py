"""Two users and what they know of each other: nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from devhost.testing import HostNotReadyError, HostProcess
from tests.app import RUN_ROUTE, App, running_app, text_of
from tests.model_server import ModelServer
from tests.redis_process import RedisProcess
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALICE, BOB = ({"x-ms-client-principal-id": name} for name in ("alice", "bob"))
UNKNOWN = "nobody-has-begun-this"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(
    model: ModelServer, redis: RedisProcess, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[App]:
    """An app that two users sign in to."""
    env = {
        "REDIS_CONNECTION_STRING": redis.url,
        "OPENAI_BASE_URL": model.base_url,
        "AUTH": "easy_auth",
        "WEBSITE_AUTH_ENABLED": "True",
        "STREAM_MAX_SECONDS": "10",
    }
    async with running_app(tmp_path_factory.mktemp("state"), env) as app:
        yield app


async def begin(app: App, user: Mapping[str, str], text: str = "secret of alice", **fields: Any) -> dict[str, Any]:
    """Run a message of a user's to its end."""
    message = script(chunks=[text])
    response = await app.client.post(RUN_ROUTE, json={"message": message, **fields}, headers=user)
    assert response.status_code == 202, response.text
    run: dict[str, Any] = response.json()
    assert "event: done" in (await app.client.get(run["stream_url"], headers=user)).text
    return run


def requests(conversation_id: str, correlation_id: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return a request of every kind for a conversation, or a run in it."""
    message = script(chunks=["x"])
    agui = {"threadId": conversation_id, "runId": "r1", "messages": [{"role": "user", "content": message}]}
    part = {"type": "text", "text": message}
    chat = {"id": conversation_id, "messages": [{"id": "m1", "role": "user", "parts": [part]}]}
    run = {"message": message, "conversation_id": conversation_id}
    conversation = f"/api/agent/conversations/{conversation_id}"
    return {
        "POST agents/{agent_name}/run": ("POST", RUN_ROUTE, {"json": run}),
        "GET agent/stream/{conversation_id}": ("GET", f"/api/agent/stream/{conversation_id}", {}),
        "GET agent/runs/{correlation_id}": ("GET", f"/api/agent/runs/{correlation_id}", {}),
        "POST agent/runs/{correlation_id}/cancel": ("POST", f"/api/agent/runs/{correlation_id}/cancel", {}),
        "GET agent/conversations/{conversation_id}": ("GET", conversation, {}),
        "DELETE agent/conversations/{conversation_id}": ("DELETE", conversation, {}),
        "POST agui/{agent_name}": ("POST", "/api/agui/TravelPlanner", {"json": agui}),
        "GET agui/{agent_name}/runs/{run_id}": (
            "GET",
            f"/api/agui/TravelPlanner/runs/r1?thread_id={conversation_id}&correlation_id={correlation_id}",
            {},
        ),
        "POST agui/{agent_name}/connect": ("POST", "/api/agui/TravelPlanner/connect", {"json": agui}),
        "POST chat": ("POST", "/api/chat", {"json": chat}),
        "GET chat/{conversation_id}/stream": (
            "GET",
            f"/api/chat/{conversation_id}/stream?correlation_id={correlation_id}",
            {},
        ),
        "GET agent/conversations": ("GET", "/api/agent/conversations", {}),
    }


# What tells nobody of a conversation.
OPEN = {"GET health", "GET openapi.json"}
# What starts a run where nobody knows the conversation.
STARTS = {"POST agents/{agent_name}/run", "POST agui/{agent_name}", "POST chat"}


async def test_every_route_is_in_the_table(shared: App) -> None:
    description = (await shared.client.get("/api/openapi.json")).json()
    served = {f"{method.upper()} {path[1:]}" for path, each in description["paths"].items() for method in each}

    assert served == set(requests("c", "r")) | OPEN


async def test_who_is_not_signed_in_is_told_to(shared: App) -> None:
    run = await begin(shared, ALICE)

    for name, (method, path, options) in requests(run["conversation_id"], run["correlation_id"]).items():
        response = await shared.client.request(method, path, **options)
        assert response.status_code == 401, name
        assert response.headers["content-type"] == "application/problem+json", name


async def test_promise_10_to_everybody_else_a_conversation_is_an_unknown_one(shared: App) -> None:
    run = await begin(shared, ALICE)
    ids = run["conversation_id"], run["correlation_id"]

    for name, (method, path, options) in requests(*ids).items():
        foreign = await shared.client.request(method, path, **options, headers=BOB)
        assert "secret" not in foreign.text, name
        if name in STARTS:
            assert foreign.status_code == 404, name
            continue
        _, unknown_path, unknown_options = requests(UNKNOWN, UNKNOWN)[name]
        unknown = await shared.client.request(method, unknown_path, **unknown_options, headers=BOB)
        assert foreign.status_code == unknown.status_code < 500, name
        assert foreign.text.replace(ids[0], UNKNOWN).replace(ids[1], UNKNOWN) == unknown.text, name

    messages = (await shared.client.get(f"/api/agent/conversations/{ids[0]}", headers=ALICE)).json()["messages"]
    assert [message["text"] for message in messages if message["role"] == "assistant"] == ["secret of alice"]


async def test_it_stays_its_owners_through_loss_and_restoration(shared: App, redis: RedisProcess) -> None:
    run = await begin(shared, ALICE)
    stream = f"/api/agent/stream/{run['conversation_id']}"
    redis.kill()
    redis.lose_data()
    redis.start()

    assert (await shared.client.get(stream, headers=BOB)).status_code == 404
    into = {"message": script(chunks=["x"]), "conversation_id": run["conversation_id"]}
    assert (await shared.client.post(RUN_ROUTE, json=into, headers=BOB)).status_code == 404
    assert "secret of alice" in (await shared.client.get(stream, headers=ALICE)).text


@pytest.mark.parametrize("route", ["/api/agent/stream/{}", "/api/chat/{}/stream"])
async def test_an_open_run_that_redis_lost_is_its_owners_still(shared: App, redis: RedisProcess, route: str) -> None:
    message = script(chunks=["a"], hangs_after=1)
    run = (await shared.client.post(RUN_ROUTE, json={"message": message}, headers=ALICE)).json()
    redis.kill()
    redis.lose_data()
    redis.start()

    path = f"{route.format(run['conversation_id'])}?correlation_id={run['correlation_id']}"
    for user, status in ((ALICE, 200), (BOB, 404)):
        async with shared.client.stream("GET", path, headers=user) as response:
            assert response.status_code == status
    await shared.client.post(f"{run['status_url']}/cancel", headers=ALICE)


async def test_while_redis_is_away_the_messages_are_their_owners_still(shared: App, redis: RedisProcess) -> None:
    conversation = f"/api/agent/conversations/{(await begin(shared, ALICE))['conversation_id']}"
    redis.kill()
    try:
        assert (await shared.client.get(conversation, headers=ALICE)).status_code == 200
        assert (await shared.client.get(conversation, headers=BOB)).status_code == 404
    finally:
        redis.start()


async def test_of_two_who_begin_a_conversation_at_once_one_has_it(shared: App) -> None:
    conversation_id = "begun-by-two"
    body = {"message": script(chunks=["mine"]), "conversation_id": conversation_id}

    responses = await asyncio.gather(*(shared.client.post(RUN_ROUTE, json=body, headers=user) for user in (ALICE, BOB)))

    assert sorted(response.status_code for response in responses) == [202, 404]


async def test_a_key_is_its_users_own(shared: App) -> None:
    body = {"message": script(chunks=["hello"])}
    key = {"Idempotency-Key": "the-same-for-both"}

    runs = [(await shared.client.post(RUN_ROUTE, json=body, headers=user | key)).json() for user in (ALICE, BOB)]

    assert runs[0]["correlation_id"] != runs[1]["correlation_id"]


async def test_the_list_has_ones_own_newest_first_and_not_what_was_deleted(shared: App) -> None:
    carol = {"x-ms-client-principal-id": "carol"}
    runs = [await begin(shared, carol, f"answer {number}") for number in range(3)]
    again = await begin(shared, carol, "more", conversation_id=runs[0]["conversation_id"])
    assert again["conversation_id"] == runs[0]["conversation_id"]

    async def listed() -> list[str]:
        response = await shared.client.get("/api/agent/conversations", headers=carol)
        return [each["conversation_id"] for each in response.json()["conversations"]]

    newest_first = [runs[0]["conversation_id"], runs[2]["conversation_id"], runs[1]["conversation_id"]]

    async def is_complete() -> bool:
        return await listed() == newest_first

    await eventually(is_complete)
    gone = await shared.client.delete(f"/api/agent/conversations/{newest_first[0]}", headers=carol)
    assert gone.status_code == 204

    async def is_gone() -> bool:
        return await listed() == newest_first[1:]

    await eventually(is_gone)
    assert (await shared.client.delete(f"/api/agent/conversations/{newest_first[0]}", headers=carol)).status_code == 204


async def test_with_keys_the_header_of_an_attacker_means_nothing(app: App) -> None:
    run = await app.start_run(script(chunks=["for all who have the key"]))

    events = await app.events(run["stream_url"], headers=BOB)

    assert text_of(events) == "for all who have the key"
    assert (await app.client.get("/api/agent/conversations", headers=BOB)).status_code == 404


async def test_without_the_platforms_word_the_app_does_not_start(redis_url: str, state_dir: Any) -> None:
    env = {"REDIS_CONNECTION_STRING": redis_url, "AUTH": "easy_auth", "WEBSITE_AUTH_ENABLED": "False"}

    with pytest.raises(HostNotReadyError, match="WEBSITE_AUTH_ENABLED"), HostProcess(state_dir, env=env):
        pass
