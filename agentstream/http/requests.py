"""Parsing of the HTTP API's requests."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from azurefunctions.extensions.http.fastapi import Request

from agentstream.http.bodies import ID_PATTERN, IDEMPOTENCY_KEY_PATTERN, UNSUPPORTED_OPTIONS
from agentstream.http.problems import ProblemError
from agentstream.model import (
    FIRST_CURSOR,
    FURTHER_KINDS,
    REASONING,
    TOOL_CALL,
    TOOL_RESULT,
    USAGE,
    RunRequest,
    parse_cursor,
)
from agentstream.stream.text import well_formed

# Ours, and the framework's newer and older names for a conversation.
CONVERSATION_NAMES = ("conversation_id", "session_id", "sessionId", "thread_id")
# What ``include`` calls the further kinds of events.
INCLUDES = {
    "tools": frozenset((TOOL_CALL, TOOL_RESULT)),
    "reasoning": frozenset((REASONING,)),
    "usage": frozenset((USAGE,)),
    "all": FURTHER_KINDS,
}
WAIT_HEADER = "x-ms-wait-for-response"
# A JSON string may write each byte of a message as an escape of six characters.
JSON_ESCAPE_BYTES = 6
JSON_ENVELOPE_BYTES = 4_096

# A type of which the structured syntax suffix says that it is JSON (RFC 6839, section 3.1), beside JSON itself.
_JSON = re.compile(r"application/json|[^/]+/[^/]+\+json")
# Names of dots alone would vanish from a URL's path (RFC 3986, section 5.2.4).
_ID = re.compile(ID_PATTERN)
_IDEMPOTENCY_KEY = re.compile(IDEMPOTENCY_KEY_PATTERN)
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


async def parse_run_request(request: Request, max_message_bytes: int) -> RunRequest:
    """Read a ``POST run``.

    Raises:
        ProblemError: 400, 413 or 415, as the API's contract says.
    """
    body = await _read_body(request, max_message_bytes)
    _refuse_unsupported(body)
    message = parse_message(body.get("message"), max_message_bytes)
    return RunRequest(message, _conversation_id(request, body), _wait(request, body), _idempotency_key(request))


def parse_message(message: Any, max_message_bytes: int) -> str:
    """Return the message of a user's.

    Raises:
        ProblemError: 400, it is empty or no text; 413, it is too long.
    """
    if not isinstance(message, str) or not message.strip():
        raise bad_request('The message is empty. Send it as text/plain, or as JSON: {"message": "..."}.')
    if len(message.encode("utf-8", "surrogatepass")) > max_message_bytes:
        raise _too_large("message", max_message_bytes)
    return well_formed(message)


async def parse_json(request: Request, max_bytes: int) -> dict[str, Any]:
    """Return a body that is a JSON object.

    Raises:
        ProblemError: 400, it is none; 413, it is too long; 415, its type is another.
    """
    content_type = _content_type(request)
    if not _JSON.fullmatch(content_type):
        detail = f"The content type {content_type} is not supported: send application/json."
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, {"Accept-Post": "application/json"})
    return _parse_json(_decode(await _read(request, max_bytes, _too_large("request", max_bytes))))


def parse_id(name: str, value: str) -> str:
    """Return the id.

    Raises:
        ProblemError: 400, it is none.
    """
    if not _ID.fullmatch(value):
        raise bad_request(f"{name} is not valid: 1 to 128 letters, digits, dots, underscores and hyphens are allowed.")
    return value


def parse_optional_id(request: Request, name: str) -> str | None:
    """Return the query parameter's id, or None without one."""
    value = request.query_params.get(name)
    return None if value is None else parse_id(name, value)


def parse_resume_cursor(request: Request) -> str:
    """Return where to resume: ``Last-Event-ID``, which a browser sends when it reconnects, wins over ``cursor``."""
    given = (request.headers.get("last-event-id"), request.query_params.get("cursor"))
    try:
        # What another one overrules has to be right, too.
        return next(iter([parse_cursor(cursor) for cursor in given if cursor]), FIRST_CURSOR)
    except ValueError:
        raise bad_request("The cursor is not valid: send the id of an event, such as 1734649123456-0.") from None


