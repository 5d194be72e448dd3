"""``python -m tests.unit.devhost.load_apps <worker> <directory>…``: load apps with one of the workers.

Prints a JSON object for each directory, in this order: what was indexed and what invocations returned, or who refused
the app and why. Each app is loaded in a process of its own, forked so that the SDK is imported only once.
"""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devhost.functions import UnsupportedFunctionError, read_functions
from devhost.rpc import FunctionMetadata, InvocationRequest, TypedData
from devhost.testing import REPOSITORY
from devhost.worker import InvocationFailedError, Worker

CLASSES = {"small": "devhost.small_worker:SmallWorker", "library": "devhost.runtime_worker:RuntimeWorker"}
HAS_LIBRARY = importlib.util.find_spec("azure_functions_runtime") is not None
WORKERS = [name for name in CLASSES if name == "small" or HAS_LIBRARY]


def loaded(worker: str, directories: Sequence[Path], **settings: str) -> list[dict[str, Any]]:
    """What the worker makes of each app."""
    ended = subprocess.run(
        [sys.executable, "-m", __name__, worker, *map(str, directories)],
        cwd=REPOSITORY,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(directories), ended.stdout + ended.stderr
    return [json.loads(line) for line in lines]


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


def calls(directory: Path) -> list[tuple[str, ...]]:
    """Return the invocations to try: a function's name, its parameter's, the payload and perhaps its kind."""
    path = directory / "calls.json"
    return json.loads(path.read_text()) if path.exists() else []


async def invoke(
    worker: Worker, indexed: list[FunctionMetadata], name: str, parameter: str, payload: str, kind: str = "string"
) -> list[Any]:
    function_id = next(function.function_id for function in indexed if function.name == name)
    request = InvocationRequest(function_id, {parameter: TypedData(**{kind: payload})}, str(uuid.uuid4()))
    try:
        returned = await worker.invoke(request)
    except InvocationFailedError as error:
        return ["failed", str(error), error.stack_trace.splitlines()[-1]]
    return ["returned", *((returned.WhichOneof("data"), returned.value) if returned else ())]


def main(worker: str, directories: list[str]) -> None:
    importlib.import_module("azure.durable_functions")  # shared by the forks
    module, _, name = CLASSES[worker].partition(":")
    make = getattr(importlib.import_module(module), name)
    for directory in directories:
        if not (child := os.fork()):
            print(json.dumps(asyncio.run(load(make(), Path(directory)))), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
