"""The real ``HttpAgent`` of AG-UI, with its own checks of the events' order, against the real app."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.app import App
from tests.chat import AGUI_ROUTE, new_id
from tests.clients.harness import Line, needs_node, run_script, script
from tests.scripts import script as reply

pytestmark = [pytest.mark.asyncio(loop_scope="session"), needs_node]

CHUNKS = ["# A plan\n", "data: no field\n\n", "🗼 東京", ' "quoted" \n', "end"]
ANSWER = "".join(CHUNKS)
CALLS = [["get_weather_forecast", {"destination": "Tōkyō", "date": "day 1"}]] * 2
versions = pytest.mark.parametrize("package", ["@ag-ui/client", "@ag-ui/client-0.0.59"])
LATER_PACKAGE = "@ag-ui/client"


def ends(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if "messages" in line]


def said(end: Line) -> list[tuple[str, Any]]:
    return [(message["role"], message.get("content")) for message in end["messages"]]


async def ask(origin: str, package: str, *asks: dict[str, Any], **plan: Any) -> list[Line]:
    """Return how each ask of one agent ended."""
    plan = {"thread_id": new_id()} | plan
    return ends(await run_script("ag_ui_thread", package=package, url=origin + AGUI_ROUTE, asks=asks, **plan))


@versions
async def test_a_conversation_with_tools(app: App, package: str) -> None:
    question = reply(tool_calls=CALLS, chunks=CHUNKS)

    first, second = await ask(
        app.host.base_url, package, {"message": question}, {"message": reply(chunks=["and", " more"])}
    )

    user, answer, *results = first["messages"]
    assert user["content"] == question
    assert answer["content"] == ANSWER == (await app.run(answer["id"]))["response"]
    assert [json.loads(call["function"]["arguments"]) for call in answer["toolCalls"]] == [each[1] for each in CALLS]
    assert [call["function"]["name"] for call in answer["toolCalls"]] == [each[0] for each in CALLS]
    assert [(result["role"], result["toolCallId"]) for result in results] == [
        ("tool", call["id"]) for call in answer["toolCalls"]
    ]
    assert all("°C" in result["content"] for result in results)
    assert said(second)[-2:] == [("user", reply(chunks=["and", " more"])), ("assistant", "and more")]
    assert "error" not in first | second


@versions
async def test_promise_5_it_converges_when_redis_loses_the_conversation(app: App, redis_url: str, package: str) -> None:
    plan = {"package": package, "url": app.host.base_url + AGUI_ROUTE, "thread_id": new_id(), "resumable": True}
    key = f"agent-stream:{plan['thread_id']}"
    question = reply(chunks=CHUNKS, delay_seconds=0.3)
    redis: Any = Redis.from_url(redis_url)
    async with redis, script("ag_ui_thread", **plan, asks=[{"message": question}]) as agent:
        await agent.printed(4)
        await redis.delete(key, f"agent-runs:{{{key}}}")
        [end] = ends(await agent.finish(60))

    assert [each for each in said(end) if each[0] != "reasoning"] == [("user", question), ("assistant", ANSWER)]
    assert "error" not in end
    assert "MESSAGES_SNAPSHOT" in [line.get("event") for line in agent.lines]


@versions
async def test_a_cancelled_run_is_no_success(app: App, package: str) -> None:
    plan = {"package": package, "url": app.host.base_url + AGUI_ROUTE, "thread_id": new_id()}
    asks = [{"message": reply(chunks=["a", "b"], hangs_after=1)}]
    async with script("ag_ui_thread", **plan, asks=asks) as agent:
        await agent.printed(3)
        await app.client.post(f"/api/agent/runs/{agent.lines[1]['id']}/cancel")
        [end] = ends(await agent.finish())

    assert said(end)[-1] == ("assistant", "a")
    if package == LATER_PACKAGE:
        assert (end.get("outcome"), end.get("error")) == ("cancelled", None)
    else:
        assert (end.get("outcome"), end.get("error")) == (None, "cancelled")


@versions
async def test_a_failed_run_is_told_by_its_code(app: App, package: str) -> None:
    [end] = await ask(app.host.base_url, package, {"message": reply(status=500)})

    assert end["error"] == "model_error"


@versions
async def test_who_joins_a_thread_is_told_what_was_said_in_order(app: App, package: str) -> None:
    thread_id = new_id()
    question = reply(chunks=["one"])
    [first] = await ask(app.host.base_url, package, {"message": question}, thread_id=thread_id)

    joins: list[dict[str, Any]] = [{"connect": True}, {"message": reply(chunks=["two"])}, {"connect": True}]
    fresh, again, rejoined = await ask(app.host.base_url, package, *joins, thread_id=thread_id)
    [knowing] = await ask(
        app.host.base_url, package, {"connect": True}, thread_id=thread_id, messages=first["messages"]
    )

    assert said(fresh) == [("user", question), ("assistant", "one")]
    everything = [*said(fresh), ("user", reply(chunks=["two"])), ("assistant", "two")]
    assert said(again) == said(rejoined) == said(knowing) == everything
    assert "error" not in rejoined | knowing


@versions
async def test_what_is_not_supported_is_refused_in_words(app: App, package: str) -> None:
    [end] = await ask(app.host.base_url, package, {"message": " "})

    assert "message is empty" in end["error"]
