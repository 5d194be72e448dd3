"""Runs JavaScript clients: a script of this folder is told what to do in JSON, and tells what happens in lines of JSON.

A script is called as ``node <name>.mjs '<plan>'``. It prints one JSON object a line, and ends with status 0 when the
client it drives has ended; an uncaught exception ends it with another, and its words are the failure's.
"""

import asyncio
import contextlib
import json
import shutil
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import eventually

FOLDER = Path(__file__).parent
OLDEST_NODE = 20
# A line may hold a whole answer.
LINE_BYTES = 16 * 1024 * 1024

Line = dict[str, Any]


class ScriptFailedError(Exception):
    """A script ended with an exception. The message is what it printed of it."""


def why_not() -> str | None:
    """Return why no script can be run here, and what to do; None where one can."""
    node = shutil.which("node")
    if node is None:
        return f"Node.js is not installed: install version {OLDEST_NODE} or newer, and run make test"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        return f"Node.js {version} is too old: install version {OLDEST_NODE} or newer, and run make test"
    if not (FOLDER / "node_modules").is_dir():
        return "the JavaScript clients are not installed: run make test, or npm ci in tests/clients"
    return None


_REASON = why_not()
needs_node = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")


class Script:
    """A script that runs.

    Attributes:
        lines: What it has printed so far.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.lines: list[Line] = []
        self._process = process
        self._errors = ""
        self._changed = asyncio.Event()
        self._output = asyncio.gather(self._read_lines(), self._read_errors())
        self._output.add_done_callback(lambda _: self._changed.set())

    async def printed(self, count: int, seconds: float = 20) -> list[Line]:
        """Wait until it has printed so many lines, and return all that there are.

        Raises:
            ScriptFailedError: It ended before.
            TimeoutError: It did not print them within this time.
        """

        async def are_there() -> bool:
            return len(self.lines) >= count or self._output.done()

        await eventually(are_there, seconds)
        if len(self.lines) < count:
            raise ScriptFailedError(f"{self.lines}\n{self._errors}")
        return self.lines

    async def finish(self, seconds: float = 30) -> list[Line]:
        """Wait for its end, and return the lines.

        Raises:
            ScriptFailedError: It ended with an exception.
            TimeoutError: It did not end within this time.
        """
        async with asyncio.timeout(seconds):
            await asyncio.shield(self._output)
            if await self._process.wait():
                raise ScriptFailedError(f"{self.lines}\n{self._errors}")
        return self.lines

    async def __aiter__(self) -> AsyncIterator[Line]:
        """Yield each line as it is printed, up to its end.

        Raises:
            ScriptFailedError: It ended with an exception.
        """
        told = 0
        while not self._output.done() or told < len(self.lines):
            if told == len(self.lines):
                await self._changed.wait()
                self._changed.clear()
            else:
                told += 1
                yield self.lines[told - 1]
        await self.finish()

    async def aclose(self) -> None:
        """End it, where it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._output

    async def _read_lines(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(json.loads(line))
            self._changed.set()

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors = (await self._process.stderr.read()).decode()


@contextlib.asynccontextmanager
async def script(name: str, **plan: Any) -> AsyncIterator[Script]:
    """Run a script with this plan while the block runs.

    Args:
        name: The script's file name, without its ending.
        plan: What it is to do: JSON values, by names of its own.
    """
    process = await asyncio.create_subprocess_exec(
        "node", f"{name}.mjs", json.dumps(plan), cwd=FOLDER, stdout=PIPE, stderr=PIPE, limit=LINE_BYTES
    )
    running = Script(process)
    try:
        yield running
    finally:
        await running.aclose()


async def run_script(name: str, **plan: Any) -> list[Line]:
    """Run a script to its end, and return the lines that it printed."""
    async with script(name, **plan) as running:
        return await running.finish()
