"""Each client against the real app: what it holds at the end of a run is the run's committed answer."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.app import App, text_of
from tests.clients.cutting_proxy import CuttingProxy
from tests.clients.followers import CLIENTS, following
from tests.clients.harness import needs_node, run_script
from tests.recording_follower import Received
from tests.scripts import script as reply
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Whatever the framing has to survive: line breaks of three kinds, what looks like a field, leading spaces, characters
# beyond the basic plane.
CHUNKS = ["# A plan\n", "\n", " data: no field", "\r\nid: 1", "\r", "\n\n\n", "\U0001f5fc 東京 ", "é\u2028.", "  end\n"]
# Each an event of its own: what of a line break is certain only with the next chunk is told with that.
WORDS = ["A ", "plan ", "for ", "three ", "days"]
# So small that ten responses cut there never hold all of the answer.
MAX_CUT_BYTES = 700

Scenario = Callable[[str], Coroutine[Any, Any, None]]


@needs_node
async def test_the_javascript_clients_are_here() -> None:
    assert await run_script("installed") == [{"installed": True}]


async def with_each_client(scenario: Scenario) -> None:
    """Go through a scenario with all clients at once."""

    async def named(client: str) -> None:
        try:
            await scenario(client)
        except Exception as error:
            error.add_note(f"the client is {client}")
            raise

    async with asyncio.TaskGroup() as clients:
        for client in CLIENTS:
            clients.create_task(named(client))


async def assert_told(app: App, run: dict[str, str], events: list[Received], end: str) -> None:
    """Check what a client was told against the run's committed state."""
    committed = await app.run(run["correlation_id"])
    ends = {"completed": "done", "failed": "error", "cancelled": "cancelled"}
    told = (events[-1].event, text_of(events).replace("\r", ""))

    assert told == (end, _as_lf(committed["response"] or ""))
    assert ends[committed["status"]] == end
    assert len({event.id for event in events}) == len(events)


def _as_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


async def test_a_whole_run(app: App) -> None:
    async def scenario(client: str) -> None:
        run = await app.start_run(reply(chunks=CHUNKS))
        async with following(client, app.host.base_url, run) as follower:
            await assert_told(app, run, await follower.finish(), "done")

    await with_each_client(scenario)


async def test_cut_ten_times_at_any_byte(app: App) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")

    async def scenario(client: str) -> None:
        # What this one does with cuts is a test of its own.
        if client == "fetch-event-source":
            return
        dice = random.Random(f"{seed} {client}")
        run = await app.start_run(reply(chunks=CHUNKS * 12))
        async with (
            CuttingProxy(app.host.port, [dice.randint(1, MAX_CUT_BYTES) for _ in range(10)]) as proxy,
            following(client, f"http://127.0.0.1:{proxy.port}", run) as follower,
        ):
            await assert_told(app, run, await follower.finish(90), "done")
        assert proxy.cuts_left == 0

    await with_each_client(scenario)


async def test_the_server_ends_the_response_again_and_again(brief: App) -> None:
    async def scenario(client: str) -> None:
        run = await brief.start_run(reply(chunks=CHUNKS, delay_seconds=0.4))
        async with following(client, brief.host.base_url, run) as follower:
            await assert_told(brief, run, await follower.finish(), "done")

    await with_each_client(scenario)


async def test_the_host_is_killed_and_started_again_in_the_middle(brief: App) -> None:
    # A model that hangs keeps the run open for as long as it takes, in both attempts.
    run = await brief.start_run(reply(chunks=[*WORDS, "never"], hangs_after=len(WORDS)))

    async def is_told_again(events: list[Received]) -> bool:
        return "reset" in [event.event for event in events] and text_of(events) == "".join(WORDS)

    async with contextlib.AsyncExitStack() as stack:
        followers = {
            client: await stack.enter_async_context(following(client, brief.host.base_url, run)) for client in CLIENTS
        }
        await asyncio.gather(*(follower.received(len(WORDS)) for follower in followers.values()))

        brief.host.restart()

        for follower in followers.values():
            await eventually(partial(is_told_again, follower.events), 60)
        await brief.client.post(f"{run['status_url']}/cancel")
        for follower in followers.values():
            await assert_told(brief, run, await follower.finish(), "cancelled")


async def test_a_second_client_joins_in_the_middle(app: App) -> None:
    async def scenario(client: str) -> None:
        run = await app.start_run(reply(chunks=CHUNKS, delay_seconds=0.1))
        async with following(client, app.host.base_url, run) as first:
            await first.received(3)
            async with following(client, app.host.base_url, run) as second:
                assert await second.finish() == await first.finish()
        await assert_told(app, run, second.events, "done")

    await with_each_client(scenario)


async def test_a_run_is_cancelled(app: App) -> None:
    async def scenario(client: str) -> None:
        chunks = CHUNKS
        run = await app.start_run(reply(chunks=[*chunks, "never"], hangs_after=len(chunks)))
        async with following(client, app.host.base_url, run) as follower:
            await follower.received(3)
            await app.client.post(f"{run['status_url']}/cancel")
            await assert_told(app, run, await follower.finish(), "cancelled")

    await with_each_client(scenario)


async def test_the_model_fails(app: App) -> None:
    async def scenario(client: str) -> None:
        run = await app.start_run(reply(status=401))
        async with following(client, app.host.base_url, run) as follower:
            events = await follower.finish()
        await assert_told(app, run, events, "error")
        assert json.loads(events[-1].data)["code"] == "model_error"

    await with_each_client(scenario)


async def test_the_stream_has_expired(brief: App, redis_url: str) -> None:
    async def scenario(client: str) -> None:
        run = await brief.start_run(reply(chunks=CHUNKS))
        await brief.finish(run)

        async def has_expired() -> bool:
            async with Redis.from_url(redis_url) as redis:
                return not await redis.exists(f"agent-stream:{run['conversation_id']}")

        await eventually(has_expired)
        async with following(client, brief.host.base_url, run) as follower:
            await assert_told(brief, run, await follower.finish(), "done")

    await with_each_client(scenario)
