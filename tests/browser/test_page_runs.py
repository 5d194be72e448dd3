"""A run as its reader sees it: it streams, is cut, goes on, is joined, stopped, fails, and comes back."""

import asyncio
import re
from typing import Any

import pytest
from redis.asyncio import Redis

from devhost.testing import HostProcess
from tests.browser.chat import Chat, expect
from tests.browser.conftest import NewVisit, Replies
from tests.model_server import Reply, says
from tests.proxy import Proxy

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORDS = tuple(f"word{number} " for number in range(60))
TEXT = "".join(WORDS).strip()
SLOW = Reply(WORDS, delay_seconds=0.04)


async def committed(chat: Chat) -> list[dict[str, Any]]:
    """Return the conversation's messages."""
    response = await chat.page.request.get(f"{chat.origin}/api/agent/conversations/{chat.conversation_id}")
    messages: list[dict[str, Any]] = (await response.json())["messages"]
    return messages


async def test_tools_and_text_of_the_sample_stream(planner: HostProcess, new_visit: NewVisit) -> None:
    async with new_visit(planner.base_url) as visit:
        chat = await visit.tab()
        await chat.send("Plan a 2-day trip to Tokyo")
        answer = chat.answers.last

        await expect(answer).to_have_attribute("aria-busy", "true")
        await expect(chat.status).to_have_text("live")
        await expect(answer.get_by_role("heading", name="2 days in Tokyo")).to_be_visible()
        await chat.ended("done")

        await expect(answer).to_have_attribute("aria-busy", "false")
        await expect(answer.get_by_role("heading", name=re.compile("^Day"))).to_have_count(2)
        await expect(chat.page.locator("#figures")).to_contain_text(re.compile(r"first chunk after \d+\.\d\d s"))
        calls = answer.locator("details")
        assert [text.split()[0] for text in await calls.locator("summary").all_inner_texts()] == [
            "get_weather_forecast",
            "get_local_events",
        ] * 2
        assert not await calls.first.locator("pre").is_visible()
        await calls.first.locator("summary").click()
        await expect(calls.first).to_contain_text('"destination": "Tokyo"')
        await expect(calls.first).to_contain_text("chance of rain (sample data)")


async def test_a_follow_up_remembers(planner: HostProcess, new_visit: NewVisit) -> None:
    async with new_visit(planner.base_url) as visit:
        chat = await visit.tab()
        await chat.ask("Plan a 1-day trip to Rome")
        await chat.ask("make it two days")

        await expect(chat.answers.last.get_by_role("heading", name="2 days in Rome")).to_be_visible()
        await expect(chat.questions).to_have_text(["Plan a 1-day trip to Rome", "make it two days"])


