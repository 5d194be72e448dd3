"""What a conversation's messages are while a run of it is open."""

import pytest

from tests.app import App
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_message_of_an_open_run_is_said_and_said_once(app: App, conversation_id: str) -> None:
    path = f"/api/agent/conversations/{conversation_id}"
    first = await app.start_run(script(chunks=["one"]), conversation_id=conversation_id)
    await app.finish(first)
    asked = [script(chunks=["two"], hangs_after=1), script(chunks=["three"])]
    open_run, queued = [await app.start_run(message, conversation_id=conversation_id) for message in asked]

    messages = (await app.client.get(path)).json()["messages"]

    assert [(message["role"], message["text"]) for message in messages[1:]] == [
        ("assistant", "one"),
        ("user", asked[0]),
        ("user", asked[1]),
    ]
    assert [message["correlation_id"] for message in messages[2:]] == [
        open_run["correlation_id"],
        queued["correlation_id"],
    ]
    await app.client.post(f"/api/agent/runs/{open_run['correlation_id']}/cancel")
    await app.finish(queued)
    ended = (await app.client.get(path)).json()["messages"]
    assert [message["text"] for message in ended if message["role"] == "user"][1:] == asked
