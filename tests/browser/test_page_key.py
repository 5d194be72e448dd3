"""The function key: the embedded host checks none, so the browser refuses in Azure's place."""

import pytest

from devhost.testing import HostProcess
from tests.browser.chat import Visit, expect
from tests.browser.conftest import NewVisit, Replies
from tests.model_server import says

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "the right key"


async def want_key(visit: Visit) -> None:
    await visit.context.route(
        "**/api/agent*/**",
        lambda route: (
            route.continue_() if route.request.headers.get("x-functions-key") == KEY else route.fulfill(status=401)
        ),
    )


async def test_the_key_is_asked_for_and_kept_for_the_tab(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    replies["with a key"] = says("Welcome.")
    async with new_visit(host.base_url) as visit:
        await want_key(visit)
        chat = await visit.tab()
        await chat.send("with a key")
        dialog = chat.page.get_by_role("dialog")
        key = dialog.get_by_label("Function key")
        await key.fill("a wrong key")
        await key.press("Enter")
        await expect(key).to_have_value("")
        await key.fill(KEY)
        await dialog.get_by_role("button").click()
        await chat.ended("done")
        assert await chat.text() == "Welcome."

        await chat.page.reload()
        await chat.says("Welcome.")
        await expect(dialog).not_to_be_visible()
        assert KEY not in await chat.measure("() => JSON.stringify(localStorage) + document.cookie")
        other = await visit.tab(chat.conversation_id)
        await expect(other.page.get_by_role("dialog")).to_be_visible()
        await other.page.keyboard.press("Escape")
        await expect(other.status).to_contain_text("function key")
        visit.forgive_broken_connections()
