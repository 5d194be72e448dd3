"""AG-UI and the AI SDK's UI messages over HTTP: started, resumed anywhere, joined, refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.ag_ui_client import Client
from tests.app import App, running_app
from tests.chat import AGUI_ROUTE, CHAT_ROUTE, agui_input, chat_input, data_of, frames_of
from tests.model_server import ModelServer
from tests.recording_follower import problem_detail
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHUNKS = ["# A plan\n", "data: no field\n\n", "🗼 東京", ' "quoted" ', "end"]
ANSWER = "".join(CHUNKS)
BOTH = [(AGUI_ROUTE, agui_input), (CHAT_ROUTE, chat_input)]
both_wires = pytest.mark.parametrize(("route", "body"), BOTH, ids=["ag_ui", "ui_message"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def brief(model: ModelServer, redis_url: str, durable_dir: Path) -> AsyncIterator[App]:
    """An app that serves one follower at a time, for two seconds."""
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "OPENAI_BASE_URL": model.base_url,
        "HEARTBEAT_SECONDS": "1",
        "STREAM_MAX_SECONDS": "2",
        "STREAM_MAX_FOLLOWERS": "1",
    }
    async with running_app(durable_dir, env) as app:
        yield app


def shown(frames: list[tuple[str, Any]]) -> Client:
    """What an AG-UI client shows after these frames."""
    client = Client()
    for data in data_of(frames):
        client.take(data)
    return client


def answer_shown(frames: list[tuple[str, Any]]) -> str:
    """The text of an AG-UI client's newest message, or of an AI SDK client's."""
    data = data_of(frames)
    if data[-1] != "[DONE]":
        return str(shown(frames).messages[-1]["content"])
    return "".join(frame["delta"] for frame in data[:-1] if frame["type"] == "text-delta")


def correlation_id_of(frames: list[tuple[str, Any]]) -> str:
    """The run's id, which both wires give to the message."""
    return next(str(data["messageId"]) for data in data_of(frames) if "messageId" in data)


@both_wires
async def test_a_run_is_told_to_its_end_and_its_location_resumes_it_after_any_frame(
    app: App, route: str, body: Any
) -> None:
    response = await app.client.post(route, json=body(script(chunks=CHUNKS)))
    frames = frames_of(response)
    location = response.headers["location"]

    assert answer_shown(frames) == ANSWER
    run = await app.run(correlation_id_of(frames))
    assert (run["status"], run["response"]) == ("completed", ANSWER)
    assert frames_of(await app.client.get(location)) == frames
    for number, (frame_id, _) in enumerate(frames[:-1], 1):
        resumed = await app.client.get(location, headers={"Last-Event-ID": frame_id})
        assert frames_of(resumed) == frames[number:], frame_id
    ended = await app.client.get(location, headers={"Last-Event-ID": frames[-1][0]})
    assert ended.status_code == httpx.codes.NO_CONTENT


@both_wires
async def test_the_id_of_an_entry_resumes_after_all_its_frames(app: App, route: str, body: Any) -> None:
    response = await app.client.post(route, json=body(script(chunks=CHUNKS)))
    frames = frames_of(response)
    entry = frames[4][0].partition(".")[0]

    resumed = frames_of(await app.get(response.headers["location"], {"cursor": entry}))

    assert resumed == [frame for frame in frames[5:] if frame[0].partition(".")[0] != entry]


@both_wires
async def test_a_post_that_is_repeated_is_the_same_run(app: App, model: ModelServer, route: str, body: Any) -> None:
    asked = body(script(chunks=CHUNKS, delay_seconds=0.02))
    calls = len(model.calls)

    streams = await asyncio.gather(*(app.client.post(route, json=asked) for _ in range(4)))
    late = await app.client.post(route, json=asked)

    assert all(frames_of(stream) == frames_of(late) for stream in streams)
    assert len(model.calls) == calls + 1


@both_wires
async def test_the_same_ids_with_another_message_are_refused(app: App, route: str, body: Any) -> None:
    asked = body(script(chunks=["a"]))
    frames_of(await app.client.post(route, json=asked))
    other = body(script(chunks=["b"]))
    asked["messages"][0] |= {name: other["messages"][0].get(name) for name in ("content", "parts")}

    refused = await app.client.post(route, json=asked)

    assert refused.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert "used for another message" in problem_detail(refused)


