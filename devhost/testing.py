"""Starting, killing, pausing and restarting ``python -m devhost`` from tests and benchmarks."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

WORKER_MODULE = "devhost.worker_main"
REPOSITORY = Path(__file__).resolve().parent.parent


class HostNotReadyError(Exception):
    """The host ended or stayed silent instead of getting ready. The message holds its output."""


class HostProcess:
    """One host over ``app_dir``; restarted, it keeps its port and state directory, as a real one would.

    Its output is collected in ``log`` and printed when the ``with`` block ends by an exception, so that pytest shows it
    with the failure.

    Parameters:
        state_dir: the durable state; share it between hosts that are to take over each other's work.
        app_dir: the directory of ``function_app.py``.
        port: the port of the app's routes; 0 takes a free one at the first start.
        env: environment variables on top of this process's own.
    """

    def __init__(
        self, state_dir: Path, *, app_dir: Path = REPOSITORY, port: int = 0, env: dict[str, str] | None = None
    ) -> None:
        self._state_dir = state_dir
        self._app_dir = app_dir
        self._port = port
        self._env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._output: list[str] = []
        self._changed = threading.Condition()

    @property
    def base_url(self) -> str:
        """The origin of the app's routes, such as ``http://127.0.0.1:7071``."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port of the app's routes; 0 before the first start, where a free one is to be taken."""
        return self._port

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended; a paused one has not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of its process, the last one started."""
        return self._running().pid

    @property
    def worker_pid(self) -> int:
        """The id of its worker's process, which is its newest."""
        [worker] = self._workers()
        return worker.pid

    @property
    def log(self) -> str:
        """Everything printed since the first start."""
        return "".join(self._output)

    def start(self, timeout: float = 60) -> None:
        """Start and wait until it is ready.

        Raises:
            HostNotReadyError: it ended, or was not ready after ``timeout`` seconds.
        """
        command = [sys.executable, "-m", "devhost", "--port", str(self._port), "--state-dir", str(self._state_dir)]
        first_line = len(self._output)
        self._process = subprocess.Popen(
            command, cwd=self._app_dir, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._wait_for_line("Ready\n", first_line, timeout)
        match = re.search(r"Serving on http://127\.0\.0\.1:(\d+)", "".join(self._output[first_line:]))
        if match is None:
            raise HostNotReadyError(f"the host did not print its address:\n{self.log}")
        self._port = int(match.group(1))

    def kill(self) -> None:
        """SIGKILL: it gets no chance to put anything in order."""
        workers = self._workers()
        self._running().kill()
        self._ended(timeout=30)
        # Its worker sees that it is gone.
        psutil.wait_procs(workers, timeout=30)

    def restart(self, timeout: float = 60) -> None:
        """SIGKILL and a new start over the same port and durable state, which is ready when this returns.

        Raises:
            HostNotReadyError: as ``start``.
        """
        self.kill()
        self.start(timeout)

    def stop(self, timeout: float = 10) -> int:
        """SIGINT, as Ctrl-C sends; the exit status."""
        self._running().send_signal(signal.SIGINT)
        return self._ended(timeout)

    def pause(self, timeout: float = 30) -> None:
        """SIGSTOP: it is still there and does nothing.

        Not within a transaction, whose lock would hold up every other host for as long as it is stopped: SQLite's locks
        are no leases.

        Raises:
            TimeoutError: it was in one whenever it was stopped within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for process in (*self._workers(), psutil.Process(self.pid)):
                process.suspend()
                while process.status() != psutil.STATUS_STOPPED:
                    time.sleep(0.001)
            if self._can_write():
                return
            self.resume()
            time.sleep(0.001)
        raise TimeoutError("the host is in a transaction all the time")

    def resume(self) -> None:
        """SIGCONT: a paused one goes on where it was stopped."""
        for process in (psutil.Process(self.pid), *self._workers()):
            process.resume()

    def wait(self, timeout: float = 30) -> int:
        """Wait for it to end by itself; the exit status."""
        return self._ended(timeout)

    def wait_for_log(self, text: str, timeout: float = 30, times: int = 1) -> None:
        """Wait until the log holds the text, so many times.

        Raises:
            TimeoutError: it did not within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while self.log.count(text) < times:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{text!r} is not in the log:\n{self.log}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        if error is not None:
            print(f"--- log of the host on {self.base_url} ---\n{self.log}")

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the host was not started")
        return self._process

    def _workers(self) -> list[psutil.Process]:
        """Its worker, except for the moment in which it has none, or where it has ended itself."""
        workers = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    # Of a process that has ended there is no command.
                    workers += [child] if WORKER_MODULE in child.cmdline() else []
        return workers

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with self._changed:
                self._output.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _can_write(self) -> bool:
        """Whether nobody holds the write lock of the durable state."""
        with contextlib.closing(sqlite3.connect(self._state_dir / "durable.sqlite", timeout=0)) as durable_state:
            try:
                durable_state.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            durable_state.rollback()
            return True

    def _wait_for_line(self, line: str, first: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._changed:
            while line not in self._output[first:]:
                ended = self._running().poll() is not None and self._reader is not None and not self._reader.is_alive()
                if ended or time.monotonic() > deadline:
                    self._running().kill()
                    raise HostNotReadyError(f"the host is not ready:\n{''.join(self._output[first:])}")
                self._changed.wait(0.1)

    def _ended(self, timeout: float) -> int:
        status = self._running().wait(timeout)
        if self._reader is not None:
            self._reader.join(timeout)
        return status
