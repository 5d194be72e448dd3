"""The clients of AG-UI and the AI SDK over ``resumableFetch``: what they show in the end is the committed answer."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.app import App
from tests.chat import AGUI_ROUTE, CHAT_ROUTE, new_id
from tests.clients.cutting_proxy import CuttingProxy
from tests.clients.harness import Line, Script, needs_node, script
from tests.scripts import script as reply

pytestmark = [needs_node, pytest.mark.asyncio(loop_scope="session")]

CHUNKS = ["# A plan\n", "\n", " data: no field", "\n\n\n", "\U0001f5fc 東京 ", "é\u2028.", "[DONE]", "RUN_FINISHED\n"]
AG_UI = ["@ag-ui/client", "@ag-ui/client-0.0.59"]
AI_SDK = ["ai", "ai-6"]
# A cut is followed by the next try without much ado.
SOON = {"maxDelayMs": 300}


@asynccontextmanager
async def asking(client: str, origin: str, message: str, **plan: Any) -> AsyncIterator[Script]:
    """Send a message by this client, while the block runs."""
    if client in AG_UI:
        plan |= {"url": origin + AGUI_ROUTE, "threadId": new_id(), "runId": new_id()}
        name = "ag_ui"
    else:
        plan |= {"url": origin + CHAT_ROUTE, "chatId": new_id(), "messageId": new_id()}
        name = "ui_message"
    async with script(name, client=client, message=message, **plan) as running:
        yield running


def shown(lines: list[Line]) -> Mapping[str, Any]:
    """Return the id and text of the newest message that a client shows, and its error."""
    last = lines[-1]
    if "messages" not in last:
        return last
    return {"id": last["messages"][-1]["id"], "text": last["messages"][-1]["content"], "error": last.get("error")}


async def assert_shows_what_is_committed(app: App, lines: list[Line]) -> None:
    message = shown(lines)
    run = await app.run(message["id"])

    assert message.get("error") is None
    assert (run["status"], run["response"]) == ("completed", message["text"])


async def test_cut_ten_times_at_any_byte(app: App) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")

    async def scenario(client: str) -> None:
        dice = random.Random(f"{seed} {client}")
        async with (
            CuttingProxy(app.host.port, [dice.randint(1, 1_200) for _ in range(10)]) as proxy,
            asking(client, f"http://127.0.0.1:{proxy.port}", reply(chunks=CHUNKS * 10), options=SOON) as running,
        ):
            lines = await running.finish(90)
        assert proxy.cuts_left == 0
        await assert_shows_what_is_committed(app, lines)
        assert shown(lines)["text"] == "".join(CHUNKS * 10)

    async with asyncio.TaskGroup() as clients:
        for client in AG_UI + AI_SDK:
            clients.create_task(scenario(client))


async def test_the_host_is_killed_and_started_again_in_the_middle_of_responses_that_end(brief: App) -> None:
    # Version 6 of the AI SDK knows no reset.
    clients = [*AG_UI, "ai"]
    message = reply(chunks=CHUNKS * 3, delay_seconds=0.15)
    async with AsyncExitStack() as stack:
        scripts = [await stack.enter_async_context(asking(client, brief.host.base_url, message)) for client in clients]
        await asyncio.gather(*(running.printed(3) for running in scripts))

        brief.host.restart()

        for running in scripts:
            lines = await running.finish(60)
            await assert_shows_what_is_committed(brief, lines)
            assert shown(lines)["text"] == "".join(CHUNKS * 3)


@pytest.mark.parametrize("client", AG_UI)
async def test_without_it_ag_uis_client_takes_half_an_answer_for_the_whole(brief: App, client: str) -> None:
    message = reply(chunks=["half", "never"], hangs_after=1)

    async with asking(client, brief.host.base_url, message, plain=True) as running:
        lines = await running.finish()

    assert (shown(lines)["text"], shown(lines)["error"]) == ("half", None)
    assert (await brief.run(shown(lines)["id"]))["status"] == "running"
    await brief.client.post(f"/api/agent/runs/{shown(lines)['id']}/cancel")
