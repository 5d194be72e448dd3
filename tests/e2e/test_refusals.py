"""Every refusal of the HTTP API: the exact status, a body a person can act on, and the app goes on."""

from typing import Any

import httpx
import pytest

from tests.app import RUN_ROUTE, App, text_of
from tests.recording_follower import problem_detail
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
LONG_ID = "x" * 129


async def assert_serves_the_next_request(app: App) -> None:
    events = await app.finish(await app.start_run(script(chunks=["fine"])))
    assert text_of(events) == "fine"


@pytest.mark.parametrize(
    ("request_", "status", "detail"),
    [
        ({"content": b"", "headers": TEXT}, 400, "message is empty"),
        ({"content": b" \n ", "headers": TEXT}, 400, "message is empty"),
        ({"content": b"\xff\xfe", "headers": TEXT}, 400, "not UTF-8"),
        ({"content": b'{"message": "\xff"}', "headers": JSON}, 400, "not UTF-8"),
        ({"content": b"{", "headers": JSON}, 400, "not a JSON object"),
        ({"content": b"[1]", "headers": JSON}, 400, "not a JSON object"),
        ({"content": b"[" * 1000, "headers": JSON}, 400, "not a JSON object"),
        ({"json": {}}, 400, "message is empty"),
        ({"json": {"message": 5}}, 400, "message is empty"),
        ({"json": {"message": "a", "conversation_id": "a b"}}, 400, "conversation_id is not valid"),
        ({"json": {"message": "a", "session_id": LONG_ID}}, 400, "session_id is not valid"),
        ({"json": {"message": "a", "thread_id": 7}}, 400, "thread_id is not valid"),
        ({"json": {"message": "a", "conversation_id": ".."}}, 400, "conversation_id is not valid"),
        ({"json": {"message": "a"}, "params": {"conversation_id": "é"}}, 400, "conversation_id is not valid"),
        ({"json": {"message": "a", "wait_for_response": "perhaps"}}, 400, "wait_for_response is not valid"),
        ({"json": {"message": "a"}, "headers": {"x-ms-wait-for-response": "?"}}, 400, "x-ms-wait-for-response"),
        ({"json": {"message": "a"}, "headers": {"Idempotency-Key": "a b"}}, 400, "Idempotency-Key"),
        ({"json": {"message": "a"}, "headers": {"Idempotency-Key": "x" * 256}}, 400, "Idempotency-Key"),
        ({"content": b"x" * 2001, "headers": TEXT}, 413, "at most 2000 bytes"),
        ({"json": {"message": "é" * 1001}}, 413, "at most 2000 bytes"),
        ({"content": b" " * 1_000_000, "headers": JSON}, 413, "at most 2000 bytes"),
        ({"data": {"message": "a"}}, 415, "text/plain"),
        ({"content": b"<a/>", "headers": {"Content-Type": "application/xml"}}, 415, "application/json"),
    ],
)
async def test_a_wrong_run_request_is_refused(app: App, request_: dict[str, Any], status: int, detail: str) -> None:
    response = await app.client.post(RUN_ROUTE, **request_)

    assert response.status_code == status
    assert detail in problem_detail(response)
    await assert_serves_the_next_request(app)


async def test_a_message_of_the_greatest_length_is_accepted(app: App) -> None:
    message = script(chunks=["a"])

    response = await app.client.post(RUN_ROUTE, content=message + " " * (2000 - len(message)), headers=TEXT)

    assert response.status_code == httpx.codes.ACCEPTED


async def test_no_content_type_means_text(app: App) -> None:
    response = await app.client.post(RUN_ROUTE, content=script(chunks=["a"]).encode())

    assert "content-type" not in response.request.headers
    assert response.status_code == httpx.codes.ACCEPTED


async def test_an_unknown_agent_is_404_and_the_known_ones_are_named(app: App) -> None:
    response = await app.client.post("/api/agents/Nobody/run", content="hi", headers=TEXT)

    assert response.status_code == httpx.codes.NOT_FOUND
    assert "TravelPlanner" in problem_detail(response)
    await assert_serves_the_next_request(app)


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/api/agent/stream/nobody-knows-it", 404, "no such conversation"),
        ("/api/agent/stream/nobody-knows-it?correlation_id=nor-this", 404, "no such run"),
        ("/api/agent/stream/a%20b", 400, "conversation_id is not valid"),
        (f"/api/agent/stream/{LONG_ID}", 400, "conversation_id is not valid"),
        ("/api/agent/stream/a?correlation_id=%2F", 400, "correlation_id is not valid"),
        ("/api/agent/stream/a?cursor=yesterday", 400, "cursor is not valid"),
        ("/api/agent/stream/a?cursor=1", 400, "cursor is not valid"),
        ("/api/agent/stream/a?cursor=99999999999999999999-0", 400, "cursor is not valid"),
        ("/api/agent/stream/a?follow=perhaps", 400, "follow is not valid"),
        ("/api/agent/runs/nobody-knows-it", 404, "no run"),
        ("/api/agent/runs/a%20b", 400, "correlation_id is not valid"),
        ("/api/agent/conversations/nobody-knows-it", 404, "no conversation"),
        ("/api/agent/conversations/a%20b", 400, "conversation_id is not valid"),
    ],
)
async def test_a_wrong_get_is_refused_at_once(app: App, path: str, status: int, detail: str) -> None:
    response = await app.client.get(path, timeout=5)

    assert response.status_code == status
    assert detail in problem_detail(response)
    await assert_serves_the_next_request(app)


async def test_a_wrong_last_event_id_is_refused(app: App) -> None:
    response = await app.client.get("/api/agent/stream/a", headers={"Last-Event-ID": "yesterday"})

    assert response.status_code == httpx.codes.BAD_REQUEST
    assert "cursor is not valid" in problem_detail(response)


async def test_another_conversations_run_is_unknown_in_this_one(app: App) -> None:
    first, second = [await app.start_run(script(chunks=["a"])) for _ in range(2)]
    await app.finish(first)
    await app.finish(second)

    response = await app.client.get(
        f"/api/agent/stream/{first['conversation_id']}?correlation_id={second['correlation_id']}"
    )

    assert response.status_code == httpx.codes.NOT_FOUND


async def test_cancelling_an_unknown_run_is_404_and_an_ended_one_409(app: App) -> None:
    unknown = await app.client.post("/api/agent/runs/nobody-knows-it/cancel")
    assert unknown.status_code == httpx.codes.NOT_FOUND
    run = await app.start_run(script(chunks=["a"]))
    await app.finish(run)

    ended = await app.client.post(f"{run['status_url']}/cancel")

    assert ended.status_code == httpx.codes.CONFLICT
    assert "has ended" in problem_detail(ended)
