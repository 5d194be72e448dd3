"""Each client against the real app."""

import pytest

from tests.app import App
from tests.clients.harness import needs_node, run_script
from tests.scripts import script as reply

pytestmark = pytest.mark.asyncio(loop_scope="session")


@needs_node
async def test_a_whole_run(app: App) -> None:
    run = await app.start_run(reply(chunks=["one\n", "\n two"]))
    lines = await run_script("eventsource", url=f"{app.host.base_url}{run['stream_url']}")
    assert [line["data"] for line in lines] == ["one\n", "\n two", "[DONE]"]
    lines = await run_script("fetch_event_source", url=f"{app.host.base_url}{run['stream_url']}")
    assert [line["data"] for line in lines][-1:] == ["[DONE]"]
