"""A model service on loopback that speaks the streaming wire format of OpenAI's chat completions."""

import asyncio
import itertools
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class Reply:
    """How the model answers one call.

    Args:
        chunks: The texts of the stream's chunks.
        delay_seconds: The pause before each chunk.
        thinks_seconds: The pause before the first of them.
        tool_calls: Pairs of a tool's name and its arguments, called instead of an answer.
        call_ids: Which pieces of a streamed call have its id: ``first``, ``always``, ``late`` (the last) or ``never``.
        interleaved: Whether the pieces of the calls come in turns.
        reasoning: The texts of the stream's reasoning deltas, which come before the chunks.
        reasoning_field: How they are named: ``reasoning_content`` or ``reasoning`` (no part of OpenAI's own protocol).
        usage: The tokens read and written, told in a last chunk of its own to a call that asks for it; None for none.
        fails_after: Drop the connection after this many chunks of a stream.
        hangs_after: Say nothing more after this many chunks.
        status: A status other than 200 refuses the call.
        streams_only: Refuse a call that does not stream, so that there is no fallback.
    """

    chunks: tuple[str, ...] = ()
    delay_seconds: float = 0.0
    thinks_seconds: float = 0.0
    tool_calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    call_ids: str = "first"
    interleaved: bool = False
    reasoning: tuple[str, ...] = ()
    reasoning_field: str = "reasoning_content"
    usage: tuple[int, int] | None = None
    fails_after: int | None = None
    hangs_after: int | None = None
    status: int = 200
    streams_only: bool = False

    @property
    def text(self) -> str:
        return "".join(self.chunks)


def says(*chunks: str, delay_seconds: float = 0.0) -> Reply:
    """Return a reply of these chunks."""
    return Reply(chunks, delay_seconds)


@dataclass
class ModelServer:
    """Serves ``POST /v1/chat/completions`` on 127.0.0.1 while its block runs.

    Args:
        reply: Chooses the reply from the call's messages.

    Attributes:
        calls: The bodies of the calls so far.
        dropped: How many streams the client left before their end.
        open: How many streams there are.
        most_open: How many there were at most.
    """

    reply: Callable[[list[dict[str, Any]]], Reply]
    port: int = 0
    calls: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0
    open: int = 0
    most_open: int = 0
    _server: uvicorn.Server | None = None
    _serving: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        app = Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])
        # A reply that fails on purpose is no news.
        config = uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:  # noqa: ASYNC110 - uvicorn offers no event
            await asyncio.sleep(0.001)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._serving is not None
        self._server.should_exit = True
        self._server.force_exit = True
        await self._serving

    async def _complete(self, request: Request) -> Response:
        call = await request.json()
        self.calls.append(call)
        reply = self.reply(call["messages"])
        if reply.status != 200 or (reply.streams_only and not call.get("stream")):
            error = {"message": "a secret of the model service", "type": "server_error", "code": None}
            return JSONResponse({"error": error}, reply.status if reply.status != 200 else 500)
        if call.get("stream"):
            tells_usage = reply.usage is not None and (call.get("stream_options") or {}).get("include_usage", False)
            return StreamingResponse(self._stream(reply, tells_usage), media_type="text/event-stream")
        if reply.hangs_after is not None:
            await asyncio.Event().wait()
        body = _completion("chat.completion", message=_message(reply), finish_reason=_finish_reason(reply))
        return JSONResponse(body | {"usage": _usage(reply)})

    async def _stream(self, reply: Reply, tells_usage: bool) -> AsyncIterator[str]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(reply.thinks_seconds)
            for number, delta in enumerate(_deltas(reply)):
                if number == reply.hangs_after:
                    await asyncio.Event().wait()
                if number == reply.fails_after:
                    # Ends the response without its last chunk, which the client sees as a broken connection.
                    raise ConnectionResetError
                await asyncio.sleep(reply.delay_seconds)
                yield _sse(_completion("chat.completion.chunk", delta=delta, finish_reason=None))
            if reply.hangs_after is not None:
                await asyncio.Event().wait()
            if reply.fails_after is not None:
                raise ConnectionResetError
            yield _sse(_completion("chat.completion.chunk", delta={}, finish_reason=_finish_reason(reply)))
            if tells_usage:
                last = _completion("chat.completion.chunk") | {"choices": [], "usage": _usage(reply)}
                yield _sse(last)
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.dropped += 1
            raise
        finally:
            self.open -= 1


def user_text(messages: list[dict[str, Any]]) -> str:
    """Return the text of the newest message of the user's."""
    content = next(message["content"] for message in reversed(messages) if message["role"] == "user")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _deltas(reply: Reply) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, reply.reasoning_field: text} for text in reply.reasoning
    ]
    deltas += [{"role": "assistant", "content": chunk} for chunk in (() if reply.tool_calls else reply.chunks)]
    calls = [_call_deltas(index, reply.call_ids, *call) for index, call in enumerate(reply.tool_calls)]
    if reply.interleaved:
        pieces = [piece for row in itertools.zip_longest(*calls) for piece in row if piece is not None]
    else:
        pieces = [piece for call in calls for piece in call]
    return deltas + [{"role": "assistant", "content": None, "tool_calls": [piece]} for piece in pieces]


def _call_deltas(index: int, call_ids: str, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    text = json.dumps(arguments)
    call_id = f"call_{uuid.uuid4().hex}"
    pieces: list[dict[str, Any]] = [
        {"index": index, "type": "function", "function": {"name": name, "arguments": ""}},
        *({"index": index, "function": {"arguments": text[at : at + 5]}} for at in range(0, len(text), 5)),
    ]
    named = {"first": pieces[:1], "always": pieces, "late": pieces[-1:], "never": []}[call_ids]
    for piece in named:
        piece["id"] = call_id
    return pieces


def _message(reply: Reply) -> dict[str, Any]:
    calls = [
        {
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for name, arguments in reply.tool_calls
    ]
    return {"role": "assistant", "content": reply.text or None, **({"tool_calls": calls} if calls else {})}


def _finish_reason(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _completion(kind: str, **choice: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": kind,
        "created": int(time.time()),
        "model": "test-model",
        "choices": [{"index": 0, **choice}],
    }


def _usage(reply: Reply) -> dict[str, int]:
    read, written = reply.usage or (1, 1)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _sse(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
