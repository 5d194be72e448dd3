"""``python -m devhost``: run the function app in the current directory."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import traceback
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from socket import socket

from devhost.functions import UnsupportedFunctionError, read_functions
from devhost.host import Host
from devhost.host_config import HostConfigError, load_local_settings, read_cors, read_host_config
from devhost.http_server import bind
from devhost.store.database import StateError, make_state_directory
from devhost.valkey import EmbeddedValkeyError, redis_for_app
from devhost.worker import FunctionMetadata, Worker, new_worker

TELEMETRY_SETTING = "DEVHOST_TELEMETRY"
NOISY_LOGGERS = ("uvicorn", "httpx", "httpx2", "httpcore", "azure", "aiohttp", "asyncio")


def main() -> int:
    parser = argparse.ArgumentParser(prog="devhost", description="Runs a function app for development and tests.")
    parser.add_argument("--port", type=int, default=7071, help="the port of the app's routes; 0 is any free port")
    parser.add_argument("--state-dir", type=Path, default=Path(".devhost"), help="where durable state is kept")
    parser.add_argument("--hint", default="", help="what to print when everything is ready, such as a call to try")
    options = parser.parse_args()
    _configure_logging()
    try:
        return asyncio.run(_run(Path.cwd(), options))
    except (
        HostConfigError,
        AppLoadError,
        UnsupportedFunctionError,
        EmbeddedValkeyError,
        PortInUseError,
        StateError,
    ) as error:
        print(error, file=sys.stderr)
        return 1


async def _run(directory: Path, options: argparse.Namespace) -> int:
    try:
        return await _serve(directory, options)
    finally:
        # What still serves is cut off on purpose, and uvicorn logs that as errors.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


async def _serve(directory: Path, options: argparse.Namespace) -> int:
    config = read_host_config(directory)
    load_local_settings(directory)
    cors = read_cors(directory)
    with _telemetry():
        worker = new_worker()
        functions = read_functions(await _load(worker, directory))
        listener = _bind(options.port)
        make_state_directory(options.state_dir)
        with redis_for_app(options.state_dir) as redis:
            return await Host(config, cors, worker, functions, listener, options.state_dir, redis, options.hint).run()


def _telemetry() -> AbstractContextManager[object]:
    """Record from here on, before the app is imported, where it is asked for."""
    if os.environ.get(TELEMETRY_SETTING, "").lower() not in ("1", "true"):
        return nullcontext()
    from devhost.telemetry import Telemetry

    return closing(Telemetry())


class AppLoadError(Exception):
    """The app cannot be loaded. The message is one line."""


class PortInUseError(Exception):
    """The port asked for is taken."""


def _bind(port: int) -> socket:
    try:
        return bind(port)
    except OSError as error:
        raise PortInUseError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another --port") from None


async def _load(worker: Worker, directory: Path) -> list[FunctionMetadata]:
    try:
        return await worker.load(directory)
    except Exception as error:  # noqa: BLE001 - the app's own code may raise anything
        # An exception made for wrong settings says in one line what to do, and so does a refusal by the worker; of
        # others that the app's own code raises, the place matters.
        settings = isinstance(error, ValueError) and type(error) is not ValueError
        if settings or not _raised_in(directory, error):
            raise AppLoadError(_explanation(error)) from None
        traceback.print_exception(error)
        raise SystemExit(1) from None


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


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.stdout.flush()
    sys.stderr.flush()
    # A function may be blocking a thread for minutes, and the interpreter would wait for it to end.
    os._exit(status)
