"""Serving the HTTP triggers: which function a request is for, and how it gets there."""

import asyncio
import logging
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from devhost.functions import Function, FunctionTable, Invoker, Trigger
from devhost.http_proxy import HttpProxy, replayed
from devhost.pacing import Pacer
from devhost.rpc import RpcHttp, RpcHttpCookie, TypedData
from devhost.worker import InvocationFailedError

logger = logging.getLogger(__name__)

ALL_METHODS = ("GET", "POST", "DELETE", "HEAD", "PATCH", "PUT", "OPTIONS", "TRACE")


def function_routes(
    functions: FunctionTable, invoker: Invoker, route_prefix: str, proxy: HttpProxy | None
) -> Sequence[BaseRoute]:
    """The routes of the HTTP triggers; as in ASP.NET, a literal segment wins over a parameter.

    ``proxy`` leads to the worker's own server; without one the app's functions have the classic types.
    """
    triggered = [function for function in functions.all if function.trigger is Trigger.HTTP]
    triggered.sort(key=lambda function: [segment.startswith("{") for segment in function.route.split("/")])
    pacer = Pacer()
    return [
        _route(path, function, Forwarded(function, invoker, proxy, pacer) if proxy else Classic(function, invoker))
        for function in triggered
        for path in _paths(route_prefix, function.route)
    ]


def function_path(route_prefix: str, route: str) -> str:
    return "".join(f"/{part}" for part in (route_prefix, route) if part) or "/"


class Forwarded:
    """A function that answers at the worker's own server; what it is invoked with are the parts of its route."""

    def __init__(self, function: Function, invoker: Invoker, proxy: HttpProxy, pacer: Pacer) -> None:
        self._function = function
        self._invoker = invoker
        self._proxy = proxy
        self._pacer = pacer
        self._invocations: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Of a client that leaves before, nothing more would be had than that.
        first = await receive()
        if first["type"] == "http.disconnect":
            return
        await self._pacer.turn(self._function.name)
        invocation_id = str(uuid.uuid4())
        invocation = asyncio.create_task(self._invoke(scope, invocation_id))
        self._invocations.add(invocation)
        invocation.add_done_callback(self._invocations.discard)
        if not await self._proxy.forward(scope, replayed(first, receive), send, invocation_id):
            invocation.cancel()

    async def _invoke(self, scope: Scope, invocation_id: str) -> None:
        request = RpcHttp(params=_route_params(scope))
        try:
            await self._invoker.invoke_http(self._function, request, invocation_id, Headers(scope=scope))
        except InvocationFailedError as error:
            # The worker's server answers 500, and logs where it was.
            logger.error("the %s function failed: %s", self._function.name, error)


class Classic:
    """A function that takes ``azure.functions.HttpRequest``; request and response are passed whole."""

    def __init__(self, function: Function, invoker: Invoker) -> None:
        self._function = function
        self._invoker = invoker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await _classic_request(Request(scope, receive))
        invocation_id = str(uuid.uuid4())
        try:
            returned = await self._invoker.invoke_http(self._function, request, invocation_id, request.headers)
            response = _response(returned)
        except InvocationFailedError as error:
            logger.error("the %s function failed: %s\n%s", self._function.name, error, error.stack_trace)
            response = Response(status_code=HTTPStatus.INTERNAL_SERVER_ERROR)
        await response(scope, receive, send)


def _paths(route_prefix: str, route: str) -> list[str]:
    """The starlette paths of a Functions route: ``{name:int}``, ``{*rest}`` and an optional last ``{name?}``."""
    path = re.sub(r"\{\*(\w+)\}", r"{\1:path}", function_path(route_prefix, route))
    optional = re.search(r"/\{(\w+(?::\w+)?)\?\}$", path)
    if optional:
        return [path[: optional.start()], f"{path[: optional.start()]}/{{{optional.group(1)}}}"]
    return [path]


def _route(path: str, function: Function, endpoint: Forwarded | Classic) -> Route:
    methods = function.methods or ALL_METHODS
    route = Route(path, endpoint, methods=list(methods))
    # Starlette adds HEAD to GET; Functions does not.
    route.methods = set(methods)
    return route


def _route_params(scope: Scope) -> dict[str, str]:
    return {name: str(value) for name, value in scope["path_params"].items()}


async def _classic_request(request: Request) -> RpcHttp:
    return RpcHttp(
        method=request.method,
        url=str(request.url),
        headers=dict(request.headers),
        params=_route_params(request.scope),
        query=dict(request.query_params),
        body=TypedData(bytes=await request.body()),
    )


def _response(returned: TypedData | None) -> Response:
    if returned is None:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    if returned.WhichOneof("data") != "http":
        return Response(returned.value, media_type="text/plain")
    answer: RpcHttp = returned.value
    response = Response(answer.body.value, int(answer.status_code), answer.headers)
    for cookie in answer.cookies:
        _set_cookie(response, cookie)
    return response


def _set_cookie(response: Response, cookie: RpcHttpCookie) -> None:
    same_site = RpcHttpCookie.SameSite
    names: dict[int, Literal["lax", "strict", "none"]]
    names = {same_site.Lax: "lax", same_site.Strict: "strict", same_site.ExplicitNone: "none"}
    response.set_cookie(
        cookie.name,
        cookie.value,
        max_age=cookie.max_age and int(cookie.max_age.value),
        expires=cookie.expires and datetime.fromtimestamp(cookie.expires.value.seconds, UTC),
        path=cookie.path and cookie.path.value,
        domain=(cookie.domain and cookie.domain.value) or None,
        secure=cookie.secure.value,
        httponly=cookie.http_only.value,
        samesite=names.get(cookie.same_site),
    )
