"""The main path: start a run, follow it live, resume it."""

import asyncio
import json

import httpx
import pytest

from tests.app import RUN_ROUTE, App, text_of
from tests.model_server import ModelServer
from tests.recording_follower import problem_detail
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_run_streams_its_answer_and_done_is_the_last_event(app: App) -> None:
    chunks = ["# Tokyo\n", "\nDay 1:\r", "\n  arrive", " 😀", "\n\n", "data: ", "[DONE]\n"]
    run = await app.start_run(script(chunks=chunks))

    events = await app.finish(run)

    assert (events[-1].event, events[-1].data) == ("done", "[DONE]")
    assert text_of(events) == "".join(chunks).replace("\r\n", "\n")
    status = await app.run(run["correlation_id"])
    assert status["response"] == "".join(chunks)
    assert (status["status"], status["error"], status["agent"]) == ("completed", None, "TravelPlanner")
    assert status["conversation_id"] == run["conversation_id"]
    assert status["created_at"] <= status["updated_at"]
    assert status["created_at"].endswith("Z")


async def test_the_202_says_where_to_go_on(app: App) -> None:
    response = await app.client.post(RUN_ROUTE, content=script(chunks=["a"]), headers={"Content-Type": "text/plain"})

    assert response.status_code == httpx.codes.ACCEPTED
    body = response.json()
    conversation_id, correlation_id = body["conversation_id"], body["correlation_id"]
    assert body == {
        "status": "accepted",
        "response": "Agent request accepted",
        "conversation_id": conversation_id,
        "correlation_id": correlation_id,
        "session_id": conversation_id,
        "stream_url": f"/api/agent/stream/{conversation_id}?correlation_id={correlation_id}",
        "status_url": f"/api/agent/runs/{correlation_id}",
    }
    assert response.headers["location"] == body["stream_url"]


async def test_the_stream_is_live(app: App, model: ModelServer) -> None:
    run = await app.start_run(script(chunks=["first", "never"], hangs_after=1))

    first = await anext(app.follow(run["stream_url"]))

    assert first.data == "first"
    assert (await app.run(run["correlation_id"]))["status"] == "running"
    await app.client.post(f"/api/agent/runs/{run['correlation_id']}/cancel")


async def test_promise_1_nothing_lost_and_promise_2_nothing_twice_from_every_cursor(app: App) -> None:
    run = await app.start_run(script(chunks=[f"{number} " for number in range(30)]))
    events = await app.finish(run)
    assert len({event.id for event in events}) == len(events) == 31

    for path in (run["stream_url"], f"/api/agent/stream/{run['conversation_id']}"):
        assert await app.events(path) == events
        for position, event in enumerate(events):
            assert await app.events(path, params={"cursor": event.id}) == events[position + 1 :]


async def test_last_event_id_wins_over_the_cursor(app: App) -> None:
    run = await app.start_run(script(chunks=["a", "b", "c"]))
    events = await app.finish(run)

    resumed = await app.events(
        run["stream_url"], params={"cursor": events[0].id}, headers={"Last-Event-ID": events[2].id}
    )

    assert resumed == events[3:]


async def test_followers_early_late_and_after_the_end_get_the_same(app: App) -> None:
    run = await app.start_run(script(chunks=[f"{number} " for number in range(20)], delay_seconds=0.02))
    early = asyncio.create_task(app.finish(run))
    followed = app.follow(run["stream_url"])
    for _ in range(5):
        await anext(followed)
    middle = asyncio.create_task(app.finish(run))

    events = await early

    assert await middle == events
    assert await app.finish(run) == events
    assert text_of(events) == "".join(f"{number} " for number in range(20))


async def test_a_stream_in_plain_text_is_the_bare_answer(app: App) -> None:
    run = await app.start_run(script(chunks=["Day 1\n", "Day 2"]))

    response = await app.client.get(run["stream_url"], headers={"Accept": "text/plain"})

    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == "Day 1\nDay 2\n"


async def test_the_headers_keep_proxies_from_buffering(app: App) -> None:
    run = await app.start_run(script(chunks=["a"]))

    response = await app.client.get(run["stream_url"])

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-conversation-id"] == run["conversation_id"]


async def test_silence_is_filled_with_comments(app: App) -> None:
    run = await app.start_run(script(chunks=["a"], hangs_after=0))

    async with app.client.stream("GET", run["stream_url"]) as response:
        comments: list[str] = []
        async for line in response.aiter_lines():
            if line and line != "retry: 500":
                comments.append(line)
            if len(comments) == 2:
                break

    assert all(comment.startswith(":") for comment in comments)
    await app.client.post(f"/api/agent/runs/{run['correlation_id']}/cancel")


