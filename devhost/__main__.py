"""``python -m devhost``: run the function app in the current directory."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from socket import socket

from devhost import logs
from devhost.functions import UnsupportedFunctionError, read_functions
from devhost.host import Host
from devhost.host_config import HostConfigError, load_local_settings, read_cors, read_host_config
from devhost.http_server import bind
from devhost.store.database import StateError, make_state_directory
from devhost.valkey import EmbeddedValkeyError, redis_for_app
from devhost.worker_process import AppLoadError, WorkerProcess


def main() -> int:
    parser = argparse.ArgumentParser(prog="devhost", description="Runs a function app for development and tests.")
    parser.add_argument("--port", type=int, default=7071, help="the port of the app's routes; 0 is any free port")
    parser.add_argument("--state-dir", type=Path, default=Path(".devhost"), help="where durable state is kept")
    parser.add_argument("--hint", default="", help="what to print when everything is ready, such as a call to try")
    options = parser.parse_args()
    logs.configure()
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
        if text := str(error):
            print(text, file=sys.stderr)
        return 1


async def _run(directory: Path, options: argparse.Namespace) -> int:
    try:
        return await _serve(directory, options)
    finally:
        logs.silence_servers()


async def _serve(directory: Path, options: argparse.Namespace) -> int:
    config = read_host_config(directory)
    load_local_settings(directory)
    cors = read_cors(directory)
    worker = WorkerProcess()
    functions = read_functions(await worker.load(directory))
    listener = _bind(options.port)
    make_state_directory(options.state_dir)
    with redis_for_app(options.state_dir) as redis:
        return await Host(config, cors, worker, functions, listener, options.state_dir, redis, options.hint).run()


class PortInUseError(Exception):
    """The port asked for is taken."""


def _bind(port: int) -> socket:
    try:
        return bind(port)
    except OSError as error:
        raise PortInUseError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another --port") from None


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.stdout.flush()
    sys.stderr.flush()
    # A function may be blocking a thread for minutes, and the interpreter would wait for it to end.
    os._exit(status)
