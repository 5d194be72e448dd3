"""``python -m devhost``: run the function app in the current directory."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from socket import socket

from devhost.app_loader import FunctionLoadError, load_functions
from devhost.functions import FunctionTable
from devhost.host import Host
from devhost.host_config import HostConfigError, load_local_settings, read_host_config
from devhost.http_server import bind
from devhost.store import StateError, make_state_directory
from devhost.valkey import EmbeddedValkeyError, redis_for_app

NOISY_LOGGERS = ("uvicorn", "httpx", "httpx2", "httpcore", "azure", "aiohttp", "asyncio")


def main() -> int:
    parser = argparse.ArgumentParser(prog="devhost", description="Runs a function app for development and tests.")
    parser.add_argument("--port", type=int, default=7071, help="the port of the app's routes; 0 is any free port")
    parser.add_argument("--state-dir", type=Path, default=Path(".devhost"), help="where durable state is kept")
    parser.add_argument("--hint", default="", help="what to print when everything is ready, such as a call to try")
    options = parser.parse_args()
    _configure_logging()
    directory = Path.cwd()
    try:
        config = read_host_config(directory)
        load_local_settings(directory)
        functions = _load(directory)
        listener = _bind(options.port)
        make_state_directory(options.state_dir)
        with redis_for_app(options.state_dir) as redis:
            return asyncio.run(Host(config, functions, listener, options.state_dir, redis, options.hint).run())
    except (
        HostConfigError,
        AppLoadError,
        FunctionLoadError,
        EmbeddedValkeyError,
        PortInUseError,
        StateError,
    ) as error:
        print(error, file=sys.stderr)
        return 1


class AppLoadError(Exception):
    """``function_app.py`` raised while it was imported."""


class PortInUseError(Exception):
    """The port asked for is taken."""


def _bind(port: int) -> socket:
    try:
        return bind(port)
    except OSError as error:
        raise PortInUseError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another --port") from None


def _load(directory: Path) -> FunctionTable:
    try:
        return load_functions(directory)
    except FunctionLoadError:
        raise
    except Exception as error:  # noqa: BLE001 - the app's own code may raise anything
        # An exception made for wrong settings says in one line what to do; for others the place matters.
        if isinstance(error, ValueError) and type(error) is not ValueError:
            raise AppLoadError(f"cannot load function_app.py: {type(error).__name__}: {error}") from None
        traceback.print_exc()
        raise SystemExit(1) from None


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