async def test_not_following_ends_at_what_is_there(app: App) -> None:
    run = await app.start_run(script(chunks=["first", "never"], hangs_after=1))
    await anext(app.follow(run["stream_url"]))

    events = await app.events(run["stream_url"], params={"follow": "false"})

    assert [event.data for event in events] == ["first"]
    await app.client.post(f"/api/agent/runs/{run['correlation_id']}/cancel")


async def test_nothing_after_the_cursor_and_nothing_open_is_204(app: App) -> None:
    run = await app.start_run(script(chunks=["a"]))
    events = await app.finish(run)

    for path in (run["stream_url"], f"/api/agent/stream/{run['conversation_id']}"):
        response = await app.get(path, headers={"Last-Event-ID": events[-1].id})
        assert response.status_code == httpx.codes.NO_CONTENT


async def test_a_cursor_that_the_stream_never_had_is_reset_and_told_everything(app: App) -> None:
    run = await app.start_run(script(chunks=["a"]))
    events = await app.finish(run)

    for path in (run["stream_url"], f"/api/agent/stream/{run['conversation_id']}"):
        reset, *told = await app.events(path, {"cursor": "18446744073709551615-0"})
        assert json.loads(reset.data) == {"correlation_id": run["correlation_id"], "reason": "expired"}
        assert told == events


async def test_tools_are_called_and_their_results_reach_the_model(app: App, model: ModelServer) -> None:
    call = ["get_weather_forecast", {"destination": "Tokyo", "date": "day 1"}]
    run = await app.start_run(script(tool_calls=[call], chunks=["Sunny."]))

    events = await app.finish(run)

    assert text_of(events) == "Sunny."
    [result] = [message for message in model.calls[-1]["messages"] if message["role"] == "tool"]
    assert "chance of rain (sample data)" in result["content"]


