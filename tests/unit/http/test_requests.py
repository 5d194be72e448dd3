import contextlib
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from agentstream.http.problems import ProblemError
from agentstream.http.requests import (
    parse_boolean,
    parse_format,
    parse_id,
    parse_include,
    parse_optional_id,
    parse_resume_cursor,
    parse_run_request,
)
from agentstream.model import FIRST_CURSOR, FURTHER_KINDS, MAX_CURSOR_PART, RunRequest

MAX_MESSAGE_BYTES = 100
JSON = "application/json"
CONVERSATION_NAMES = ["conversation_id", "session_id", "sessionId", "thread_id"]
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)


def request(
    parts: list[bytes] | None = None,
    *,
    query: Mapping[str, str] | list[tuple[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """Return a request whose body arrives in these parts (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
    left = list(parts or [b""])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": urlencode(query or {}).encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
    }
    return Request(scope, receive)


async def parse(
    body: bytes | str | dict[str, Any], content_type: str | None = None, *, headers: Any = None, query: Any = None
) -> RunRequest:
    """Parse a POST run: a dict is sent as JSON, all else as it is."""
    if isinstance(body, dict):
        body, content_type = json.dumps(body), content_type or JSON
    content = body if isinstance(body, bytes) else body.encode()
    types = {} if content_type is None else {"Content-Type": content_type}
    return await parse_run_request(
        request([content], query=query, headers={**types, **(headers or {})}), MAX_MESSAGE_BYTES
    )


async def refused(*args: Any, **options: Any) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        await parse(*args, **options)
    return caught.value


class TestContentType:
    @pytest.mark.parametrize("content_type", [None, "", "text/plain", "TEXT/PLAIN; charset=utf-8", " text/plain "])
    async def test_text_is_the_message_itself(self, content_type: str | None) -> None:
        assert (await parse('{"message": "a"}', content_type)).message == '{"message": "a"}'

    @pytest.mark.parametrize(
        "content_type", [JSON, "Application/JSON;charset=utf-8", "application/vnd.agent.v1+json", "application/ld+JSON"]
    )
    async def test_json_holds_the_message(self, content_type: str) -> None:
        assert (await parse('{"message": "a"}', content_type)).message == "a"

    @pytest.mark.parametrize(
        "content_type", ["application/xml", "application/jsonl", "text/plain2", "+json", "json", "x/y; z=a+json"]
    )
    async def test_another_one_is_refused_and_told_what_to_send(self, content_type: str) -> None:
        problem = await refused('{"message": "a"}', content_type)

        assert problem.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        assert problem.headers == {"Accept-Post": "text/plain, application/json"}


class TestMessage:
    @given(st.text(max_size=2 * MAX_MESSAGE_BYTES))
    async def test_any_text_arrives_as_it_was_sent_or_is_refused_as_empty_or_too_long(self, text: str) -> None:
        for body in (text, {"message": text}):
            if not text.strip() and len(text.encode()) <= MAX_MESSAGE_BYTES:
                assert (await refused(body)).status == HTTPStatus.BAD_REQUEST
            elif len(text.encode()) > MAX_MESSAGE_BYTES:
                assert (await refused(body)).status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            else:
                assert (await parse(body)).message == text

    @given(st.binary(max_size=60), st.sampled_from(["text/plain", JSON]))
    async def test_no_bytes_make_anything_but_a_request_or_a_problem(self, body: bytes, content_type: str) -> None:
        with contextlib.suppress(ProblemError):
            assert (await parse(body, content_type)).message.strip()

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
    async def test_a_message_that_is_no_text_is_refused(self, message: object) -> None:
        if isinstance(message, str) and message.strip():
            assert (await parse({"message": message})).message == message
        else:
            assert (await refused({"message": message})).status == HTTPStatus.BAD_REQUEST

    @pytest.mark.parametrize("body", [b"\xff", b'{"message": "\xff"}'])
    async def test_bytes_that_are_not_utf_8_are_refused(self, body: bytes) -> None:
        assert "UTF-8" in (await refused(body, JSON)).detail

    async def test_a_character_that_arrives_in_two_parts_is_one(self) -> None:
        parts = [bytes([byte]) for byte in "Zürich 🚀".encode()]

        assert (await parse_run_request(request(parts), MAX_MESSAGE_BYTES)).message == "Zürich 🚀"

    async def test_half_a_surrogate_pair_is_replaced(self) -> None:
        # RFC 8259, section 8.2: JSON's escapes can write what is no Unicode text.
        assert (await parse('{"message": "a\\ud83d"}', JSON)).message == "a�"
        assert (await parse('{"message": "\\ud83d\\ude80"}', JSON)).message == "🚀"


class TestSize:
    @pytest.mark.parametrize("character", ["a", "é", "🚀"])
    @pytest.mark.parametrize("escaped", [False, True])
    async def test_bytes_of_the_message_count_however_they_are_written(self, character: str, escaped: bool) -> None:
        message = character * (MAX_MESSAGE_BYTES // len(character.encode()))

        async def send(message: str) -> RunRequest:
            return await parse(json.dumps({"message": message}, ensure_ascii=escaped), JSON)

        assert (await send(message)).message == message
        with pytest.raises(ProblemError, match="at most 100 bytes") as caught:
            await send(message + character)
        assert caught.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    @pytest.mark.parametrize("content_type", ["text/plain", JSON])
    async def test_promise_8_bounded_a_body_is_not_read_beyond_what_a_message_can_take(self, content_type: str) -> None:
        read = 0

        async def receive() -> dict[str, Any]:
            nonlocal read
            read += 1
            return {"type": "http.request", "body": b" " * 1000, "more_body": True}

        headers = [(b"content-type", content_type.encode())]
        endless = Request({"type": "http", "query_string": b"", "headers": headers}, receive)

        with pytest.raises(ProblemError) as caught:
            await parse_run_request(endless, MAX_MESSAGE_BYTES)

        assert caught.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert read < 10


class TestConversation:
    async def test_without_a_name_it_is_none(self) -> None:
        assert (await parse("a")).conversation_id is None
        assert (await parse({"message": "a", "thread_id": None})).conversation_id is None

    @pytest.mark.parametrize("name", CONVERSATION_NAMES)
    async def test_each_name_is_taken_from_body_and_query(self, name: str) -> None:
        assert (await parse({"message": "a", name: "mine"})).conversation_id == "mine"
        assert (await parse("a", query={name: "mine"})).conversation_id == "mine"

    @pytest.mark.parametrize("second", CONVERSATION_NAMES)
    @pytest.mark.parametrize("first", CONVERSATION_NAMES)
    async def test_two_that_differ_are_refused_and_two_that_agree_are_one(self, first: str, second: str) -> None:
        body = {"message": "a", first: "one"}

        assert (await parse(body, query={second: "one"})).conversation_id == "one"
        assert "differ" in (await refused(body, query={second: "other"})).detail
        if first != second:
            assert "differ" in (await refused({**body, second: "other"})).detail

    async def test_a_query_that_names_two_is_refused(self) -> None:
        assert "differ" in (await refused("a", query=[("session_id", "one"), ("session_id", "two")])).detail

    @pytest.mark.parametrize("value", ["", "a b", "x" * 129, "..", 7, True, ["a"], {}])
    @pytest.mark.parametrize("name", CONVERSATION_NAMES)
    async def test_a_wrong_one_is_named(self, name: str, value: object) -> None:
        assert (await refused({"message": "a", name: value})).detail.startswith(f"{name} is not valid")


class TestWaitForResponse:
    @given(*[st.sampled_from([None, "true", "false"])] * 3)
    async def test_header_query_and_body_decide_in_this_order(
        self, header: str | None, query: str | None, body: str | None
    ) -> None:
        parsed = await parse(
            {"message": "a", "wait_for_response": None if body is None else body == "true"},
            headers={} if header is None else {"x-ms-wait-for-response": header},
            query={} if query is None else {"wait_for_response": query},
        )

        assert parsed.wait_for_response is (next((each for each in (header, query, body) if each), "false") == "true")

    @pytest.mark.parametrize("value", ["perhaps", "", 1, [True]])
    async def test_what_is_neither_true_nor_false_is_refused(self, value: object) -> None:
        assert "wait_for_response" in (await refused({"message": "a", "wait_for_response": value})).detail

    async def test_a_wrong_header_is_refused_and_named(self) -> None:
        assert "x-ms-wait-for-response" in (await refused("a", headers={"x-ms-wait-for-response": "?"})).detail


class TestIdempotencyKey:
    @given(st.text(st.characters(max_codepoint=255), max_size=300))
    async def test_1_to_255_visible_ascii_characters_are_a_key(self, key: str) -> None:
        if 1 <= len(key) <= 255 and all("!" <= character <= "~" for character in key):
            assert (await parse("a", headers={"Idempotency-Key": key})).idempotency_key == key
        else:
            assert "Idempotency-Key" in (await refused("a", headers={"Idempotency-Key": key})).detail

    async def test_without_the_header_there_is_none(self) -> None:
        assert (await parse("a")).idempotency_key is None


class TestOptionsOfTheFrameworksRoute:
    @pytest.mark.parametrize(
        "name",
        [
            "role",
            "response_format",
            "enable_tool_calls",
            "request_response_format",
            "options",
            "waitForResponse",
            "correlationId",
        ],
    )
    async def test_one_that_is_not_taken_is_refused_and_named(self, name: str) -> None:
        problem = await refused({"message": "a", name: "user"})

        assert problem.status == HTTPStatus.BAD_REQUEST
        assert re.search(rf"\b{name}\b", problem.detail)

    async def test_several_are_all_named(self) -> None:
        detail = (await refused({"message": "a", "role": "system", "enable_tool_calls": False})).detail

        assert "role, enable_tool_calls" in detail

    async def test_one_that_is_null_asks_for_nothing(self) -> None:
        assert (await parse({"message": "a", "response_format": None})).message == "a"


class TestIds:
    @given(IDS)
    def test_letters_digits_and_three_signs_are_an_id(self, value: str) -> None:
        assert parse_id("x", value) == value

    @given(st.text(max_size=140))
    def test_all_else_is_refused_and_named(self, value: str) -> None:
        if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", value, re.ASCII) and value.strip("."):
            assert parse_id("x", value) == value
        else:
            with pytest.raises(ProblemError, match=r"^x is not valid"):
                parse_id("x", value)

    def test_a_line_break_at_the_end_is_no_part_of_an_id(self) -> None:
        with pytest.raises(ProblemError):
            parse_id("x", "abc\n")

    def test_an_id_in_the_query_may_be_missing(self) -> None:
        assert parse_optional_id(request(), "correlation_id") is None
        assert parse_optional_id(request(query={"correlation_id": "r"}), "correlation_id") == "r"
        with pytest.raises(ProblemError, match="correlation_id"):
            parse_optional_id(request(query={"correlation_id": ""}), "correlation_id")


class TestCursor:
    @given(st.integers(0, MAX_CURSOR_PART), st.integers(0, MAX_CURSOR_PART))
    def test_an_entry_id_is_a_cursor(self, milliseconds: int, sequence: int) -> None:
        cursor = f"{milliseconds}-{sequence}"

        assert parse_resume_cursor(request(query={"cursor": cursor})) == cursor

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=45))
    def test_all_else_is_refused(self, cursor: str) -> None:
        if re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", cursor) and max(map(int, cursor.split("-"))) <= MAX_CURSOR_PART:
            return
        with pytest.raises(ProblemError, match="cursor is not valid"):
            parse_resume_cursor(request(query={"cursor": cursor}))

    def test_last_event_id_wins_unless_it_is_empty(self) -> None:
        query = {"cursor": "1-0"}

        assert parse_resume_cursor(request(query=query, headers={"Last-Event-ID": "2-0"})) == "2-0"
        # A browser that has seen an id may have been told to forget it (WHATWG HTML, section 9.2.6).
        assert parse_resume_cursor(request(query=query, headers={"Last-Event-ID": ""})) == "1-0"

    def test_without_one_it_is_the_beginning(self) -> None:
        assert parse_resume_cursor(request()) == FIRST_CURSOR


@pytest.mark.parametrize(
    ("parsed", "value"),
    [(True, ["true", " TRUE ", "1", "yes", True]), (False, ["false", "0", "No", False])],
)
def test_a_boolean_has_four_spellings(parsed: bool, value: list[str | bool]) -> None:
    assert {parse_boolean("follow", each) for each in value} == {parsed}


@pytest.mark.parametrize("value", ["", "2", "on", "truetrue"])
def test_another_spelling_is_refused_and_named(value: str) -> None:
    with pytest.raises(ProblemError, match=r"^follow is not valid"):
        parse_boolean("follow", value)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([], set()),
        ([""], set()),
        (["tools"], {"tool_call", "tool_result"}),
        (["reasoning"], {"reasoning"}),
        (["usage,tools"], {"usage", "tool_call", "tool_result"}),
        (["usage", "reasoning"], {"usage", "reasoning"}),
        (["all"], set(FURTHER_KINDS)),
        (["all,usage"], set(FURTHER_KINDS)),
    ],
)
def test_include_names_the_further_kinds_of_events(values: list[str], kinds: set[str]) -> None:
    assert parse_include(request(query=[("include", value) for value in values])) == kinds


@pytest.mark.parametrize("value", ["tool_call", "Tools", "tools;usage", "tools, usage", "tools,", "message"])
def test_what_cannot_be_included_is_refused_and_what_can_is_told(value: str) -> None:
    with pytest.raises(ProblemError, match=r"^include is not valid: .* tools, reasoning, usage, all,") as caught:
        parse_include(request(query={"include": value}))
    assert caught.value.status == HTTPStatus.BAD_REQUEST


def test_the_only_format_that_can_be_asked_for_is_json() -> None:
    assert not parse_format(request())
    assert parse_format(request(query={"format": "json"}))
    for value in ("", "JSON", "text", "sse"):
        with pytest.raises(ProblemError, match=r"^format is not valid: send json") as caught:
            parse_format(request(query={"format": value}))
        assert caught.value.status == HTTPStatus.BAD_REQUEST
