"""The running host: the app's HTTP server, the management API's, and the durable engine."""

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from socket import socket
from typing import Any

from devhost import logs
from devhost.engine import Engine, Limits
from devhost.functions import Function, FunctionTable, Invoker, Trigger
from devhost.host_config import Cors, HostConfig
from devhost.http_proxy import HttpProxy
from devhost.http_server import bind, make_app, make_server, origin, with_cors
from devhost.http_triggers import function_path, function_routes
from devhost.processes import restart
from devhost.protocol_v1.management_api import RPC_PATH, WEBHOOK_PATH, ManagementApi
from devhost.timers import Timers
from devhost.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

LEASE_SETTING = "DEVHOST_LEASE_SECONDS"
DEFAULT_LEASE_SECONDS = "10"
RETENTION_SETTING = "DEVHOST_RETENTION_HOURS"
# Nothing of what the real backends keep is ever purged by itself; clients read what has ended.
DEFAULT_RETENTION_HOURS = "168"
FUNCTIONS_PER_CORE = 10


class Host:
    """The two servers and the engine, from start to a signal."""

    def __init__(
        self,
        config: HostConfig,
        cors: Cors,
        worker: WorkerProcess,
        functions: FunctionTable,
        listener: socket,
        state_dir: Path,
        redis: str,
        hint: str,
    ) -> None:
        self._config = config
        self._cors = cors
        self._worker = worker
        self._functions = functions
        self._listener = listener
        self._state_dir = state_dir
        self._redis = redis
        self._hint = hint

    async def run(self) -> int:
        """Serve until SIGINT or SIGTERM; the exit status."""
        if self._worker.http_uri is None:
            return await self._serve(None)
        async with HttpProxy(self._worker.http_uri) as proxy:
            return await self._serve(proxy)

    async def _serve(self, proxy: HttpProxy | None) -> int:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        invoker = Invoker(self._worker)
        engine = self._engine(invoker)
        rpc_listener = bind(0)
        base_url = origin(self._listener)
        api = ManagementApi(engine, self._functions, self._config.hub_name, base_url)
        invoker.client_json = api.client_json(origin(rpc_listener))
        app_routes = function_routes(self._functions, invoker, self._config.route_prefix, proxy)
        engine.timeout.watch_routes(app_routes)
        servers = [
            (make_server(with_cors(make_app([*app_routes, *api.routes(WEBHOOK_PATH)]), self._cors)), self._listener),
            (make_server(make_app(api.routes(RPC_PATH))), rpc_listener),
        ]
        serving = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers]
        timers = Timers(engine, self._functions, invoker)
        working = asyncio.create_task(_all(engine.run(), timers.run()))
        for server, _ in servers:
            await server.ready.wait()
        self._announce(base_url)
        stopping = asyncio.create_task(stop.wait())
        dying = asyncio.create_task(self._outlive_worker(engine))
        await asyncio.wait([stopping, dying, working, *serving], return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        failed = not stopping.done()
        if working.done():
            logger.critical("the durable engine stopped", exc_info=working.exception())
        print("Stopping; what is in progress goes on at the next start.", flush=True)
        # First of all no result may be committed any more: on Ctrl-C a Redis of the same terminal ends too, and what
        # functions in progress make of that is not their result.
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        logs.silence_servers()
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*serving, return_exceptions=True)
        await self._worker.stop()
        return int(failed)

    async def _outlive_worker(self, engine: Engine) -> None:
        await self._worker.ended.wait()
        await engine.die("the worker process has ended by itself")

    def _restart(self) -> None:
        self._worker.kill()
        restart("--port", str(self._listener.getsockname()[1]))

    def _engine(self, invoker: Invoker) -> Engine:
        default = FUNCTIONS_PER_CORE * (os.cpu_count() or 1)
        limits = Limits(
            steps=self._config.concurrency.get(Trigger.ORCHESTRATION, default),
            activities=self._config.concurrency.get(Trigger.ACTIVITY, default),
            function_timeout=self._config.function_timeout,
            retention=float(os.environ.get(RETENTION_SETTING, DEFAULT_RETENTION_HOURS)) * 3600,
        )
        lease_seconds = float(os.environ.get(LEASE_SETTING, DEFAULT_LEASE_SECONDS))
        return Engine(
            self._state_dir / "durable.sqlite",
            self._functions,
            invoker,
            lease_seconds,
            limits,
            self._restart,
        )

    def _announce(self, base_url: str) -> None:
        print("devhost: an embedded Functions host for development and tests, not for production\n\nFunctions:")
        for function in self._functions.all:
            print(f"  {function.name}: {self._describe(function, base_url)}")
        if not all(function.anonymous for function in self._functions.all):
            print("Function keys are not checked: every route is open to this machine.")
        print(f"\nRedis: {self._redis}\nState: {self._state_dir.resolve()}\nServing on {base_url}\nReady")
        print(self._hint, flush=True)

    def _describe(self, function: Function, base_url: str) -> str:
        if function.trigger is Trigger.TIMER:
            return f"{function.trigger.value} {function.schedule}"
        if function.trigger is not Trigger.HTTP:
            return function.trigger.value
        methods = ",".join(function.methods) or "any method"
        return f"[{methods}] {base_url}{function_path(self._config.route_prefix, function.route)}"


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)
