"""An HTTP server on loopback that answers each request as it is told: what the app does only on bad days."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Literal, Self

EVENT_STREAM = {"Content-Type": "text/event-stream"}


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    Args:
        body: The body.
        status: The status; 0 cuts the connection before a word was said.
        headers: The headers, beside those that frame the body.
        end: After the body the response ends, is cut, or says nothing more.
    """

    body: bytes = b""
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=lambda: EVENT_STREAM)
    end: Literal["clean", "cut", "silence"] = "clean"

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        if self.end != "cut":
            # Node.js takes the end of a connection that was to be closed for the response's, wherever it comes.
            lines.append("Connection: close")
        if self.status != HTTPStatus.NO_CONTENT:
            lines.append("Transfer-Encoding: chunked")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True)
class Asked:
    """One request as it came, at what monotonic time; the names of its headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)


class ScriptedServer:
    """Serves while its block runs.

    Args:
        answers: The answers to the requests, in order; after the last, each request is cut.

    Attributes:
        asked: The requests so far.
        left: How many responses the client left before their end.
    """

    def __init__(self, answers: Iterable[Answer]) -> None:
        self.asked: list[Asked] = []
        self.left = 0
        self._answers: Iterator[Answer] = iter(answers)
        self._server: asyncio.Server | None = None
        self._responses: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for response in self._responses:
            response.cancel()
        await asyncio.gather(*self._responses, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._responses.add(task)
        task.add_done_callback(self._responses.discard)
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.asked.append(await _read(reader))
            await self._answer(next(self._answers, Answer(status=0)), reader, writer)

    async def _answer(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not answer.status:
            writer.transport.abort()
            return
        writer.write(answer.head())
        if answer.body:
            writer.write(b"%x\r\n%b\r\n" % (len(answer.body), answer.body))
        await writer.drain()
        if answer.end == "silence":
            await reader.read()
            self.left += 1
        elif answer.end == "clean" and answer.status != HTTPStatus.NO_CONTENT:
            writer.write(b"0\r\n\r\n")


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Asked(method, path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


def event(cursor: str, kind: str, data: str) -> bytes:
    """Return an event as the app writes it."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"id: {cursor}\nevent: {kind}\n{lines}\n".encode()


def problem(status: int, detail: str, **headers: str) -> Answer:
    """Return a refusal (RFC 9457)."""
    body = json.dumps({"type": "about:blank", "title": "", "status": status, "detail": detail})
    return Answer(body.encode(), status, {"Content-Type": "application/problem+json", **headers})


NOTHING_FOLLOWS = Answer(status=HTTPStatus.NO_CONTENT, headers={})
# The server's word for how soon to come back, so that tests need not wait.
SOON = b"retry: 1\n\n"
A, B, DONE = event("1-0", "message", "a"), event("2-0", "message", "b\n"), event("3-0", "done", "[DONE]")
