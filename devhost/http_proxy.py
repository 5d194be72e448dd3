"""Forwarding HTTP to the worker's own server as the real host does (``DefaultHttpProxyService.cs``, which uses YARP).

aiohttp because it parses in C: of what a chunk costs on its way through the host, most is HTTP.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import aiohttp
import yarl
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from devhost.worker import INVOCATION_ID_HEADER

logger = logging.getLogger(__name__)

# ActivityTimeout of DefaultHttpProxyService.cs: a response that is silent for as long is cut.
SILENCE_SECONDS = 240
# Less than uvicorn keeps an idle connection (5 s): the worker's server must not be the one to close it, or a request
# sent at that moment fails.
KEEP_ALIVE_SECONDS = 2
# Of a response that its client does not read; twice as much is where the worker is stopped.
BUFFER_BYTES = 16 * 1024
# RFC 9110, 7.6.1, and Expect, which the host's server has answered.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade expect".split()
)
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
NOT_ANSWERED = HOP_BY_HOP | {b"date", b"server"}


class HttpProxy:
    """Forwards requests to the server at ``http_uri``; its connections are closed at the end of the ``with`` block."""

    def __init__(self, http_uri: str) -> None:
        self._origin = yarl.URL(http_uri)

    async def __aenter__(self) -> Self:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            trace_configs=[tracing],
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            read_bufsize=BUFFER_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def forward(self, scope: Scope, receive: Receive, send: Send, invocation_id: str) -> bool:
        """Forward a request, and its response part by part as the parts come.

        A client that leaves ends the request at the worker's server at once.

        Returns:
            Whether the worker's server got the request.
        """
        body = _RequestBody(receive)
        answering = asyncio.create_task(self._answer(scope, body, send, invocation_id))
        leaving = asyncio.create_task(body.wait_until_left())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        if not answering.cancelled():
            answering.result()
        return body.is_sent

    async def _answer(self, scope: Scope, body: "_RequestBody", send: Send, invocation_id: str) -> None:
        started = False
        try:
            async with self._session.request(
                scope["method"],
                self._url(scope),
                headers=_request_headers(scope, invocation_id),
                data=await body.data(),
                allow_redirects=False,
                trace_request_ctx=body,
            ) as response:
                headers = _end_to_end(response.raw_headers, NOT_ANSWERED)
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                started = True
                while part := await response.content.readany():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body"})
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.error("the worker's HTTP server did not answer %s: %r", scope["path"], error)
            # A response that has begun is left unfinished, by which its client knows.
            if not started:
                late = isinstance(error, TimeoutError)
                status = HTTPStatus.GATEWAY_TIMEOUT if late else HTTPStatus.BAD_GATEWAY
                await Response(status_code=status)(scope, body.receive, send)

    def _url(self, scope: Scope) -> yarl.URL:
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        return yarl.URL(f"{self._origin}{scope['raw_path'].decode('latin-1')}{query}", encoded=True)


class _RequestBody:
    """The body of a request, and whether its client is still there, which is known only once the body was read.

    ``is_sent`` is whether the worker's server got the request, or its head.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.is_sent = False
        self._read = asyncio.Event()

    async def data(self) -> bytes | AsyncIterator[bytes] | None:
        """The body at once where it has come whole; None where there is none."""
        first = await self.receive()
        if first.get("more_body"):
            return self._parts(first)
        self._read.set()
        return first.get("body") or None

    async def wait_until_left(self) -> None:
        await self._read.wait()
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _parts(self, message: Message) -> AsyncIterator[bytes]:
        while message["type"] == "http.request":
            if message["body"]:
                yield message["body"]
            if not message["more_body"]:
                self._read.set()
                return
            message = await self.receive()
        # The rest will never come: wait to be cancelled, since to end here would be to pass half a body off as whole.
        self._read.set()
        await asyncio.get_running_loop().create_future()


async def _note_sent(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    context.trace_request_ctx.is_sent = True


def replayed(first: Message, receive: Receive) -> Receive:
    """Return a ``receive`` that begins with a message that was received before."""
    messages = [first]

    async def receive_next() -> Message:
        return messages.pop() if messages else await receive()

    return receive_next


def _request_headers(scope: Scope, invocation_id: str) -> list[tuple[str, str]]:
    headers = _end_to_end(scope["headers"], NOT_FORWARDED | {INVOCATION_ID_HEADER.encode()})
    forwarded = {
        "X-Forwarded-For": scope["client"][0],
        "X-Forwarded-Proto": scope["scheme"],
        "X-Forwarded-Host": dict(scope["headers"]).get(b"host", b"").decode("latin-1"),
        INVOCATION_ID_HEADER: invocation_id,
    }
    return [*((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers), *forwarded.items()]


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], left_out: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers but those, and those that ``Connection`` names."""
    lower = [(name.lower(), value) for name, value in headers]
    named = {option.strip().lower() for name, value in lower if name == b"connection" for option in value.split(b",")}
    return [(name, value) for name, value in lower if name not in left_out and name not in named]