async def test_two_messages_sent_back_to_back_are_answered_in_order(app: App) -> None:
    first = await app.start_run(script(chunks=["one ", "one"], delay_seconds=0.05))
    conversation_id = first["conversation_id"]
    second = await app.start_run(script(chunks=["two"]), conversation_id=conversation_id)

    events = await app.events(f"/api/agent/stream/{conversation_id}")

    assert [event.data for event in events] == ["one ", "one", "[DONE]", "two", "[DONE]"]
    assert text_of(await app.finish(first)) == "one one"
    assert text_of(await app.finish(second)) == "two"
    assert await app.events(second["stream_url"], params={"cursor": events[0].id}) == events[3:]
    messages = (await app.client.get(f"/api/agent/conversations/{conversation_id}")).json()["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert [message["text"] for message in messages][1::2] == ["one one", "two"]
    assert [message["correlation_id"] for message in messages] == [
        *[first["correlation_id"]] * 2,
        *[second["correlation_id"]] * 2,
    ]


async def test_the_model_gets_the_conversation_so_far(app: App, model: ModelServer) -> None:
    first = await app.start_run(script(chunks=["Tokyo it is."]))
    await app.finish(first)

    await app.finish(await app.start_run(script(chunks=["ok"]), conversation_id=first["conversation_id"]))

    roles = [(message["role"], message["content"]) for message in model.calls[-1]["messages"]]
    assert ("assistant", "Tokyo it is.") in [(role, _text(content)) for role, content in roles]


async def test_twenty_runs_at_once_do_not_mix(app: App) -> None:
    async def run(number: int) -> None:
        chunks = [f"{number}.{piece} " for piece in range(20)]
        accepted = await app.start_run(script(chunks=chunks, delay_seconds=0.01))
        events = await app.finish(accepted)
        assert text_of(events) == "".join(chunks)
        assert [event.event for event in events if event.event != "message"] == ["done"]
        assert (await app.run(accepted["correlation_id"]))["response"] == "".join(chunks)

    await asyncio.gather(*(run(number) for number in range(20)))


@pytest.mark.parametrize("name", ["conversation_id", "session_id", "sessionId", "thread_id"])
async def test_a_conversation_can_be_named_by_each_alias(app: App, conversation_id: str, name: str) -> None:
    in_body = await app.client.post(RUN_ROUTE, json={"message": script(chunks=["a"]), name: conversation_id})
    in_query = await app.client.post(RUN_ROUTE, params={name: conversation_id}, content=script(chunks=["b"]))

    for response in (in_body, in_query):
        assert response.json()["conversation_id"] == conversation_id
        await app.finish(response.json())


class TestWaitForResponse:
    @pytest.mark.parametrize(
        ("headers", "params", "body"),
        [
            ({"x-ms-wait-for-response": "true"}, {"wait_for_response": "false"}, {"wait_for_response": False}),
            ({}, {"wait_for_response": "true"}, {"wait_for_response": False}),
            ({}, {}, {"wait_for_response": True}),
        ],
    )
    async def test_header_query_and_body_ask_for_it_in_this_order(
        self, app: App, headers: dict[str, str], params: dict[str, str], body: dict[str, bool]
    ) -> None:
        response = await app.client.post(
            RUN_ROUTE, headers=headers, params=params, json={"message": script(chunks=["Day ", "1"]), **body}
        )

        assert response.status_code == httpx.codes.OK
        answer = response.json()
        assert (answer["status"], answer["response"]) == ("success", "Day 1")
        assert (await app.run(answer["correlation_id"]))["response"] == "Day 1"

    async def test_the_header_can_turn_it_off(self, app: App) -> None:
        response = await app.client.post(
            RUN_ROUTE,
            headers={"x-ms-wait-for-response": "false"},
            json={"message": script(chunks=["a"]), "wait_for_response": True},
        )

        assert response.status_code == httpx.codes.ACCEPTED

    async def test_in_plain_text_it_is_the_bare_answer(self, app: App) -> None:
        response = await app.client.post(
            RUN_ROUTE,
            headers={"Accept": "text/plain", "x-ms-wait-for-response": "true"},
            content=script(chunks=["Day ", "1"]),
        )

        assert response.text == "Day 1"

    async def test_an_answer_that_takes_too_long_is_a_202(self, app: App) -> None:
        response = await app.client.post(
            RUN_ROUTE, json={"message": script(chunks=["a"], hangs_after=0), "wait_for_response": True}
        )

        assert response.status_code == httpx.codes.ACCEPTED
        await app.client.post(f"/api/agent/runs/{response.json()['correlation_id']}/cancel")

    async def test_a_failure_is_a_problem(self, app: App) -> None:
        response = await app.client.post(RUN_ROUTE, json={"message": script(status=401), "wait_for_response": True})

        assert response.status_code == httpx.codes.BAD_GATEWAY
        assert "secret" not in response.text


class TestIdempotencyKey:
    async def test_the_same_key_is_the_same_run_however_often_and_at_once(
        self, app: App, model: ModelServer, conversation_id: str
    ) -> None:
        message = script(chunks=["once ", conversation_id])

        async def post() -> httpx.Response:
            return await app.client.post(RUN_ROUTE, content=message, headers={"Idempotency-Key": conversation_id})

        responses = await asyncio.gather(*(post() for _ in range(10)))
        await app.finish(responses[0].json())
        responses.append(await post())

        assert {response.status_code for response in responses} == {httpx.codes.ACCEPTED}
        assert len({response.text for response in responses}) == 1
        assert len([call for call in model.calls if conversation_id in str(call)]) == 1

    async def test_a_key_used_for_another_message_or_conversation_is_refused(
        self, app: App, model: ModelServer, conversation_id: str
    ) -> None:
        async def post(text: str, **fields: str) -> httpx.Response:
            body = {"message": script(chunks=[text]), **fields}
            return await app.client.post(RUN_ROUTE, json=body, headers={"Idempotency-Key": conversation_id})

        first = await post("mine", conversation_id=conversation_id)
        refused = [
            await post("another", conversation_id=conversation_id),
            await post("mine", conversation_id=f"{conversation_id}-other"),
            await post("mine"),
        ]
        await app.finish(first.json())
        refused.append(await post("another", conversation_id=conversation_id))
        again = await post("mine", conversation_id=conversation_id)

        assert {response.status_code for response in refused} == {httpx.codes.UNPROCESSABLE_ENTITY}
        assert "Idempotency-Key" in problem_detail(refused[0])
        assert again.json() == first.json()

    async def test_another_key_is_another_run(self, app: App, conversation_id: str) -> None:
        runs = [
            await app.client.post(
                RUN_ROUTE, content=script(chunks=["a"]), headers={"Idempotency-Key": f"{conversation_id}{number}"}
            )
            for number in range(2)
        ]

        assert runs[0].json()["correlation_id"] != runs[1].json()["correlation_id"]


async def test_health_tells_of_redis_and_the_agents(app: App) -> None:
    response = await app.client.get("/api/health")

    assert response.status_code == httpx.codes.OK
    body = response.json()
    assert body["redis"].pop("latency_ms") > 0
    assert body == {"status": "healthy", "agents": [{"name": "TravelPlanner"}], "redis": {"status": "healthy"}}


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content)
