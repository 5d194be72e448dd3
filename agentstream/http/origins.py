"""Which sites' pages may call the API, by the CORS protocol of the Fetch standard.

A page of any site can send a ``text/plain`` POST, since CORS only hides the answer from it; so what changes something
is refused unless it comes from the app's own origin, from an allowed one, or from no browser at all.
"""

from collections.abc import Sequence
from functools import wraps
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from azurefunctions.extensions.http.fastapi import Request, Response
from starlette.middleware.cors import CORSMiddleware

from agentstream.http.problems import Handler, ProblemError, answers_problems

METHODS = ("GET", "POST", "DELETE")
UNSAFE_METHODS = ("POST", "DELETE")
REQUEST_HEADERS = (
    "content-type",
    "idempotency-key",
    "last-event-id",
    "user-agent",
    "x-functions-key",
    "x-ms-wait-for-response",
)
RESPONSE_HEADERS = ("location", "retry-after", "x-conversation-id", "x-vercel-ai-ui-message-stream")
PREFLIGHT_SECONDS = 7200
SAME_ORIGIN = ("same-origin", "none")


class Origins:
    """The rules for the origins of requests.

    Args:
        allowed: Origins ``scheme://host[:port]``, or ``*`` for all; none for the app's own only.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        # Only asked: a Functions app has no place for an ASGI middleware of its own.
        self._cors = CORSMiddleware(
            Response(),
            allow_origins=allowed,
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )

    def guard(self, handler: Handler) -> Handler:
        """Make an HTTP handler keep the rules, and answer every exception as a problem."""

        @wraps(handler)
        @answers_problems
        async def checked(req: Request, **bindings: Any) -> Response:
            if req.method in UNSAFE_METHODS:
                self.check(req)
            return await handler(req, **bindings)

        @wraps(handler)
        async def answer(req: Request, **bindings: Any) -> Response:
            response = await checked(req, **bindings)
            self.expose(req, response)
            return response

        return answer

    def check(self, request: Request) -> None:
        """Let a request pass that changes something.

        Raises:
            ProblemError: 403, the page of another site sent it.
        """
        origin = request.headers.get("origin")
        if origin is not None and self._cors.is_allowed_origin(origin):
            return
        # Where the browser says so itself there is nothing to compare: behind a proxy, our own host has another name.
        site = request.headers.get("sec-fetch-site")
        is_own = site in SAME_ORIGIN if site is not None else origin is None or _host_of(origin) == _own_host(request)
        if not is_own:
            detail = (
                "Pages of other sites may not do this. Whoever runs this service can allow theirs: ALLOWED_ORIGINS."
            )
            raise ProblemError(HTTPStatus.FORBIDDEN, detail)

    def preflight(self, request: Request) -> Response:
        """Answer what a browser asks before a cross-origin request (https://fetch.spec.whatwg.org/#cors-preflight-fetch).

        Raises:
            ProblemError: 400, it is no such question.
        """
        headers = request.headers
        if "origin" not in headers or "access-control-request-method" not in headers:
            detail = "OPTIONS answers a browser's preflight only: Origin and Access-Control-Request-Method are missing."
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail)
        return self._cors.preflight_response(request_headers=headers)

    def expose(self, request: Request, response: Response) -> None:
        """Let the page that sent the request read its response, where its origin is allowed."""
        cors, origin = self._cors, request.headers.get("origin")
        if cors.allow_all_origins:
            response.headers.update(cors.simple_headers)
        elif origin is not None and cors.is_allowed_origin(origin):
            response.headers.update(cors.simple_headers)
            cors.allow_explicit_origin(response.headers, origin)
        elif cors.allow_origins:
            # A cache must not give one origin what was meant for another.
            response.headers.add_vary_header("Origin")


def _host_of(origin: str) -> str:
    return urlsplit(origin).netloc.lower()


def _own_host(request: Request) -> str:
    # The Functions host forwards to the worker's server (YARP), whose own name is in ``Host``.
    host: str = request.headers.get("x-forwarded-host") or request.headers.get("host", "")
    return host.lower()