@both_wires
async def test_the_agent_remembers_what_the_client_does_not_send(
    app: App, model: ModelServer, route: str, body: Any
) -> None:
    first, second = body(script(chunks=["a"])), body(script(chunks=["b"]))
    frames_of(await app.client.post(route, json=first))
    name = "threadId" if "threadId" in first else "id"
    frames_of(await app.client.post(route, json=second | {name: first[name]}))

    assert [said["role"] for said in model.calls[-1]["messages"]][-3:] == ["user", "assistant", "user"]


@both_wires
async def test_promise_7_expired_is_not_gone_wherever_the_client_was_cut(
    app: App, redis_url: str, route: str, body: Any
) -> None:
    response = await app.client.post(route, json=body(script(chunks=CHUNKS)))
    frames, location = frames_of(response), response.headers["location"]
    conversation_id = response.headers["x-conversation-id"]
    key = f"agent-stream:{conversation_id}"
    client: Any = Redis.from_url(redis_url)
    async with client:
        await client.delete(key, f"agent-runs:{{{key}}}")
    for number in range(len(frames) - 1):
        rest = frames_of(await app.client.get(location, headers={"Last-Event-ID": frames[number][0]}))
        if route == AGUI_ROUTE:
            messages = shown(frames[: number + 1] + rest).messages
            said = [message["content"] for message in messages if message["role"] != "reasoning"]
            assert said == [script(chunks=CHUNKS), ANSWER]
        else:
            assert {"type": "reset-step"} in data_of(rest)[:2]
            assert answer_shown(rest) == ANSWER


@both_wires
async def test_promise_5_it_converges_when_a_failover_lost_what_the_client_holds(
    app: App, route: str, body: Any
) -> None:
    response = await app.client.post(route, json=body(script(chunks=CHUNKS)))
    frames = frames_of(response)
    # No Redis has had it.
    held = {"Last-Event-ID": "9999999999999-0.1"}

    rest = frames_of(await app.client.get(response.headers["location"], headers=held))

    assert rest[0][1]["type"] in ("MESSAGES_SNAPSHOT", "reset-step")
    assert rest[1:] == frames[-len(rest) + 1 :]
    assert len(rest) >= len(CHUNKS)


@both_wires
async def test_a_response_that_ends_before_the_run_has_no_end_of_a_run(brief: App, route: str, body: Any) -> None:
    response = await brief.client.post(route, json=body(script(chunks=["a", "b"], hangs_after=1)))
    frames, location = frames_of(response), response.headers["location"]
    correlation_id = correlation_id_of(frames)

    assert all("FINISHED" not in str(data) and "finish" not in str(data) for data in data_of(frames))
    assert ": heartbeat\n" in response.text
    await brief.client.post(f"/api/agent/runs/{correlation_id}/cancel")
    rest = frames_of(await brief.client.get(location, headers={"Last-Event-ID": frames[-1][0]}))
    assert answer_shown(frames + rest) == "a"


@both_wires
async def test_promise_8_bounded_a_message_that_nobody_can_follow_is_not_run(
    brief: App, model: ModelServer, route: str, body: Any
) -> None:
    hanging = asyncio.create_task(brief.client.post(route, json=body(script(chunks=["a"], hangs_after=1))))
    calls = len(model.calls)

    async def has_begun() -> bool:
        return len(model.calls) > calls

    await eventually(has_begun)
    refused = await brief.client.post(route, json=body(script(chunks=["b"])))

    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert int(refused.headers["retry-after"]) > 0
    assert "followers" in problem_detail(refused)
    assert len(model.calls) == calls + 1
    # Its stream ends by the clock, and leaves the place to the next test's.
    correlation_id = correlation_id_of(frames_of(await hanging))
    await brief.client.post(f"/api/agent/runs/{correlation_id}/cancel")


