"""Microsoft's Python worker: ``azure-functions-runtime``, driven in process as its gRPC proxy drives it on Azure."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure_functions_runtime

from devhost import rpc
from devhost.worker import InvocationFailedError

HTTP_ADDRESS = "127.0.0.1"
LIBRARY_LOGGER = "azure.functions"
START_SECONDS = 30
POLL_SECONDS = 0.005


class BindingInfo(SimpleNamespace):
    """The numbers are those of ``FunctionRpc.proto``, which ``azure.functions`` uses too."""

    undefined = 0
    out = 1
    inout = 2


class StatusResult(SimpleNamespace):
    Failure = 0
    Success = 1


class RpcException(SimpleNamespace):
    """What the library makes of an exception that it caught, and the exception itself."""

    def __init__(self, **fields: str) -> None:
        super().__init__(**fields, caught=sys.exception())


# The library builds its answers with the classes that it is given, and reads nothing of most of them.
PROTOS = SimpleNamespace(
    BindingInfo=BindingInfo,
    StatusResult=StatusResult,
    RpcException=RpcException,
    TypedData=rpc.TypedData,
    ParameterBinding=rpc.ParameterBinding,
    RpcHttp=rpc.RpcHttp,
    RpcHttpCookie=rpc.RpcHttpCookie,
    **dict.fromkeys(
        (
            "FunctionLoadResponse",
            "FunctionMetadataResponse",
            "InvocationResponse",
            "NullableBool",
            "NullableDouble",
            "NullableString",
            "NullableTimestamp",
            "RpcFunctionMetadata",
            "RpcRetryOptions",
            "Timestamp",
            "WorkerInitResponse",
            "WorkerMetadata",
        ),
        SimpleNamespace,
    ),
)


class RuntimeWorker:
    """The library keeps its state in its modules, so a process has one worker."""

    def __init__(self) -> None:
        self.http_uri: str | None = None

    async def load(self, directory: Path) -> list[rpc.FunctionMetadata]:
        sys.path.insert(0, str(directory))
        azure_functions_runtime.start_threadpool_executor()
        with _silenced(LIBRARY_LOGGER):
            started = await azure_functions_runtime.worker_init_request(
                _request(worker_init_request=SimpleNamespace(capabilities={}, function_app_directory=str(directory)))
            )
        if started.result.status != StatusResult.Success:
            raise _load_error(started.result.exception.caught)
        self.http_uri = started.capabilities.get("HttpUri")
        if self.http_uri:
            await _quiet_server(self.http_uri)
        indexed = await azure_functions_runtime.functions_metadata_request(_request())
        return [await _load(function) for function in indexed.function_metadata_results or ()]

    async def invoke(self, request: rpc.InvocationRequest) -> rpc.TypedData | None:
        response = await azure_functions_runtime.invocation_request(_request(invocation_request=request))
        if response.result.status != StatusResult.Success:
            error = response.result.exception
            raise InvocationFailedError(error.message, error.stack_trace)
        value: rpc.TypedData | None = response.return_value
        return value


def _request(**requests: Any) -> SimpleNamespace:
    return SimpleNamespace(request=SimpleNamespace(**requests), properties={"host": HTTP_ADDRESS, "protos": PROTOS})


async def _load(function: Any) -> rpc.FunctionMetadata:
    request = SimpleNamespace(function_id=function.function_id)
    await azure_functions_runtime.function_load_request(_request(function_load_request=request))
    return rpc.FunctionMetadata(function.function_id, function.name, tuple(function.raw_bindings))


def _load_error(error: Exception) -> BaseException:
    """The library replaces an import error by one that ends with all of ``sys.path``."""
    return error.__context__ or error if isinstance(error, ImportError) else error


async def _quiet_server(uri: str) -> None:
    """Wait for the library's server, and take from uvicorn's loggers what that server configured for them."""
    names = ("uvicorn", "uvicorn.error", "uvicorn.access")
    levels = {name: logging.getLogger(name).level for name in names}
    logging.disable(logging.INFO)
    try:
        await _wait_for_server(uri)
    finally:
        logging.disable(logging.NOTSET)
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers.clear()
        logger.propagate = True


async def _wait_for_server(uri: str) -> None:
    _, _, port = uri.rpartition(":")
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(HTTP_ADDRESS, int(port))
            except ConnectionRefusedError:
                await asyncio.sleep(POLL_SECONDS)
            else:
                writer.close()
                return


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """A load that fails is reported once, by the host."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
