"""``python -m devhost.worker_main <descriptor>``: the worker's process, which takes its orders from that socket."""

import asyncio
import os
import signal
import sys
import threading
import traceback
from contextlib import AbstractContextManager, closing, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from devhost import logs
from devhost.rpc import (
    InvocationCancel,
    InvocationRequest,
    InvocationResponse,
    WorkerInitRequest,
    WorkerInitResponse,
    WorkerTerminate,
)
from devhost.worker import InvocationFailedError, new_worker

TELEMETRY_SETTING = "DEVHOST_TELEMETRY"

Order = WorkerInitRequest | InvocationRequest | InvocationCancel | WorkerTerminate


def main(descriptor: int) -> None:
    # Ctrl-C is for the host, which then ends this process in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure()
    with _telemetry():
        asyncio.run(_Service(Connection(descriptor)).serve())


def _telemetry() -> AbstractContextManager[object]:
    """Record from here on, before the app is imported, where it is asked for."""
    if os.environ.get(TELEMETRY_SETTING, "").lower() not in ("1", "true"):
        return nullcontext()
    from devhost.telemetry import Telemetry

    return closing(Telemetry())


class _Service:
    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._worker = new_worker()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Carry out the host's orders up to that to end."""
        loop = asyncio.get_running_loop()
        orders: asyncio.Queue[Order] = asyncio.Queue()

        def listen() -> None:
            try:
                while True:
                    loop.call_soon_threadsafe(orders.put_nowait, self._connection.recv())
            except (EOFError, OSError):
                # The host has ended, and so does its worker, whatever it is doing.
                os._exit(1)

        threading.Thread(target=listen, name="host", daemon=True).start()
        while True:
            match await orders.get():
                case WorkerInitRequest() as order:
                    self._connection.send(await self._load(order.function_app_directory))
                case InvocationRequest() as order:
                    self._tasks[order.invocation_id] = asyncio.create_task(self._invoke(order))
                case InvocationCancel() as order:
                    if order.invocation_id in self._tasks:
                        self._tasks[order.invocation_id].cancel()
                case WorkerTerminate():
                    logs.silence_servers()
                    return

    async def _load(self, directory: Path) -> WorkerInitResponse:
        try:
            functions = await self._worker.load(directory)
        except Exception as error:  # noqa: BLE001 - the app's own code may raise anything
            # An exception made for wrong settings says in one line what to do, and so does a refusal by the worker; of
            # others that the app's own code raises, the place matters.
            settings = isinstance(error, ValueError) and type(error) is not ValueError
            if settings or not _raised_in(directory, error):
                return WorkerInitResponse(failure=_explanation(error))
            traceback.print_exception(error)
            return WorkerInitResponse(failure="")
        return WorkerInitResponse(tuple(functions), self._worker.http_uri)

    async def _invoke(self, request: InvocationRequest) -> None:
        try:
            response = InvocationResponse(request.invocation_id, await self._worker.invoke(request))
        except InvocationFailedError as error:
            response = InvocationResponse(request.invocation_id, failure=(str(error), error.stack_trace))
        finally:
            del self._tasks[request.invocation_id]
        self._connection.send(response)


def _raised_in(directory: Path, error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).is_relative_to(directory) for frame in frames)


def _explanation(error: Exception) -> str:
    if type(error).__name__ == "FunctionLoadError":
        return str(error)
    message = f"cannot load function_app.py: {type(error).__name__}: {error}"
    if isinstance(error, NameError):
        message += " (the worker resolves annotations at load: import their names outside `if TYPE_CHECKING`)"
    return message


if __name__ == "__main__":
    main(int(sys.argv[1]))
    # A function may be blocking a thread for minutes, and the interpreter would wait for it to end.
    os._exit(0)