async def test_a_cancelled_run_is_told_as_the_clients_version_knows_it(app: App) -> None:
    for fields, end in (
        ({}, {"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}}),
        ({"protocolVersion": None}, {"type": "RUN_ERROR", "code": "cancelled"}),
    ):
        asked = agui_input(script(chunks=["a", "b"], hangs_after=1), **fields)
        async with app.client.stream("POST", AGUI_ROUTE, json=asked) as response:
            lines = response.aiter_lines()
            while "messageId" not in (line := await anext(lines)):
                pass
            correlation_id = line.partition('"messageId":"')[2].partition('"')[0]
            await app.client.post(f"/api/agent/runs/{correlation_id}/cancel")
            rest = [line async for line in lines]
        last = frames_of(await app.client.get(response.headers["location"]))[-1][1]
        assert end.items() <= last.items()
        assert f'"type":"{end["type"]}"' in "".join(rest)


async def test_a_run_is_resumed_by_the_clients_own_names_alone(app: App) -> None:
    asked = agui_input(script(chunks=CHUNKS))
    frames = frames_of(await app.client.post(AGUI_ROUTE, json=asked))

    replayed = frames_of(
        await app.get(
            f"{AGUI_ROUTE}/runs/{asked['runId']}", {"thread_id": asked["threadId"], "protocol_version": "1.0"}
        )
    )

    assert replayed == frames


async def test_who_connects_where_nothing_was_said_is_told_so(app: App) -> None:
    frames = frames_of(await app.client.post(f"{AGUI_ROUTE}/connect", json=agui_input("") | {"messages": []}))

    assert [data["type"] for data in data_of(frames)] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    assert shown(frames).messages == []


async def test_who_connects_is_told_what_was_said_then_the_open_run(app: App) -> None:
    first = agui_input(script(chunks=["one"]))
    frames_of(await app.client.post(AGUI_ROUTE, json=first))
    thread = {"threadId": first["threadId"]}
    ended = frames_of(await app.client.post(f"{AGUI_ROUTE}/connect", json=agui_input("") | thread))
    question = script(chunks=["two", " and", " three"], delay_seconds=0.3)
    running = asyncio.create_task(app.client.post(AGUI_ROUTE, json=agui_input(question, **thread)))

    async def is_open() -> bool:
        async with app.client.stream("POST", f"{AGUI_ROUTE}/connect", json=agui_input("") | thread) as response:
            return "location" in response.headers

    await eventually(is_open)
    joined = await app.client.post(f"{AGUI_ROUTE}/connect", json=agui_input("") | thread)
    frames = frames_of(joined)
    frames_of(await running)

    said = [script(chunks=["one"]), "one"]
    assert [message["content"] for message in shown(ended).messages] == said
    assert [message["content"] for message in shown(frames).messages] == [*said, question, "two and three"]
    for number, (frame_id, _) in enumerate(frames[:-1], 1):
        resumed = await app.client.get(joined.headers["location"], headers={"Last-Event-ID": frame_id})
        assert data_of(frames_of(resumed)) == data_of(frames[number:])


async def test_a_chat_is_resumed_while_it_is_active_and_else_there_is_nothing(app: App) -> None:
    asked = chat_input(script(chunks=["a", "b", "c"], delay_seconds=0.3))
    stream = f"{CHAT_ROUTE}/{asked['id']}/stream"
    assert (await app.client.get(stream)).status_code == httpx.codes.NO_CONTENT
    running = asyncio.create_task(app.client.post(CHAT_ROUTE, json=asked))

    async def is_active() -> bool:
        async with app.client.stream("GET", stream) as response:
            return response.status_code == httpx.codes.OK

    await eventually(is_active)
    resumed = await app.client.get(stream)

    assert frames_of(resumed) == frames_of(await running)
    assert resumed.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert (await app.client.get(stream)).status_code == httpx.codes.NO_CONTENT


async def test_a_chat_names_its_agent_in_the_query_or_the_body(app: App) -> None:
    for params, fields in (({"agent": "TravelPlanner"}, {"agent": "Nobody"}), ({}, {"agent": "TravelPlanner"})):
        asked = chat_input(script(chunks=["a"]), **fields)
        assert frames_of(await app.client.post(CHAT_ROUTE, json=asked, params=params))
    unknown = await app.client.post(CHAT_ROUTE, json=chat_input("hi", agent="Nobody"))
    assert unknown.status_code == httpx.codes.NOT_FOUND
    assert "TravelPlanner" in problem_detail(unknown)


ASSISTANT = {"id": "a", "role": "assistant", "content": "Hello", "parts": [{"type": "text", "text": "Hello"}]}
IMAGE = [{"type": "image", "source": {"type": "url", "value": "https://example.com/a.png"}}]


@pytest.mark.parametrize(
    ("route", "body", "status", "detail"),
    [
        (AGUI_ROUTE, agui_input("hi", threadId="a b"), 400, "threadId is not valid"),
        (AGUI_ROUTE, agui_input("hi", runId=7), 400, "runId is not valid"),
        (AGUI_ROUTE, agui_input("hi", tools=[{"name": "t", "description": "d"}]), 400, "Leave out tools"),
        (AGUI_ROUTE, agui_input("hi", resume=[{"interruptId": "i", "status": "resolved"}]), 400, "Leave out resume"),
        (AGUI_ROUTE, agui_input("hi", messages=[]), 400, "not the user's"),
        (AGUI_ROUTE, agui_input("hi", messages=[ASSISTANT]), 400, "memory is kept here"),
        (AGUI_ROUTE, agui_input("hi", messages=[{"id": "u", "role": "user", "content": IMAGE}]), 400, "Only text"),
        (AGUI_ROUTE, agui_input(" "), 400, "message is empty"),
        (AGUI_ROUTE, agui_input("é" * 1001), 413, "at most 2000 bytes"),
        (AGUI_ROUTE, agui_input("hi", state="x" * 2_100_000), 413, "request is too long"),
        ("/api/agui/Nobody", agui_input("hi"), 404, "TravelPlanner"),
        (f"{AGUI_ROUTE}/connect", agui_input("hi", threadId=""), 400, "threadId is not valid"),
        (CHAT_ROUTE, chat_input("hi", id="a/b"), 400, "id is not valid"),
        (CHAT_ROUTE, chat_input("hi", trigger="regenerate-message"), 400, "cannot be edited or answered again"),
        (CHAT_ROUTE, chat_input("hi", messageId="m"), 400, "cannot be edited or answered again"),
        (CHAT_ROUTE, chat_input("hi", tools={"t": {}}), 400, "Leave out tools"),
        (CHAT_ROUTE, chat_input("hi", messages=[ASSISTANT]), 400, "memory is kept here"),
        (CHAT_ROUTE, chat_input("hi", messages=[{"role": "user", "parts": []}]), 400, "messages[].id is not valid"),
        (CHAT_ROUTE, chat_input("", messages=[{"id": "m", "role": "user", "parts": []}]), 400, "message is empty"),
        (CHAT_ROUTE, chat_input("é" * 1001), 413, "at most 2000 bytes"),
    ],
)
async def test_a_wrong_request_is_refused(app: App, route: str, body: dict[str, Any], status: int, detail: str) -> None:
    response = await app.client.post(route, json=body)

    assert response.status_code == status
    assert detail in problem_detail(response)


@pytest.mark.parametrize("route", [AGUI_ROUTE, CHAT_ROUTE])
async def test_a_body_that_is_no_json_is_refused(app: App, route: str) -> None:
    text = await app.client.post(route, content="hi", headers={"Content-Type": "text/plain"})
    broken = await app.client.post(route, content="{", headers={"Content-Type": "application/json"})

    assert text.status_code == httpx.codes.UNSUPPORTED_MEDIA_TYPE
    assert broken.status_code == httpx.codes.BAD_REQUEST


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        (f"{AGUI_ROUTE}/runs/nobody?thread_id=nobody", 404, "no such run"),
        (f"{AGUI_ROUTE}/runs/nobody", 400, "thread_id is missing"),
        (f"{AGUI_ROUTE}/runs/a%20b?thread_id=a", 400, "run_id is not valid"),
        (f"{AGUI_ROUTE}/runs/a?thread_id=%2F", 400, "thread_id is not valid"),
        (f"{AGUI_ROUTE}/runs/a?thread_id=a&cursor=yesterday", 400, "Last-Event-ID is not valid"),
        ("/api/agui/Nobody/runs/a?thread_id=a", 404, "TravelPlanner"),
        (f"{CHAT_ROUTE}/a%20b/stream", 400, "conversation_id is not valid"),
        (f"{CHAT_ROUTE}/nobody/stream?correlation_id=nobody", 404, "no such run"),
        (f"{CHAT_ROUTE}/a/stream?cursor=1-0.x", 400, "Last-Event-ID is not valid"),
    ],
)
async def test_a_wrong_resumption_is_refused(app: App, path: str, status: int, detail: str) -> None:
    response = await app.client.get(path)

    assert response.status_code == status
    assert detail in problem_detail(response)


async def test_deleted_is_gone_on_both_wires(app: App) -> None:
    for route, body in BOTH:
        response = await app.client.post(route, json=body(script(chunks=["a"])))
        conversation_id = response.headers["x-conversation-id"]
        deleted = await app.client.delete(f"/api/agent/conversations/{conversation_id}")
        assert deleted.status_code == httpx.codes.NO_CONTENT
        gone = await app.client.get(response.headers["location"])
        assert gone.status_code == httpx.codes.NOT_FOUND
