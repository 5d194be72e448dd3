"""Serving the HTTP triggers."""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from socket import AF_INET, IPPROTO_TCP, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from typing import Any

import azure.functions as func
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from devhost.functions import Function, FunctionTable, Invoker, Trigger

logger = logging.getLogger(__name__)

ALL_METHODS = ("GET", "POST", "DELETE", "HEAD", "PATCH", "PUT", "OPTIONS", "TRACE")
# Longer than the SDK's client keeps an idle connection (aiohttp: 15 s): the server must not be the one to close it, or
# a request sent at that moment fails.
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS = 1


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: two servers run in one process, and the host stops both.

    ``ready`` is set once it accepts requests.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(routes: list[BaseRoute]) -> Server:
    app = Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found})
    # Functions answers 404 where only a slash or the method is different.
    app.router.redirect_slashes = False
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(config)


def bind(port: int) -> socket:
    """A socket bound to the port on the loopback interface; 0 is any free port.

    Raises:
        OSError: the port is in use.
    """
    # asyncio turns Nagle's algorithm off (40 ms per small answer) only where the protocol is given.
    listener = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP)
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        # Until one of them listens, two sockets can be bound to a port.
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def function_routes(functions: FunctionTable, invoker: Invoker, route_prefix: str) -> list[BaseRoute]:
    """The routes of the HTTP triggers; as in ASP.NET, a literal segment wins over a parameter."""
    triggered = [function for function in functions.all if function.trigger is Trigger.HTTP]
    triggered.sort(key=lambda function: [segment.startswith("{") for segment in function.route.split("/")])
    return [_route(path, function, invoker) for function in triggered for path in _paths(route_prefix, function.route)]


def function_path(route_prefix: str, route: str) -> str:
    return "".join(f"/{part}" for part in (route_prefix, route) if part) or "/"


def _paths(route_prefix: str, route: str) -> list[str]:
    """The starlette paths of a Functions route: ``{name:int}``, ``{*rest}`` and an optional last ``{name?}``."""
    path = re.sub(r"\{\*(\w+)\}", r"{\1:path}", function_path(route_prefix, route))
    optional = re.search(r"/\{(\w+(?::\w+)?)\?\}$", path)
    if optional:
        return [path[: optional.start()], f"{path[: optional.start()]}/{{{optional.group(1)}}}"]
    return [path]


def _route(path: str, function: Function, invoker: Invoker) -> Route:
    async def endpoint(request: Request) -> Any:
        argument = await _classic_request(request) if function.classic_request else request
        try:
            return _response(await invoker.invoke(function, {function.trigger_parameter: argument}))
        except Exception:
            logger.exception("the %s function failed", function.name)
            return Response(status_code=HTTPStatus.INTERNAL_SERVER_ERROR)

    methods = function.methods or ALL_METHODS
    route = Route(path, endpoint, methods=list(methods))
    # Starlette adds HEAD to GET; Functions does not.
    route.methods = set(methods)
    return route


async def _classic_request(request: Request) -> func.HttpRequest:
    return func.HttpRequest(
        method=request.method,
        url=str(request.url),
        headers=dict(request.headers),
        params=dict(request.query_params),
        route_params={name: str(value) for name, value in request.path_params.items()},
        body=await request.body(),
    )


def _response(result: Any) -> Any:
    match result:
        case StreamingResponse():
            return _ClosingStream(result)
        case Response():
            return result
        case func.HttpResponse():
            headers = dict(result.headers)
            headers.setdefault("content-type", f"{result.mimetype}; charset={result.charset}")
            return Response(result.get_body(), result.status_code, headers)
        case None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        case str():
            return PlainTextResponse(result)
        case _:
            return JSONResponse(result)


class _ClosingStream:
    """A stream whose generator is closed as soon as the client is gone, not when it is garbage."""

    def __init__(self, response: StreamingResponse) -> None:
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            close = getattr(self._response.body_iterator, "aclose", None)
            if close is not None:
                await close()


async def _not_found(request: Request, error: Exception) -> Response:
    return Response(status_code=HTTPStatus.NOT_FOUND)
