"""A model service in a process of its own, which thinks and then streams at a pace, for 1,000 calls at once.

``python -m benchmarks.model_process`` prints its port. The newest message of a call says how it answers (``Script``),
and each chunk begins with the time at which it was sent and its number.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from tests.model_server import user_text

WORDS = "a chunk of an answer, about as long as a few tokens. "
_CHUNK = re.compile(r"(\d+):(\d+) ")
_BACKLOG = 4_096


@dataclass(frozen=True)
class Script:
    """So many seconds of silence, and then so many chunks with so many seconds from one to the next."""

    think: float
    chunks: int
    pace: float

    @property
    def message(self) -> str:
        """The message that asks for it."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class ModelProcess:
    """The running process.

    Args:
        origin: Its address.
    """

    origin: str

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    async def open_calls(self) -> tuple[int, int]:
        """Return how many calls are open, and how many were at once since this was last asked."""
        async with aiohttp.ClientSession() as client, client.get(f"{self.origin}/calls") as response:
            body = await response.json()
        return body["open"], body["peak"]


@asynccontextmanager
async def running_model() -> AsyncIterator[ModelProcess]:
    """Run the model service while the block does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.model_process", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield ModelProcess(f"http://127.0.0.1:{int(await process.stdout.readline())}")
    finally:
        process.terminate()
        await process.wait()


def sent_ns(chunk: str) -> int:
    """Return when the model sent the chunk, in nanoseconds of the machine's monotonic clock."""
    return int(chunk.partition(":")[0])


def is_whole(text: str, chunks: int) -> bool:
    """Return whether a text is exactly so many of the model's chunks, each once and in order."""
    parts = text.split(WORDS)
    numbers = [match and int(match[2]) for match in map(_CHUNK.fullmatch, parts[:-1])]
    return parts[-1] == "" and numbers == list(range(chunks))


class _Service:
    def __init__(self) -> None:
        self._open = 0
        self._peak = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                if head.startswith(b"GET"):
                    _answer(writer, 200, {"open": self._open, "peak": self._peak})
                    self._peak = self._open
                elif (call := json.loads(body)).get("stream"):
                    await self._stream(writer, Script(**json.loads(user_text(call["messages"]))))
                else:
                    # So that a stream that failed has no second chance.
                    _answer(writer, 500, {"error": {"message": "this model only streams"}})
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, script: Script) -> None:
        self._open += 1
        self._peak = max(self._peak, self._open)
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            start = time.monotonic() + script.think
            for number in range(script.chunks):
                await asyncio.sleep(max(0.0, start + number * script.pace - time.monotonic()))
                if writer.is_closing():
                    raise ConnectionResetError
                text = f"{time.monotonic_ns()}:{number} {WORDS}"
                _part(writer, {"delta": {"role": "assistant", "content": text}, "finish_reason": None})
                await writer.drain()
            _part(writer, {"delta": {}, "finish_reason": "stop"})
            done = b"data: [DONE]\n\n"
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))
        finally:
            self._open -= 1


def _part(writer: asyncio.StreamWriter, choice: dict[str, Any]) -> None:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "test-model"}
    data = f"data: {json.dumps({**body, 'choices': [{'index': 0, **choice}]})}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _answer(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    writer.write(
        b"HTTP/1.1 %d Status\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (status, len(data), data)
    )


async def _main() -> None:
    server = await asyncio.start_server(_Service().serve, "127.0.0.1", 0, backlog=_BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
