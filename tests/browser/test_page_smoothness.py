"""How the page moves while an answer grows."""

import pytest

from devhost.testing import HostProcess
from tests.browser.chat import expect
from tests.browser.conftest import NewVisit, Replies
from tests.model_server import Reply

pytestmark = pytest.mark.asyncio(loop_scope="session")

DAY = """## Day {0}: the *old* town

- **Morning:** the oldest streets before the [crowds](https://example.org/{0})
- **Evening:** a restaurant that `locals` recommend

A paragraph that says a few more things, with **bold** and _italic_ words, and goes on for a while.

"""
ANSWER = "".join(DAY.format(number) for number in range(1, 200))[:50_000]
CHUNK = 100
OBSERVE = """() => {
  window.seen = { frames: 0, shifted: [], longest: 0, began: performance.now() };
  let last = performance.now();
  const frame = (now) => {
    seen.frames += 1;
    seen.longest = Math.max(seen.longest, now - last);
    last = now;
    seen.observed = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  new PerformanceObserver((list) => {
    for (const { value, sources } of list.getEntries()) {
      const places = sources.map(({ node, previousRect, currentRect }) => [node?.nodeName, previousRect, currentRect]);
      seen.shifted.push(JSON.stringify([value, places]));
    }
  }).observe({ type: "layout-shift", buffered: false });
}"""


async def test_nothing_shifts_while_a_long_answer_streams(
    host: HostProcess, replies: Replies, new_visit: NewVisit, capsys: pytest.CaptureFixture[str]
) -> None:
    chunks = tuple(ANSWER[at : at + CHUNK] for at in range(0, len(ANSWER), CHUNK))
    tools = (("get_weather_forecast", {"destination": "Rome", "date": "day 1"}),)
    replies["a long answer"] = Reply(chunks, delay_seconds=0.01, tool_calls=tools)
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.measure(OBSERVE)
        await chat.ask("a long answer")
        seen = await chat.measure("() => seen")

        seconds = (seen["observed"] - seen["began"]) / 1000
        with capsys.disabled():
            print(f"\n{len(ANSWER):,} characters in {len(chunks)} chunks and {seconds:.1f} s: ", end="")
            print(f"{seen['frames'] / seconds:.0f} frames/s, the longest {seen['longest']:.0f} ms")
        assert seen["shifted"] == []
        assert await chat.answers.get_by_role("heading").count() == ANSWER.count("## ")


async def test_it_follows_the_end_only_while_the_reader_is_there(
    host: HostProcess, replies: Replies, new_visit: NewVisit
) -> None:
    lines = tuple(f"line {number}\n\n" for number in range(150))
    replies["follow"] = Reply(lines, delay_seconds=0.02)
    distance = "(main) => main.scrollHeight - main.scrollTop - main.clientHeight"
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        conversation = chat.page.locator("#conversation")
        await chat.send("follow")
        await chat.says("line 40\n")
        assert await conversation.evaluate(distance) < 40

        await conversation.evaluate("(main) => main.scrollTo(0, 100)")
        await chat.says("line 80\n")
        assert await conversation.evaluate("(main) => main.scrollTop") == 100
        await conversation.evaluate("(main) => main.scrollTo(0, main.scrollHeight)")
        await chat.ended("done")

        assert await conversation.evaluate(distance) < 40
        await expect(chat.answers.last).to_contain_text("line 149")


async def test_what_replaces_a_text_and_is_shorter_for_a_while_makes_no_jump(
    host: HostProcess, new_visit: NewVisit
) -> None:
    async with new_visit(host.base_url) as visit:
        chat = await visit.tab()
        await chat.measure("""async () => {
          const { Answer } = await import("/api/chat/answer.js");
          const main = document.getElementById("conversation");
          const text = Array.from({ length: 100 }, (_, number) => `line ${number}`).join("\\n\\n");
          const answer = new Answer();
          const show = (text, resets) => answer.show({ parts: [{ kind: "text", text }], resets, isOver: false });
          main.append(answer.article);
          show(text, 0);
          main.scrollTo(0, 500);
          answer.show({ parts: [], resets: 1, isOver: false });
          await new Promise(requestAnimationFrame);
          show(text.slice(0, 30), 1);
          await new Promise(requestAnimationFrame);
        }""")

        assert await chat.page.locator("#conversation").evaluate("(main) => main.scrollTop") == 500
        assert await chat.text() == "line 0\n\nline 1\n\nline 2\n\nline 3"
