"""The HTTP servers of this process."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from socket import AF_INET, IPPROTO_TCP, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket

import uvicorn
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from devhost.host_config import Cors

# Longer than the SDK's client keeps an idle connection (aiohttp: 15 s): the server must not be the one to close it, or
# a request sent at that moment fails.
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS = 1
# In one turn of the event loop: the connections that are there wait meanwhile.
ACCEPTED_AT_ONCE = 8
WAITING_CONNECTIONS = 2_048


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: two servers run in one process, and the host stops both.

    ``ready`` is set once it accepts requests.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        # For asyncio it is one number: how many may wait for being accepted, and how many are in one turn of the loop.
        for listener in sockets or ():
            listener.listen(WAITING_CONNECTIONS)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(app: ASGIApp) -> Server:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(config)


def make_app(routes: Sequence[BaseRoute]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found})
    # Functions answers 404 where only a slash or the method is different.
    app.router.redirect_slashes = False
    return app


def with_cors(app: ASGIApp, cors: Cors) -> ASGIApp:
    """The app behind the CORS of the platform, which answers preflights itself and has the last word on the headers of
    all responses (learn.microsoft.com/azure/app-service/app-service-web-tutorial-rest-api, "App Service CORS vs. your
    CORS"). As there and with ``func``, any method and header may be sent, and no header of a response is exposed.
    """
    if not cors.origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=cors.origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=cors.credentials,
    )


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


def origin(listener: socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def _not_found(request: Request, error: Exception) -> Response:
    return Response(status_code=HTTPStatus.NOT_FOUND)
