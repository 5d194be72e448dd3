"""A TCP proxy on loopback that can misbehave: between the app and Redis in tests."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards connections to ``target_port``.

    Args:
        target_port: Where to forward to, on 127.0.0.1.
        tls: With what to serve TLS; what is forwarded is plain.

    Attributes:
        port: Where it listens, on 127.0.0.1; 0 before it was started.
        delay_seconds: How long each piece of data is held back, in both directions.
    """

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.delay_seconds = 0.0
        self._target_port = target_port
        self._tls = tls
        self._refusing = False
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset_connections()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def reset_connections(self) -> None:
        """Cut every connection there is; new ones are forwarded."""
        for connection in self._connections:
            connection.cancel()

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Cut every connection, and new ones at once, while the block runs."""
        self._refusing = True
        self.reset_connections()
        try:
            yield
        finally:
            self._refusing = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self._refusing:
                await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            # A reset, not an orderly end.
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pump(reader, target_writer))
                directions.create_task(self._pump_answers(target_reader, writer))
        except* OSError:
            pass
        finally:
            target_writer.transport.abort()

    async def _pump_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on what the target answers, until the connection ends: what a proxy does to it of its own."""
        await self._pump(reader, writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
