"""``python -m tests.unit.devhost.load_apps <worker> <directory>…``: load apps with one of the workers.

Prints a JSON object for each directory, in this order: what was indexed and what invocations returned, or who refused
the app and why. Each app is loaded in a process of its own, forked so that the SDK is imported only once.
"""

import asyncio
import importlib
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import azure.durable_functions  # noqa: F401 - shared by the forks

from devhost.functions import UnsupportedFunctionError, read_functions
from devhost.rpc import InvocationRequest, TypedData
from devhost.worker import FunctionMetadata, InvocationFailedError, Worker

WORKERS = {"library": "devhost.runtime_worker:RuntimeWorker", "small": "devhost.small_worker:SmallWorker"}


async def load(worker: Worker, directory: Path) -> dict[str, Any]:
    try:
        indexed = await worker.load(directory)
    except Exception as error:
        return {"refused by": "worker", "message": f"{type(error).__name__}: {error}"}
    try:
        functions = read_functions(indexed)
    except UnsupportedFunctionError as error:
        return {"refused by": "host", "message": str(error)}
    return {
        "functions": [repr(function) for function in functions.all],
        "bindings": {function.name: [json.loads(text) for text in function.raw_bindings] for function in indexed},
        "serves http": worker.http_uri is not None,
        "invocations": [await invoke(worker, indexed, *call) for call in calls(directory)],
    }


def calls(directory: Path) -> list[tuple[str, str, str]]:
    """Return the invocations to try: a function's name, its parameter's, and the payload."""
    path = directory / "calls.json"
    return json.loads(path.read_text()) if path.exists() else []


async def invoke(worker: Worker, indexed: list[FunctionMetadata], name: str, parameter: str, payload: str) -> list[Any]:
    function_id = next(function.function_id for function in indexed if function.name == name)
    request = InvocationRequest(function_id, {parameter: TypedData(string=payload)}, str(uuid.uuid4()))
    try:
        returned = await worker.invoke(request)
    except InvocationFailedError as error:
        return ["failed", str(error), error.stack_trace.splitlines()[-1]]
    return ["returned", *((returned.WhichOneof("data"), returned.value) if returned else ())]


def main(worker: str, directories: list[str]) -> None:
    module, _, name = WORKERS[worker].partition(":")
    make = getattr(importlib.import_module(module), name)
    for directory in directories:
        if not (child := os.fork()):
            print(json.dumps(asyncio.run(load(make(), Path(directory)))), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
