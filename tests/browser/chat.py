"""The page as its reader uses it."""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser.chromium import why_not

_REASON = why_not()
if _REASON is not None:
    pytest.skip(_REASON, allow_module_level=True)

from playwright.async_api import Browser as Browser  # noqa: E402
from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page  # noqa: E402
from playwright.async_api import expect as expect  # noqa: E402

WAIT_MS = 15_000
ENDS = re.compile(r"^(done|cancelled)$")


@dataclass
class Chat:
    """The page in one tab."""

    page: Page
    origin: str

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT_MS)
        self.field = self.page.get_by_label("Message")
        self.status = self.page.get_by_role("status")
        self.answers = self.page.get_by_role("article", name="Answer")
        self.questions = self.page.get_by_role("article", name="Question")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    async def open(self, conversation_id: str = "") -> None:
        await self.page.goto(f"{self.origin}/api/chat{'#' if conversation_id else ''}{conversation_id}")

    async def send(self, message: str) -> None:
        await self.field.fill(message)
        await self.button("Send").click()

    async def ask(self, message: str) -> None:
        """Send a message and wait for the end of its answer."""
        count = await self.answers.count()
        await self.send(message)
        await expect(self.answers).to_have_count(count + 1, timeout=WAIT_MS)
        await self.ended()

    async def ended(self, state: str | re.Pattern[str] = ENDS) -> None:
        await expect(self.status).to_have_text(state, timeout=WAIT_MS)

    async def says(self, text: str | re.Pattern[str]) -> None:
        """Wait until the last answer contains this text."""
        await expect(self.answers.last).to_contain_text(text, timeout=WAIT_MS)

    async def text(self) -> str:
        """Return what the last answer's Markdown reads as, without tool calls."""
        return "\n".join(await self.answers.last.locator(".markdown").all_inner_texts())

    async def record_states(self) -> None:
        """Keep all that the connection line says from now on, however short it is there."""
        await self.status.evaluate("""(status) => {
          window.states = [];
          const keep = () => states.push(status.textContent);
          new MutationObserver(keep).observe(status, { childList: true, subtree: true });
        }""")

    async def states(self) -> list[str]:
        """Return what the connection line has said since ``record_states``."""
        states: list[str] = await self.page.evaluate("() => states")
        return states

    @property
    def conversation_id(self) -> str:
        return urlsplit(self.page.url).fragment

    async def measure(self, script: str) -> Any:
        return await self.page.evaluate(script)


@dataclass
class Visit:
    """One reader's browser, with an address to which it talks.

    Attributes:
        errors: What its pages wrote to the console as an error, or threw.
        foreign: The addresses of other hosts that they asked for.
    """

    context: BrowserContext
    origin: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.on("console", self._on_console)
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.context.on("request", lambda request: self._on_request(request.url))

    async def tab(self, conversation_id: str = "") -> Chat:
        chat = Chat(await self.context.new_page(), self.origin)
        await chat.open(conversation_id)
        return chat

    def forgive_broken_connections(self) -> None:
        """Drop the browser's own words of requests that failed, in a test that makes them fail."""
        self.errors = [error for error in self.errors if not error.startswith("Failed to load resource")]

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _on_request(self, url: str) -> None:
        if not url.startswith(f"{self.origin}/"):
            self.foreign.append(url)


@contextlib.asynccontextmanager
async def visit(browser: Browser, origin: str, **options: Any) -> AsyncIterator[Visit]:
    """Visit while the block runs, and hold it against the page if it wrote an error or asked another host.

    Args:
        browser: The browser.
        origin: Of the app, or of what stands before it.
        options: Of the browser's context: ``viewport``, ``color_scheme``…
    """
    context = await browser.new_context(**options)
    try:
        visit = Visit(context, origin)
        yield visit
        assert not visit.errors, visit.errors
        assert not visit.foreign, visit.foreign
    finally:
        await context.close()
