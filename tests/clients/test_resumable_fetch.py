"""``resumableFetch`` and a server that has bad days."""

import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest

from tests.clients.harness import Line, needs_node, run_script
from tests.clients.scripted_server import (
    DONE,
    EVENT_STREAM,
    NOTHING_FOLLOWS,
    SOON,
    A,
    Answer,
    B,
    ScriptedServer,
    event,
    problem,
)
from tests.waiting import eventually

pytestmark = [needs_node, pytest.mark.asyncio]

RUN = "/stream?correlation_id=r"
POST = {"method": "POST", "body": "{}", "headers": {"Content-Type": "application/json", "x-functions-key": "k"}}


@asynccontextmanager
async def serving(*answers: Answer, then: Iterable[Answer] = ()) -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer(itertools.chain(answers, then)) as server:
        yield server


async def read(server: ScriptedServer, path: str = RUN, **reader: Any) -> list[Line]:
    return await run_script("resumable_fetch", readers=[{"url": server.url + path, **reader}])


async def assert_asked(answers: Iterable[Answer], requests: int, path: str = RUN) -> None:
    """Check that each of these first answers, read to its end, takes so many requests."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(answer, Answer(DONE))) for answer in answers]
        urls = [server.url + path for server in servers]
        lines = await run_script("resumable_fetch", readers=[{"url": url} for url in urls])

    assert sorted(line["reader"] for line in lines if "ended" in line) == list(range(len(servers)))
    assert [len(server.asked) for server in servers] == [requests] * len(servers)


def data(lines: list[Line]) -> list[str]:
    return [line["data"] for line in lines if "data" in line]


@pytest.mark.parametrize("end", ["clean", "cut"])
async def test_a_response_that_ends_before_the_stream_is_resumed_after_its_last_whole_event(end: Any) -> None:
    async with serving(Answer(A + SOON + B[:-1], end=end), Answer(B, end=end), Answer(DONE)) as server:
        lines = await read(server, init={"headers": {"x-functions-key": "k", "Last-Event-ID": "0-1"}})

    assert data(lines) == ["a", "b\n", "[DONE]"]
    assert lines[-1] == {"reader": 0, "ended": True}
    assert [asked.headers["last-event-id"] for asked in server.asked] == ["0-1", "1-0", "2-0"]
    assert {(asked.method, asked.path, asked.headers["x-functions-key"]) for asked in server.asked} == {
        ("GET", RUN, "k")
    }


async def test_a_reader_is_given_whole_events_only() -> None:
    stream = SOON + b": heartbeat\n" + A + B + DONE
    cuts = [stream[:at] for at in range(len(SOON), stream.index(B) + 1, 5)] + [stream[: stream.index(B)]]

    async with serving(*(Answer(part, end="cut") for part in cuts), Answer(B + DONE)) as server:
        lines = await read(server, raw=True)

    pieces = [line["piece"] for line in lines if "piece" in line]
    assert all(piece.endswith(("\n\n", ": heartbeat\n")) for piece in pieces)
    assert "".join(pieces).encode().endswith(B + DONE)
    assert "".join(pieces).encode().count(A) == 1


async def test_a_post_is_resumed_where_its_location_says_with_the_headers_of_the_caller() -> None:
    location = {"Location": "/agui/runs/1?thread_id=t", **EVENT_STREAM}
    finished = b'id: 2-0.1\ndata: {"type": "RUN_FINISHED"}\n\n'
    async with serving(
        Answer(SOON + b"id: 2-0.0\ndata: {}\n\n", headers=location, end="cut"), Answer(finished)
    ) as server:
        lines = await read(server, "/agui", init=POST)

    first, second = server.asked
    assert data(lines) == ["{}", '{"type": "RUN_FINISHED"}']
    assert (first.method, first.path, first.body) == ("POST", "/agui", b"{}")
    assert (second.method, second.path, second.body) == ("GET", "/agui/runs/1?thread_id=t", b"")
    assert (second.headers["last-event-id"], second.headers["x-functions-key"]) == ("2-0.0", "k")
    assert second.headers["accept"] == "text/event-stream"
    assert not {"content-type", "idempotency-key"} & set(second.headers)


async def test_a_location_is_relative_to_where_the_request_was_led() -> None:
    moved = Answer(status=307, headers={"Location": "/new/agui"})
    async with serving(moved, Answer(SOON, headers=EVENT_STREAM | {"Location": "runs/1"}), Answer(DONE)) as server:
        await read(server, "/old/agui", init=POST, options={"maxTries": 1})

    assert [asked.path for asked in server.asked][:3] == ["/old/agui", "/new/agui", "/new/runs/1"]


async def test_a_post_cut_before_its_response_is_sent_again_as_the_same_run() -> None:
    location = {"Location": "/runs/1", **EVENT_STREAM}
    async with serving(Answer(status=0), Answer(b"data: [DONE]\n\n", headers=location)) as server:
        lines = await read(server, "/chat", init=POST)

    assert data(lines) == ["[DONE]"]
    first, second = server.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert (first.method, first.body) == (second.method, second.body)


@pytest.mark.parametrize("answer", [0, 1])
async def test_a_server_that_asks_to_come_again_is_asked_again(answer: int) -> None:
    busy = problem(503, "The service is busy.", **{"Retry-After": "0"})
    answers = [Answer(SOON + A, end="cut"), Answer(B + DONE)]
    answers[answer:answer] = [busy, Answer(status=0), busy]
    async with serving(*answers) as server:
        lines = await read(server)

    assert data(lines) == ["a", "b\n", "[DONE]"]
    assert len(server.asked) == 5


async def test_a_refusal_of_the_first_request_is_handed_through_once_it_has_been_tried_often_enough() -> None:
    busy = problem(503, "The service is busy.", **{"Retry-After": "0"})
    async with serving(then=itertools.repeat(busy)) as server:
        [line] = await read(server, options={"maxTries": 2, "maxDelayMs": 1})

    assert line["status"] == 503
    assert "The service is busy." in line["body"]
    assert len(server.asked) == 3


async def test_it_gives_up_after_so_many_tries_without_anything_new() -> None:
    async with serving(Answer(SOON + A, end="cut"), Answer(B, end="cut")) as server:
        lines = await read(server, options={"maxTries": 4})

    assert data(lines) == ["a", "b\n"]
    assert lines[-1]["error"] == "ResumeError"
    assert "tries: 4" in lines[-1]["message"]
    assert len(server.asked) == 2 + 4


async def test_responses_without_an_event_are_no_progress_and_heartbeats_are() -> None:
    empty, beating = Answer(SOON), Answer(SOON + b": heartbeat\n")
    async with serving(Answer(SOON + A), *[beating] * 7, then=itertools.repeat(empty)) as server:
        lines = await read(server, options={"maxTries": 3})

    assert lines[-1]["error"] == "ResumeError"
    assert "ended before the stream did" in lines[-1]["message"]
    assert len(server.asked) == 1 + 7 + 3


@pytest.mark.parametrize("status", [400, 401, 404, 410])
async def test_a_refusal_to_resume_is_an_error_that_says_why(status: int) -> None:
    async with serving(Answer(SOON + A), problem(status, "There is no such run.")) as server:
        lines = await read(server)

    assert lines[-1]["error"] == "ResumeError"
    assert lines[-1]["status"] == status
    assert "There is no such run." in lines[-1]["message"]
    assert len(server.asked) == 2


async def test_a_server_that_asks_for_a_longer_pause_than_allowed_is_not_asked_again() -> None:
    async with serving(Answer(SOON + A), problem(503, "Closed.", **{"Retry-After": "3600"})) as server:
        lines = await read(server)

    assert (lines[-1]["error"], lines[-1]["status"]) == ("ResumeError", 503)
    assert len(server.asked) == 2


async def test_what_answers_a_resumption_with_a_page_is_no_stream() -> None:
    async with serving(Answer(SOON + A), Answer(b"<p>Log in", headers={"Content-Type": "text/html"})) as server:
        lines = await read(server)

    assert lines[-1]["error"] == "ResumeError"
    assert len(server.asked) == 2


async def test_no_content_is_the_end() -> None:
    async with serving(Answer(SOON + A, end="cut"), NOTHING_FOLLOWS) as server:
        lines = await read(server)

    assert data(lines) == ["a"]
    assert lines[-1] == {"reader": 0, "ended": True}


TERMINAL_FRAMES = [f"event: {kind}\ndata: x\n\n" for kind in ("done", "error", "cancelled")]
TERMINAL_FRAMES_OF_OTHERS = [
    'data: {"type":"RUN_FINISHED","threadId":"t"}\n\n',
    'data: {"type":"RUN_ERROR","message":"m"}\n\n',
    "data: [DONE]\n\n",
]


@pytest.mark.parametrize("end", ["clean", "cut", "silence"])
async def test_a_run_ends_with_its_terminal_event_however_the_response_does(end: Any) -> None:
    for path, frames in ((RUN, TERMINAL_FRAMES), ("/agui/runs/1", TERMINAL_FRAMES_OF_OTHERS)):
        await assert_asked([Answer(SOON + frame.encode(), end=end) for frame in frames], requests=1, path=path)


NO_END = {
    "a message that says it": 'event: message\ndata: [DONE]\n\nevent: message\ndata: {"type":"RUN_FINISHED"}\n\n',
    "a text that holds it": 'data: {"type":"TEXT_MESSAGE_CONTENT","delta":"RUN_FINISHED"}\n\n',
    "a text that is no JSON": "data: RUN_ERROR\n\n",
}


async def test_a_text_that_looks_like_an_end_is_none() -> None:
    await assert_asked([Answer(SOON + frame.encode()) for frame in NO_END.values()], requests=2)


async def test_a_conversation_goes_on_after_a_run_of_it_has_ended() -> None:
    next_run = event("4-0", "message", "next")
    async with serving(Answer(SOON + A + DONE + next_run), Answer(DONE, end="cut"), NOTHING_FOLLOWS) as server:
        lines = await read(server, "/stream")

    assert data(lines) == ["a", "[DONE]", "next", "[DONE]"]
    assert lines[-1] == {"reader": 0, "ended": True}
    assert len(server.asked) == 3


async def test_a_conversation_goes_on_after_a_runs_end_until_its_server_says_that_nothing_follows() -> None:
    # The next run is open, and says nothing yet.
    first = Answer(SOON + A + DONE + b": heartbeat\n")
    async with serving(first, Answer(B), NOTHING_FOLLOWS) as server:
        lines = await read(server, "/stream")

    assert data(lines) == ["a", "[DONE]", "b\n"]
    assert lines[-1] == {"reader": 0, "ended": True}
    assert len(server.asked) == 3


@pytest.mark.parametrize("how", ["abort_after", "cancel_after"])
async def test_a_reader_that_leaves_is_not_held_and_asks_for_nothing_more(how: str) -> None:
    async with serving(Answer(SOON + A, end="silence"), then=itertools.repeat(Answer(B))) as server:
        lines = await read(server, **dict[str, Any]({how: 1}))

        async def was_left() -> bool:
            return server.left == 1

        await eventually(was_left)

    assert data(lines) == ["a"]
    assert lines[-1] == ({"reader": 0, "ended": True} if how == "cancel_after" else lines[-1] | {"error": "AbortError"})
    assert len(server.asked) == 1


async def test_who_aborts_it_is_told_so_though_there_is_no_try_left() -> None:
    async with serving(Answer(SOON + A, end="silence")) as server:
        lines = await read(server, abort_after=1, options={"maxTries": 0})

    assert lines[-1]["error"] == "AbortError"


async def test_a_reader_may_leave_in_the_pause_between_two_tries() -> None:
    waits_long = b"retry: 30000\n\n"
    async with serving(Answer(waits_long + A + B)) as server:
        lines = await read(server, abort_after=2)

    assert lines[-1]["error"] == "AbortError"
    assert len(server.asked) == 1


async def test_a_connection_that_says_nothing_for_too_long_is_given_up_and_resumed() -> None:
    async with serving(Answer(SOON + A, end="silence"), Answer(B + DONE)) as server:
        lines = await read(server, options={"silenceMs": 300})

        assert data(lines) == ["a", "b\n", "[DONE]"]
        assert server.left == 1


async def test_the_server_says_how_soon_to_come_back() -> None:
    async with serving(Answer(b"retry: 1400\n\n" + A), Answer(DONE)) as server:
        await read(server)

    # By chance between half of it and all of it.
    assert server.asked[1].at - server.asked[0].at >= 0.7


async def test_what_is_no_event_stream_is_handed_through() -> None:
    accepted = Answer(b'{"status":"accepted"}', 202, {"Content-Type": "application/json", "Location": "/stream"})
    async with serving(accepted, problem(404, "There is no agent of this name.")) as server:
        [first] = await read(server, init=POST)
        [second] = await read(server, init=POST)

    assert first == {"reader": 0, "status": HTTPStatus.ACCEPTED, "body": '{"status":"accepted"}'}
    assert second["status"] == HTTPStatus.NOT_FOUND
    assert len(server.asked) == 2


@pytest.mark.parametrize("location", [{}, {"Location": "http://127.0.0.1:9/elsewhere"}])
async def test_a_post_that_names_no_place_of_its_own_server_is_handed_through(location: dict[str, str]) -> None:
    async with serving(Answer(A, headers=EVENT_STREAM | location)) as server:
        lines = await read(server, init=POST)

    assert data(lines) == ["a"]
    assert lines[-1] == {"reader": 0, "ended": True}
    assert len(server.asked) == 1


async def test_nothing_is_read_before_it_is_asked_for() -> None:
    [line] = await run_script("resumable_fetch_pulls")

    assert line == {"pieces": 3, "pulls": 3}


async def test_a_reader_may_leave_though_what_is_under_it_misses_the_signal() -> None:
    [line] = await run_script("resumable_fetch_deaf")

    assert line == {"error": "AbortError"}


async def test_its_types_are_right() -> None:
    [line] = await run_script("resumable_fetch_types")

    assert line == {"output": "", "status": 0}
