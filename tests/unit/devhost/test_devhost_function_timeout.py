"""What exceeds functionTimeout is told, once and by its number."""

import queue
import threading

from devhost.function_timeout import FunctionTimeout


def test_function_that_runs_too_long_is_told_though_its_thread_is_blocked() -> None:
    exceeded: queue.Queue[tuple[int, str]] = queue.Queue()
    release = threading.Event()

    def tell(number: int, name: str) -> None:
        exceeded.put((number, name))
        release.wait()

    timeout = FunctionTimeout(0.05, tell)
    with timeout.watch("short"):
        pass
    with timeout.watch("long") as number:
        assert exceeded.get(timeout=10) == (number, "long")
    release.set()


def test_the_one_that_has_run_longest_is_found() -> None:
    timeout = FunctionTimeout(None, lambda number, name: None)
    with timeout.watch("a first"), timeout.watch("b") as number, timeout.watch("b later"):
        assert timeout.find("b") == (number, "b")
    assert timeout.find("b") is None