async def test_the_button_cuts_and_the_page_goes_on_from_the_cursor(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    replies["cut me"] = SLOW
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        cursors: list[str | None] = []
        chat.page.on("request", lambda request: cursors.append(request.headers.get("last-event-id")))
        await chat.record_states()
        await chat.send("cut me")
        await chat.says("word5 ")

        await chat.button("Cut the connection").click()

        await chat.ended("done")
        assert await chat.text() == TEXT
        states, cursor = await chat.states(), cursors[-1]
        assert states[:2] == ["connecting", "live"]
        assert states[-3:] == [f"reconnecting from {cursor}", f"live, resumed from {cursor}", "done"]


async def test_connections_that_are_cut_cost_nothing(host: HostProcess, replies: Replies, new_visit: NewVisit) -> None:
    replies["a bad network"] = SLOW
    async with Proxy(host.port) as proxy, new_visit(f"http://127.0.0.1:{proxy.port}") as visit:
        chat = await visit.tab()
        await chat.record_states()
        await chat.send("a bad network")
        for number in (5, 15):
            await chat.says(f"word{number} ")
            proxy.reset_connections()
        with proxy.outage():
            await expect(chat.status).to_have_text(re.compile("^reconnecting"))

        await chat.ended("done")

        assert await chat.text() == TEXT
        assert any(state.startswith("live, resumed from ") for state in await chat.states())
        visit.forgive_broken_connections()


async def test_reloaded_twice_it_goes_on_where_it_was(host: HostProcess, replies: Replies, new_visit: NewVisit) -> None:
    replies["reload me"] = SLOW
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.send("reload me")
        for number in (5, 20):
            await chat.says(f"word{number} ")
            await expect(chat.status).to_have_text("live")
            await chat.page.reload()

        await expect(chat.questions).to_have_text(["reload me"])
        await chat.ended("done")

        assert await chat.text() == TEXT


async def test_a_second_tab_joins(host: HostProcess, replies: Replies, new_visit: NewVisit) -> None:
    replies["join me"] = SLOW
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.send("join me")
        await chat.says("word5 ")

        other = await visit.tab(chat.conversation_id)

        await other.says("word5 ")
        await expect(chat.status).to_have_text("live")
        for tab in (chat, other):
            await tab.ended("done")
            assert await tab.text() == TEXT


async def test_stopped_it_keeps_what_was_said(host: HostProcess, replies: Replies, new_visit: NewVisit) -> None:
    replies["stop me"] = Reply(WORDS, hangs_after=10)
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.send("stop me")
        await chat.says("word9")

        await chat.button("Stop").click()
        await chat.ended("cancelled")

        said = await chat.text()
        assert said == TEXT[: len(said)]
        assert (await committed(chat))[-1]["text"].strip() == said
        await chat.page.reload()
        await chat.ended("cancelled")
        assert await chat.text() == said


async def test_an_error_is_told_and_the_next_message_works(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    replies["fail"] = Reply(status=400)
    replies["and now"] = says("Fine.")
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.send("fail")

        await expect(chat.answers.locator(".problem")).to_have_text(re.compile("model"))
        await chat.ended(await chat.answers.locator(".problem").inner_text())
        assert "secret" not in await chat.page.content()

        await chat.ask("and now")
        assert await chat.text() == "Fine."


async def test_a_killed_host_that_starts_again_is_waited_for(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    lines = tuple(f"line {number}\n\n" for number in range(60))
    replies["kill it"] = Reply(lines, hangs_after=40)
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        conversation = chat.page.locator("#conversation")
        await chat.send("kill it")
        await chat.says("line 39")
        await conversation.evaluate("(main) => main.scrollTo(0, 300)")

        await asyncio.to_thread(host.kill)
        try:
            await expect(chat.status).to_have_text(re.compile("^reconnecting from"))
            replies["kill it"] = Reply(lines, delay_seconds=0.02)
        finally:
            await asyncio.to_thread(host.start)

        await chat.ended("done")
        assert (await chat.text()).split() == "".join(lines).split()
        assert (await committed(chat))[-1]["text"] == "".join(lines)
        assert await conversation.evaluate("(main) => main.scrollTop") == 300
        visit.forgive_broken_connections()


async def test_an_answer_that_replaces_another_is_shown_alone(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    # The stream breaks, and the framework asks a second time without one: a reset, and the answer anew.
    replies["twice"] = Reply(WORDS, fails_after=30)
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.ask("twice")

        assert await chat.text() == TEXT


async def test_an_expired_conversation_is_shown_again(
    host: HostProcess, redis_url: str, replies: Replies, new_visit: NewVisit
) -> None:
    replies["remember me"] = Reply(("Restored.",), tool_calls=(("get_weather_forecast", WEATHER),))
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.ask("remember me")
        async with Redis.from_url(redis_url) as client:
            keys = [key async for key in client.scan_iter(f"*{chat.conversation_id}*")]
            assert await client.delete(*keys) == 2

        await chat.page.reload()

        await chat.ended("done")
        assert await chat.text() == "Restored."
        await expect(chat.answers.locator("details")).to_contain_text("chance of rain")
        await expect(chat.questions).to_have_text(["remember me"])


async def test_a_conversation_whose_older_events_are_trimmed_is_shown_whole(
    host: HostProcess, redis_url: str, replies: Replies, new_visit: NewVisit
) -> None:
    replies |= {"old": Reply(WORDS, tool_calls=(("get_weather_forecast", WEATHER),)), "new": says("New.")}
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.ask("old")
        await chat.ask("new")
        async with Redis.from_url(redis_url) as client:
            stream = f"agent-stream:{chat.conversation_id}"
            assert await client.xtrim(stream, maxlen=await client.xlen(stream) // 2, approximate=False)

        await chat.page.reload()

        await chat.says("New.")
        await expect(chat.answers.first).to_have_attribute("aria-busy", "false")
        assert "\n".join(await chat.answers.first.locator(".markdown").all_inner_texts()) == TEXT


WEATHER = {"destination": "Oslo", "date": "day 1"}


async def test_back_and_forward_and_the_list_lead_through_conversations(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    replies |= {"first": says("One."), "second": says("Two.")}
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.ask("first")
        await chat.button("New conversation").click()
        await expect(chat.answers).to_have_count(0)
        await chat.ask("second")

        for _ in range(2):
            await chat.page.go_back()
        await chat.says("One.")
        for _ in range(2):
            await chat.page.go_forward()
        await chat.says("Two.")
        await chat.page.get_by_text("Conversations").click()
        await chat.page.get_by_role("link", name="first").click()
        await chat.says("One.")
        await expect(chat.questions).to_have_text(["first"])


async def test_a_deleted_conversation_is_gone(host: HostProcess, replies: Replies, new_visit: NewVisit) -> None:
    replies["delete me"] = says("Gone soon.")
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.ask("delete me")
        path = f"{chat.origin}/api/agent/conversations/{chat.conversation_id}"
        chat.page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))

        await chat.button("Delete").click()

        await expect(chat.answers).to_have_count(0)
        assert chat.conversation_id == ""
        assert (await chat.page.request.get(path)).status == 404
        await chat.page.get_by_text("Conversations").click()
        await expect(chat.page.get_by_role("link")).to_have_count(0)


async def test_an_unknown_conversation_is_told(host: HostProcess, new_visit: NewVisit) -> None:
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab("nobody-knows-it")

        await expect(chat.status).to_contain_text("no conversation")
        visit.forgive_broken_connections()


async def test_a_message_that_the_app_refuses_stays_in_the_field(host: HostProcess, new_visit: NewVisit) -> None:
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.send("x" * 70_000)

        await expect(chat.status).to_contain_text("65536")
        assert len(await chat.field.input_value()) == 70_000
        visit.forgive_broken_connections()


async def test_another_agent_is_chosen_and_its_reasoning_and_usage_shown(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    replies["think"] = Reply(("Forty-two.",), reasoning=("Let me ", "think."), usage=(7, 35))
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.page.get_by_label("Agent").select_option("Thinker")
        await chat.ask("think")

        reasoning = chat.answers.locator("details")
        await expect(reasoning.locator("summary")).to_have_text("Reasoning")
        assert not await reasoning.locator("pre").is_visible()
        await expect(reasoning).to_contain_text("Let me think.")
        await expect(chat.page.locator("#figures")).to_contain_text("42 tokens")
        assert await chat.text() == "Forty-two."

        await chat.page.reload()
        await expect(chat.page.get_by_label("Agent")).to_have_value("Thinker")
