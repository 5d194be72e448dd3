"""``agentstream.client`` and a server that has bad days; what it does on good ones is in ``test_clients``."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from agentstream.client import AgentClient, AgentClientError, RetryPolicy, Run, StreamEvent
from tests.app import App
from tests.clients.scripted_server import DONE, NOTHING_FOLLOWS, SOON, A, Answer, B, ScriptedServer, event, problem
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHORT = RetryPolicy(tries=4, max_pause_seconds=0.05)
# No connection holds for as long as its longest pause, so that none is progress of itself.
STRICT = RetryPolicy(tries=4)
JSON = {"Content-Type": "application/json"}
ACCEPTED = Answer(json.dumps({"conversation_id": "c", "correlation_id": "r"}).encode(), HTTPStatus.ACCEPTED, JSON)
BUSY = problem(503, "The service is busy.", **{"Retry-After": "0"})


@contextlib.asynccontextmanager
async def asking(server: ScriptedServer, retry: RetryPolicy = SHORT) -> AsyncIterator[AgentClient]:
    async with httpx.AsyncClient(base_url=f"{server.url}/api", headers={"x-functions-key": "k"}) as http:
        yield AgentClient(http, retry)


@contextlib.asynccontextmanager
async def following(*answers: Answer, retry: RetryPolicy = STRICT) -> AsyncIterator[tuple[ScriptedServer, Run]]:
    async with ScriptedServer(answers) as server, asking(server, retry) as client:
        yield server, client.run("c", "r")


async def texts(run: Run) -> list[str]:
    return [event.data async for event in run.events()]


@pytest.mark.parametrize("end", ["clean", "cut"])
async def test_a_response_that_ends_before_the_run_is_resumed_after_its_last_whole_event(end: Any) -> None:
    async with following(
        Answer(SOON + A + B[:-1], end=end), Answer(status=0), BUSY, Answer(B, end=end), Answer(DONE)
    ) as (server, run):
        assert await texts(run) == ["a", "b\n", "[DONE]"]

    assert (run.text, run.last_event_id, run.end) == ("ab\n", "3-0", StreamEvent("3-0", "done", "[DONE]"))
    assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "1-0", "1-0", "1-0", "2-0"]
    assert {(asked.path, asked.headers["x-functions-key"]) for asked in server.asked} == {
        ("/api/agent/stream/c?correlation_id=r", "k")
    }


async def test_a_reset_voids_the_text_so_far() -> None:
    async with following(Answer(SOON + A + event("1-1", "reset", "{}") + B + DONE)) as (_, run):
        assert await texts(run) == ["a", "{}", "b\n", "[DONE]"]

    assert run.text == "b\n"


async def test_heartbeats_and_the_time_to_reconnect_are_no_events() -> None:
    async with following(Answer(SOON + b": heartbeat\n" + A + b": heartbeat\n" + SOON + DONE)) as (_, run):
        assert await texts(run) == ["a", "[DONE]"]


async def test_the_server_says_how_soon_to_come_back() -> None:
    async with following(Answer(b"retry: 1400\n\n" + A), Answer(DONE)) as (server, run):
        await texts(run)

    # By chance between half of it and all of it.
    assert server.asked[1].at - server.asked[0].at >= 0.7


async def test_it_gives_up_after_so_many_tries_without_anything_new() -> None:
    async with following(Answer(SOON + A), Answer(SOON)) as (server, run):
        with pytest.raises(AgentClientError, match="gave up after 4 tries"):
            await texts(run)

    assert run.text == "a"
    assert len(server.asked) == 1 + 4


async def test_tries_are_counted_anew_with_each_event() -> None:
    events = [event(f"{number}-0", "message", str(number)) for number in range(1, 7)]
    answers = [Answer(SOON + each) for each in events]
    async with following(*answers, Answer(DONE), retry=RetryPolicy(tries=2)) as (_, run):
        assert await texts(run) == [*"123456", "[DONE]"]


async def test_a_connection_that_held_is_progress_though_it_brought_nothing() -> None:
    silent = Answer(SOON, end="silence")
    retry = RetryPolicy(tries=1, max_pause_seconds=0.01, silence_seconds=0.1)
    async with following(silent, silent, silent, Answer(A + DONE), retry=retry) as (server, run):
        assert await texts(run) == ["a", "[DONE]"]

    assert server.left == 3


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_refusal_is_an_error_that_says_why(status: int) -> None:
    async with following(Answer(SOON + A), problem(status, "There is no such run.")) as (server, run):
        with pytest.raises(AgentClientError, match=r"There is no such run\.") as raised:
            await texts(run)

    assert raised.value.status == status
    assert len(server.asked) == 2


@pytest.mark.parametrize("when", ["3600", formatdate(time.time() + 3600, usegmt=True)], ids=["seconds", "date"])
async def test_a_server_that_asks_for_a_longer_pause_than_allowed_is_not_asked_again(when: str) -> None:
    async with following(problem(503, "Closed.", **{"Retry-After": when})) as (server, run):
        with pytest.raises(AgentClientError, match="Closed"):
            await texts(run)

    assert len(server.asked) == 1


async def test_a_page_is_no_stream() -> None:
    async with following(Answer(b"<p>Log in", headers={"Content-Type": "text/html"})) as (server, run):
        with pytest.raises(AgentClientError, match="text/event-stream"):
            await texts(run)

    assert len(server.asked) == 1


async def test_no_content_is_the_end() -> None:
    async with following(NOTHING_FOLLOWS) as (server, run):
        assert await texts(run) == []
        assert await texts(run) == []

    assert run.end is None
    assert len(server.asked) == 1


async def test_who_closes_it_asks_for_nothing_more() -> None:
    async with following(Answer(SOON + A, end="silence"), Answer(B)) as (server, run):
        async with contextlib.aclosing(run.events()) as events:
            assert (await anext(events)).data == "a"

        async def was_left() -> bool:
            return server.left == 1

        await eventually(was_left)
        assert len(server.asked) == 1


async def test_it_goes_on_where_it_was_closed() -> None:
    async with following(Answer(SOON + A + B, end="silence"), Answer(B + DONE)) as (server, run):
        async with contextlib.aclosing(run.events()) as events:
            await anext(events)
        assert await texts(run) == ["b\n", "[DONE]"]

    assert run.text == "ab\n"
    assert server.asked[1].headers["last-event-id"] == "1-0"


async def test_who_is_cancelled_in_a_pause_asks_for_nothing_more() -> None:
    async with following(Answer(b"retry: 30000\n\n" + A)) as (server, run):
        reading = asyncio.create_task(texts(run))

        async def waits() -> bool:
            return run.text == "a" and server.left == 0 and len(server.asked) == 1

        await eventually(waits)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    assert len(server.asked) == 1


async def test_a_start_is_sent_again_as_the_same_run() -> None:
    async with ScriptedServer([Answer(status=0), BUSY, ACCEPTED]) as server, asking(server) as client:
        run = await client.start("A b", "hello", conversation_id="c")

    assert (run.conversation_id, run.correlation_id) == ("c", "r")
    assert {(asked.path, asked.body) for asked in server.asked} == {
        ("/api/agents/A%20b/run", b'{"message":"hello","conversation_id":"c"}')
    }
    assert len(server.asked) == 3
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1


async def test_a_start_that_is_refused_or_never_answered_is_an_error() -> None:
    refusal = problem(404, "There is no agent of this name.")
    async with ScriptedServer(itertools.chain([refusal], itertools.repeat(BUSY))) as server, asking(server) as client:
        with pytest.raises(AgentClientError, match="no agent of this name"):
            await client.start("X", "hello")
        with pytest.raises(AgentClientError, match="busy") as raised:
            await client.start("X", "hello")

    assert raised.value.status == 503
    assert len(server.asked) == 1 + 5


async def test_start_cancel_and_status_on_the_app(app: App) -> None:
    async with httpx.AsyncClient(base_url=f"{app.host.base_url}/api") as http:
        run = await AgentClient(http).start("TravelPlanner", script(chunks=["so ", "far", "never"], hangs_after=2))
        events = run.events()
        assert [(await anext(events)).data, (await anext(events)).data] == ["so ", "far"]

        assert (await run.cancel())["status"] == "running"

        assert [event.kind async for event in events] == ["cancelled"]
        status = await run.status()
        assert (status["status"], status["response"], run.text) == ("cancelled", "so far", "so far")
        with pytest.raises(AgentClientError) as raised:
            await run.cancel()
        assert raised.value.status == HTTPStatus.CONFLICT
