"""Driving the programs over HTTP, and their gates through the journal's directory."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
FINAL = ("Completed", "Failed", "Terminated")


def wait_until(condition: Callable[[], T | None], what: str, timeout: float = 60) -> T:
    """The first true value of the condition.

    Raises:
        TimeoutError: there was none within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.01)
    return value


class Programs:
    """The function app in ``programs/`` as its clients see it."""

    def __init__(self, base_url: str, journal_dir: Path) -> None:
        self.http = httpx.Client(base_url=f"{base_url}/api/", timeout=30)
        self.webhooks = httpx.Client(base_url=f"{base_url}/runtime/webhooks/durabletask/", timeout=30)
        self._journal_dir = journal_dir

    def start(self, name: str, program_input: Any = None, instance_id: str = "") -> str:
        answer = self.http.post(f"start/{name}/{instance_id}".rstrip("/"), json=program_input)
        assert answer.status_code == 202, answer.text
        identifier: str = answer.json()["id"]
        return identifier

    def status(self, instance_id: str) -> dict[str, Any]:
        status: dict[str, Any] = self.http.get(f"status/{instance_id}").json()
        return status

    def wait(self, instance_id: str, *statuses: str, timeout: float = 60) -> dict[str, Any]:
        """The status once it is one of these, by default a final one."""

        def reached() -> dict[str, Any] | None:
            status = self.status(instance_id)
            return status if status and status["runtimeStatus"] in (statuses or FINAL) else None

        return wait_until(reached, f"{instance_id} is {statuses or FINAL}", timeout)

    def run(self, name: str, program_input: Any = None, instance_id: str = "") -> dict[str, Any]:
        return self.wait(self.start(name, program_input, instance_id))

    def control(self, method: str, instance_id: str, query: str = "") -> httpx.Response:
        return self.http.post(f"control/{method}/{instance_id}{query}")

    def raise_event(self, instance_id: str, name: str, data: Any) -> httpx.Response:
        return self.http.post(f"raise/{instance_id}/{name}", json=data)

    def counter(self, key: str) -> Any:
        return self.http.get(f"counter/{key}").json()["state"]

    def open_gate(self, gate: str) -> None:
        (self._journal_dir / gate).touch()

    def journal(self, name: str) -> list[str]:
        path = self._journal_dir / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_at_gate(self, gate: str, times: int = 1, timeout: float = 60) -> list[str]:
        """Wait until so many calls reached the gate; the process ids of their hosts."""
        name = f"{gate}.reached"
        wait_until(lambda: len(self.journal(name)) >= times, f"{times} calls at gate {gate}", timeout)
        return self.journal(name)