def parse_boolean(name: str, value: str | bool) -> bool:
    """Return the value of a parameter that is true or false.

    Raises:
        ProblemError: 400, it is neither.
    """
    parsed = value if isinstance(value, bool) else _BOOLEANS.get(value.strip().lower())
    if parsed is None:
        raise bad_request(f"{name} is not valid: send true or false.")
    return parsed


def parse_include(request: Request) -> frozenset[str]:
    """Return the kinds of further events that ``include`` asks for: a comma-separated list, empty by default.

    Raises:
        ProblemError: 400, it names anything else.
    """
    names = {name for value in request.query_params.getlist("include") if value for name in value.split(",")}
    if not names <= INCLUDES.keys():
        known = ", ".join(INCLUDES)
        raise bad_request(f"include is not valid: send a comma-separated list of {known}, or leave it out.")
    return frozenset[str]().union(*(INCLUDES[name] for name in names))


def parse_format(request: Request) -> bool:
    """Return whether ``format`` asks for the data of all events as JSON.

    Raises:
        ProblemError: 400, it asks for anything else.
    """
    value: str | None = request.query_params.get("format")
    if value not in (None, "json"):
        raise bad_request("format is not valid: send json, or leave it out.")
    return value == "json"


async def _read_body(request: Request, max_message_bytes: int) -> dict[str, Any]:
    content_type = _content_type(request)
    too_large = _too_large("message", max_message_bytes)
    if content_type in ("", "text/plain"):
        return {"message": _decode(await _read(request, max_message_bytes, too_large))}
    if _JSON.fullmatch(content_type):
        limit = JSON_ESCAPE_BYTES * max_message_bytes + JSON_ENVELOPE_BYTES
        return _parse_json(_decode(await _read(request, limit, too_large)))
    raise ProblemError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"The content type {content_type} is not supported: send text/plain or application/json, "
        "such as curl -H 'Content-Type: text/plain' -d 'Plan a trip to Tokyo'.",
        {"Accept-Post": "text/plain, application/json"},
    )


def _content_type(request: Request) -> str:
    given: str = request.headers.get("content-type", "text/plain")
    return given.partition(";")[0].strip().lower()


async def _read(request: Request, limit: int, too_large: ProblemError) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise bad_request("The body is not UTF-8. Encode it as UTF-8 and send it again.") from None


def _parse_json(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise bad_request('The body is not a JSON object. Send {"message": "..."}.')
    return body


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    unsupported = [name for name in UNSUPPORTED_OPTIONS if body.get(name) is not None]
    if unsupported:
        names = ", ".join(unsupported)
        raise bad_request(f"Not supported here: {names}. Send message, conversation_id and wait_for_response only.")


def _conversation_id(request: Request, body: Mapping[str, Any]) -> str | None:
    given: list[tuple[str, Any]] = [*body.items(), *request.query_params.multi_items()]
    named = {
        parse_id(name, value if isinstance(value, str) else ""): name
        for name, value in given
        if name in CONVERSATION_NAMES and value is not None
    }
    if len(named) > 1:
        names = " and ".join(dict.fromkeys(named.values()))
        raise bad_request(f"The values of {names} differ, and all of them name the conversation. Send one.")
    return next(iter(named), None)


def _wait(request: Request, body: Mapping[str, Any]) -> bool:
    places = (
        (WAIT_HEADER, request.headers.get(WAIT_HEADER)),
        ("wait_for_response", request.query_params.get("wait_for_response")),
        ("wait_for_response", body.get("wait_for_response")),
    )
    # What another place overrules has to be right, too.
    given = [
        parse_boolean(name, value if isinstance(value, str | bool) else "")
        for name, value in places
        if value is not None
    ]
    return given[0] if given else False


def _idempotency_key(request: Request) -> str | None:
    key: str | None = request.headers.get("idempotency-key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise bad_request("The Idempotency-Key is not valid: send 1 to 255 visible ASCII characters.")
    return key


def bad_request(detail: str) -> ProblemError:
    """Return the problem of a request that is wrong itself."""
    return ProblemError(HTTPStatus.BAD_REQUEST, detail)


def _too_large(what: str, max_bytes: int) -> ProblemError:
    detail = f"The {what} is too long: at most {max_bytes} bytes are allowed."
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
