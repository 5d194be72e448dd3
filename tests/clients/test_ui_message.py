"""The real chat transport of the AI SDK, and its reader of message streams, against the real app."""

from typing import Any

import pytest
from redis.asyncio import Redis

from tests.app import App
from tests.chat import CHAT_ROUTE, new_id
from tests.clients.harness import Line, needs_node, run_script, script
from tests.scripts import script as reply

pytestmark = [pytest.mark.asyncio(loop_scope="session"), needs_node]

CHUNKS = ["# A plan\n", "data: no field\n\n", "🗼 東京", ' "quoted" \n', "end"]
ANSWER = "".join(CHUNKS)
TOOL, ARGUMENTS = "get_weather_forecast", {"destination": "Tōkyō", "date": "day 1"}
versions = pytest.mark.parametrize("package", ["ai", "ai-6"])


def parts_of(end: Line, kind: str) -> list[dict[str, Any]]:
    return [part for part in end["message"]["parts"] if part["type"] == kind]


def text_of(end: Line) -> str:
    return "".join(part["text"] for part in parts_of(end, "text"))


async def chat(origin: str, package: str, **plan: Any) -> Line:
    plan = {"id": new_id()} | plan
    return (await run_script("ui_message_chat", package=package, api=origin + CHAT_ROUTE, **plan))[-1]


@versions
async def test_a_run_with_tools(app: App, package: str) -> None:
    question = reply(tool_calls=[[TOOL, ARGUMENTS]] * 2, chunks=CHUNKS)

    end = await chat(app.host.base_url, package, text=question)

    assert text_of(end) == ANSWER == (await app.run(end["message"]["id"]))["response"]
    for tool in parts_of(end, "dynamic-tool"):
        assert (tool["toolName"], tool["state"], tool["input"]) == (TOOL, "output-available", ARGUMENTS)
        assert "°C" in tool["output"]
    assert len(parts_of(end, "dynamic-tool")) == 2
    assert "error" not in end


@versions
async def test_promise_5_it_converges_when_redis_loses_the_conversation_but_version_6_knows_no_reset(
    app: App, redis_url: str, package: str
) -> None:
    plan = {"package": package, "api": app.host.base_url + CHAT_ROUTE, "id": new_id(), "resumable": True}
    key = f"agent-stream:{plan['id']}"
    redis: Any = Redis.from_url(redis_url)
    async with redis, script("ui_message_chat", **plan, text=reply(chunks=CHUNKS, delay_seconds=0.3)) as client:
        await client.printed(3)
        await redis.delete(key, f"agent-runs:{{{key}}}")
        end = (await client.finish(60))[-1]

    if package == "ai":
        assert (text_of(end), end.get("error")) == (ANSWER, None)
    else:
        assert "Type validation failed" in end["error"]
        assert "reset-step" in end["error"]


@versions
async def test_a_chat_is_resumed_from_its_beginning_while_it_is_active(app: App, package: str) -> None:
    chat_id = new_id()
    plan = {"package": package, "api": app.host.base_url + CHAT_ROUTE, "id": chat_id}
    async with script("ui_message_chat", **plan, text=reply(chunks=CHUNKS, delay_seconds=0.5)) as first:
        await first.printed(3)
        resumed = await chat(app.host.base_url, package, id=chat_id)
        end = (await first.finish())[-1]

    assert resumed == end
    assert text_of(resumed) == ANSWER
    assert await chat(app.host.base_url, package, id=chat_id) == {"nothing": True}


@versions
async def test_a_run_that_failed_is_told_in_words(app: App, package: str) -> None:
    end = await chat(app.host.base_url, package, text=reply(status=500))

    assert end["error"] == "The model could not answer. Send the message again."


@versions
async def test_a_cancelled_run_keeps_what_was_said(app: App, package: str) -> None:
    plan = {"package": package, "api": app.host.base_url + CHAT_ROUTE, "id": new_id()}
    async with script("ui_message_chat", **plan, text=reply(chunks=["a", "b"], hangs_after=1)) as client:
        await client.printed(3)
        await app.client.post(f"/api/agent/runs/{client.lines[0]['id']}/cancel")
        end = (await client.finish())[-1]

    assert text_of(end) == "a"
    assert "error" not in end
