"""A small Python worker, for Pythons for which Microsoft's library is not published."""

import asyncio
import functools
import importlib
import inspect
import os
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookies import Morsel
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from azure.functions.meta import Datum
from opentelemetry.context import attach
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from devhost.app_loader import LoadedFunction, binding_converter, http_extension, load_functions
from devhost.http_server import bind, make_server, origin
from devhost.rpc import FunctionMetadata, InvocationRequest, RpcHttp, RpcHttpCookie, TypedData
from devhost.worker import INVOCATION_ID_HEADER, InvocationFailedError, thread_count


@dataclass(frozen=True)
class InvocationContext:
    """What the worker passes as ``context`` (the attributes of ``azure.functions.Context``)."""

    invocation_id: str
    function_name: str
    function_directory: str
    trace_context: SimpleNamespace
    retry_context: SimpleNamespace
    thread_local_storage: threading.local = field(default_factory=threading.local)


class Exchange:
    """A request at the worker's HTTP server and the response that its function gives it, whichever comes first."""

    def __init__(self) -> None:
        self.request: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.response: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class SmallWorker:
    """``handle_event.py`` of the library, less what this host's triggers and bindings do not need."""

    def __init__(self) -> None:
        self.http_uri: str | None = None
        self._functions: dict[str, LoadedFunction] = {}
        self._threads = ThreadPoolExecutor(thread_count(), thread_name_prefix="function")
        self._exchanges: dict[str, Exchange] = {}
        self._serving: asyncio.Task[None] | None = None

    async def load(self, directory: Path) -> list[FunctionMetadata]:
        sys.path.insert(0, str(directory))
        functions = load_functions(directory)
        self._functions = {function.metadata.function_id: function for function in functions}
        extension = http_extension()
        if extension is not None:
            await self._serve(extension)
        return [function.metadata for function in functions]

    async def invoke(self, request: InvocationRequest) -> TypedData | None:
        function = self._functions[request.function_id]
        _attach(request.trace_context)
        try:
            if self.http_uri and function.http_parameter:
                await self._answer(function, request)
                return None
            result = await self._call(function, _decoded(function, request), request)
            return _encoded(function, result)
        except Exception as error:
            raise InvocationFailedError(
                f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
            ) from error

    async def _serve(self, extension: Any) -> None:
        """Start the web framework's server, with the one route that every request of the host comes in by."""
        web = importlib.import_module(extension.ModuleTrackerMeta.get_module())
        app = web.WebApp()
        request_type = extension.RequestTrackerMeta.get_request_type()

        async def exchange(request: Any) -> Any:
            found = self._exchange(request.headers[INVOCATION_ID_HEADER])
            found.request.set_result(request)
            return await found.response

        exchange.__annotations__["request"] = request_type
        app.route(exchange)
        listener = bind(0)
        server = make_server(app.get_app())
        self._serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        self.http_uri = origin(listener)

    async def _answer(self, function: LoadedFunction, request: InvocationRequest) -> None:
        exchange = self._exchange(request.invocation_id)
        try:
            http_request = await exchange.request
            arguments = _decoded(function, request)
            parameter = str(function.http_parameter)
            http_request.path_params.clear()
            http_request.path_params.update(arguments[parameter].route_params)
            result = await self._call(function, {**arguments, parameter: http_request}, request)
            if result is None:
                raise ValueError("an HTTP function must return a response")
            exchange.response.set_result(result)
        except Exception as error:
            exchange.response.set_exception(error)
            raise
        finally:
            del self._exchanges[request.invocation_id]

    def _exchange(self, invocation_id: str) -> Exchange:
        return self._exchanges.setdefault(invocation_id, Exchange())

    async def _call(self, function: LoadedFunction, arguments: dict[str, Any], request: InvocationRequest) -> Any:
        if function.takes_context:
            arguments["context"] = InvocationContext(
                request.invocation_id,
                function.metadata.name,
                function.directory,
                request.trace_context,
                request.retry_context,
            )
        if inspect.iscoroutinefunction(function.handler):
            return await function.handler(**arguments)
        call = functools.partial(function.handler, **arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _attach(trace: SimpleNamespace) -> None:
    """Make the invocation's trace the current one, where the worker is to (``otel.py`` of the library)."""
    if os.environ.get("PYTHON_ENABLE_OPENTELEMETRY") == "true":
        carrier = {"traceparent": trace.trace_parent, "tracestate": trace.trace_state}
        attach(TraceContextTextMapPropagator().extract(carrier))


def _decoded(function: LoadedFunction, request: InvocationRequest) -> dict[str, Any]:
    arguments = {}
    for parameter in request.input_data:
        converter = binding_converter(function.inputs[parameter.name])
        datum = _datum(parameter.data)
        # A value of a binding that the SDK does not convert, such as a durable client's, is passed as it is.
        arguments[parameter.name] = converter.decode(datum, trigger_metadata={}) if converter else parameter.data.value
    return arguments


def _datum(data: TypedData) -> Datum | None:
    kind = data.WhichOneof("data")
    if kind != "http":
        return Datum(data.value, kind) if kind else None
    request: RpcHttp = data.value
    texts = {
        name: {key: Datum(text, "string") for key, text in values.items()}
        for name, values in (("headers", request.headers), ("params", request.params), ("query", request.query))
    }
    return Datum(
        {
            "method": Datum(request.method, "string"),
            "url": Datum(request.url, "string"),
            "body": _datum(request.body) or Datum(b"", "bytes"),
            **texts,
        },
        "http",
    )


def _encoded(function: LoadedFunction, result: Any) -> TypedData | None:
    if function.returns is None:
        return None
    datum = binding_converter(function.returns).encode(result, expected_type=None)
    if datum.type == "http":
        return TypedData(http=_http_response(datum.value))
    return TypedData(**{datum.type: datum.value}) if datum.type else None


def _http_response(parts: dict[str, Any]) -> RpcHttp:
    return RpcHttp(
        status_code=parts["status_code"].value,
        headers={name: header.value for name, header in parts["headers"].items()},
        body=TypedData(bytes=parts["body"].value),
        cookies=[_cookie(morsel) for cookie in parts["cookies"] or () for morsel in cookie.values()],
    )


def _cookie(morsel: Morsel[str]) -> RpcHttpCookie:
    same_site = {"lax": "Lax", "strict": "Strict", "none": "ExplicitNone"}.get(morsel["samesite"].lower(), "None")
    return RpcHttpCookie(
        name=morsel.key,
        value=morsel.value,
        domain=SimpleNamespace(value=morsel["domain"]),
        path=SimpleNamespace(value=morsel["path"]),
        expires=_timestamp(morsel["expires"]) if morsel["expires"] else None,
        secure=SimpleNamespace(value=bool(morsel["secure"])),
        http_only=SimpleNamespace(value=bool(morsel["httponly"])),
        same_site=getattr(RpcHttpCookie.SameSite, same_site),
        max_age=SimpleNamespace(value=float(morsel["max-age"])) if morsel["max-age"] else None,
    )


def _timestamp(expires: str) -> SimpleNamespace:
    moment = datetime.strptime(expires, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    return SimpleNamespace(value=SimpleNamespace(seconds=int(moment.timestamp())))
