"""The page by keyboard, by screen reader, in the dark and on a small screen."""

import re
from typing import Any

import pytest

from devhost.testing import REPOSITORY, HostProcess
from tests.browser.chat import Chat, expect
from tests.browser.conftest import NewVisit, Replies
from tests.model_server import Reply, says

pytestmark = pytest.mark.asyncio(loop_scope="session")

AXE = REPOSITORY / "tests" / "clients" / "node_modules" / "axe-core" / "axe.min.js"
WIDE = "\n\n".join(
    (
        "# A title",
        "x" * 300,
        "```\n" + "code " * 60 + "\n```",
        "| " + " | ".join(f"column{number}" for number in range(12)) + " |\n" + "|---" * 12 + "|\n" + "| 1 " * 12 + "|",
        "#### A title three levels below",
        "> quoted, with [a link](https://example.org)",
        "1. one\n2. two",
    )
)
TOOLS = (("get_weather_forecast", {"destination": "Rome" * 50, "date": "day 1"}),)
SIZES = {"wide": {"width": 1280, "height": 800}, "narrow": {"width": 320, "height": 568}}


async def violations(chat: Chat) -> list[str]:
    """Return what axe-core finds wrong with the page as it is."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: run make test, or npm ci in tests/clients")
    await chat.measure(AXE.read_text())
    result: dict[str, Any] = await chat.measure("() => axe.run()")
    return [f"{found['id']}: {[node['html'] for node in found['nodes']]}" for found in result["violations"]]


@pytest.mark.parametrize(("scheme", "size"), [("light", "narrow"), ("dark", "wide")])
async def test_axe_finds_nothing(
    host: HostProcess, replies: Replies, new_visit: NewVisit, scheme: str, size: str
) -> None:
    replies["show everything"] = Reply((WIDE,), tool_calls=TOOLS)
    replies["fail"] = Reply(status=400)
    replies["hang"] = Reply(("so far",), hangs_after=1)
    async with new_visit(host.base_url, color_scheme=scheme, viewport=SIZES[size]) as visit:
        chat = await visit.tab()
        assert await violations(chat) == []
        await chat.ask("show everything")
        await chat.answers.locator("summary").click()
        assert await violations(chat) == []
        await chat.send("fail")
        await expect(chat.answers.locator(".problem")).to_be_visible()
        await chat.page.get_by_text("Conversations").click()
        assert await violations(chat) == []
        await chat.send("hang")
        await chat.says("so far")
        assert await violations(chat) == []
        await chat.button("Stop").click()
        await chat.ended("cancelled")


async def test_nothing_is_wider_than_a_small_screen(host: HostProcess, replies: Replies, new_visit: NewVisit) -> None:
    replies["wide"] = Reply((WIDE,), tool_calls=TOOLS)
    async with new_visit(host.base_url, viewport=SIZES["narrow"]) as visit:
        chat = await visit.tab()
        await chat.ask("wide")
        await chat.answers.locator("summary").click()

        for selector in ("html", "#conversation"):
            widths = await chat.page.locator(selector).evaluate("(box) => [box.scrollWidth, box.clientWidth]")
            assert widths[0] <= widths[1], selector
        for name in ("Send", "New conversation", "Delete", "Cut the connection"):
            await expect(chat.button(name)).to_be_in_viewport(ratio=1)


async def test_dark_is_dark(host: HostProcess, new_visit: NewVisit) -> None:
    lightness = """() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"""
    for scheme, is_dark in (("dark", True), ("light", False)):
        async with new_visit(host.base_url, color_scheme=scheme) as visit:
            chat = await visit.tab()
            assert (sum(await chat.measure(lightness)) < 200) is is_dark


async def test_the_keyboard_is_enough(host: HostProcess, replies: Replies, new_visit: NewVisit) -> None:
    replies["line one\nline two"] = Reply(("Two lines.",), tool_calls=TOOLS)
    replies["hang"] = Reply(("so far",), hangs_after=1)
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        keyboard = chat.page.keyboard
        await expect(chat.field).to_be_focused()
        await keyboard.type("line one")
        await keyboard.press("Shift+Enter")
        await keyboard.type("line two")
        await keyboard.press("Enter")
        await chat.ended("done")
        await expect(chat.questions).to_have_text(["line one\nline two"])
        await expect(chat.field).to_be_focused()
        await expect(chat.field).to_have_value("")

        await keyboard.type("hang")
        await keyboard.press("Enter")
        await chat.says("so far")
        await keyboard.press("Tab")
        await expect(chat.button("Stop")).to_be_focused()
        await keyboard.press("Enter")
        await chat.ended("cancelled")
        await expect(chat.field).to_be_focused()

        await tab_to(chat, "summary", "get_weather_forecast")
        await keyboard.press("Enter")
        await expect(chat.answers.first.locator("pre")).to_be_visible()
        await tab_to(chat, "button", "New conversation")
        await keyboard.press("Enter")
        await expect(chat.answers).to_have_count(0)
        await expect(chat.field).to_be_focused()


async def tab_to(chat: Chat, selector: str, text: str) -> None:
    """Press Shift+Tab until the element that has this text is focused."""
    target = chat.page.locator(selector, has_text=text)
    for _ in range(20):
        await chat.page.keyboard.press("Shift+Tab")
        if await target.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"no way to {text} by the Tab key")


async def test_the_end_is_announced_once_and_the_growing_text_never(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    replies["announce"] = Reply(tuple(f"word{number} " for number in range(20)), delay_seconds=0.01)
    replies["again"] = says("Done.")
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.record_states()
        await chat.ask("announce")

        assert await chat.states() == ["connecting", "live", "done"]
        regions = chat.page.locator("[aria-live], [role=status], [role=alert], [role=log], output")
        await expect(regions).to_have_count(1)
        await expect(chat.answers.last).to_have_attribute("aria-busy", "false")
        await expect(chat.answers.last).not_to_have_attribute("aria-live", re.compile(""))
