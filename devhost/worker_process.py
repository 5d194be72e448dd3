"""The worker in a process of its own, as on Azure, where it shares neither interpreter nor memory with the host."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from devhost.rpc import (
    FunctionMetadata,
    InvocationCancel,
    InvocationRequest,
    InvocationResponse,
    TypedData,
    WorkerInitRequest,
    WorkerInitResponse,
    WorkerTerminate,
)
from devhost.worker import InvocationFailedError

# With what it records still to be sent.
STOP_SECONDS = 5


class AppLoadError(Exception):
    """The app cannot be loaded. The message is one line; empty where the worker has printed it."""


class WorkerProcess:
    """Starts the process, and speaks with it over a socket pair. It ends with this process, however that ends.

    Attributes:
        http_uri: As ``Worker`` has it, once the app is loaded.
        ended: Set when the process has ended, whoever ended it.
    """

    def __init__(self) -> None:
        self.http_uri: str | None = None
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._initialized: asyncio.Future[WorkerInitResponse] = self._loop.create_future()
        self._answers: dict[str, asyncio.Future[InvocationResponse]] = {}
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-u", "-m", "devhost.worker_main", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])  # noqa: S603 - this program
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        threading.Thread(target=self._listen, name="worker", daemon=True).start()

    async def load(self, directory: Path) -> list[FunctionMetadata]:
        """Let it load the app of a directory.

        Raises:
            AppLoadError: the app cannot be loaded.
        """
        self._send(WorkerInitRequest(directory))
        loaded = await self._initialized
        if loaded.failure is not None:
            raise AppLoadError(loaded.failure)
        self.http_uri = loaded.http_uri
        return list(loaded.functions)

    async def invoke(self, request: InvocationRequest) -> TypedData | None:
        """As ``Worker`` has it; waits for ever where the process has ended."""
        answer = self._answers[request.invocation_id] = self._loop.create_future()
        self._send(request)
        try:
            response: InvocationResponse = await answer
        except asyncio.CancelledError:
            self._send(InvocationCancel(request.invocation_id))
            raise
        finally:
            del self._answers[request.invocation_id]
        if response.failure is not None:
            raise InvocationFailedError(*response.failure)
        return response.return_value

    async def stop(self) -> None:
        """End it in order, and what it has in progress."""
        self._send(WorkerTerminate())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.ended.wait()
        self.kill()

    def kill(self) -> None:
        """End it at once, and wait for that."""
        self._process.kill()
        self._process.wait()

    def _send(self, message: object) -> None:
        # A process that has ended is noticed by its socket's other end.
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def _listen(self) -> None:
        try:
            while True:
                self._loop.call_soon_threadsafe(self._take, self._connection.recv())
        except (EOFError, OSError):
            self._loop.call_soon_threadsafe(self._take_end)

    def _take(self, message: WorkerInitResponse | InvocationResponse) -> None:
        if isinstance(message, WorkerInitResponse):
            self._initialized.set_result(message)
            return
        answer = self._answers.get(message.invocation_id)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _take_end(self) -> None:
        self.ended.set()
        if not self._initialized.done():
            self._initialized.set_result(WorkerInitResponse(failure="the worker has ended while it loaded the app"))
