"""What ``@microsoft/fetch-event-source`` 2.0.1 cannot do, and what helps."""

import pytest

from tests.app import App
from tests.clients.harness import needs_node, run_script
from tests.clients.scripted_server import DONE, SOON, A, Answer, B, ScriptedServer
from tests.scripts import script

pytestmark = [needs_node, pytest.mark.asyncio(loop_scope="session")]


async def test_it_loses_the_line_breaks_with_which_a_chunk_begins(app: App) -> None:
    run = await app.start_run(script(chunks=["one", "\n", "two\n", "\nthree\nfour"]))

    lines = await run_script("fetch_event_source", url=app.host.base_url + run["stream_url"])

    assert [line["data"] for line in lines] == ["one", "", "two\n", "three\nfour", "[DONE]"]


@pytest.mark.parametrize(("resumable", "resumes_after"), [(None, "2-0"), ({}, "1-0")])
async def test_it_loses_an_event_that_is_cut_after_its_id_unless_its_fetch_hands_on_whole_ones(
    resumable: dict[str, int] | None, resumes_after: str
) -> None:
    cut = Answer(SOON + A + B[: B.index(b"data")], end="cut")
    async with ScriptedServer([cut, Answer(DONE)]) as server:
        await run_script("fetch_event_source", url=f"{server.url}/stream?correlation_id=r", resumable=resumable)

    assert server.asked[1].headers["last-event-id"] == resumes_after
