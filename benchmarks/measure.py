"""Repeating, interleaving and summing up measurements."""

import socket
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

OURS = "ours"
WAITS = 200
WAIT_SECONDS = 0.005

Contender = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        name: What was measured.
        unit: In which unit.
        values: Each contender's values, one per round.
        more_is_better: Whether it is a rate, not a cost.
        wanted: For "ours" the limit of our median; for another contender how many times better ours should be.
    """

    name: str
    unit: str
    values: Mapping[str, Sequence[float]]
    more_is_better: bool = False
    wanted: Mapping[str, float] = field(default_factory=dict)

    def median(self, contender: str) -> float:
        return statistics.median(self.values[contender])

    def advantage(self, contender: str) -> float:
        """Return how many times better ours is."""
        ours, theirs = self.median(OURS), self.median(contender)
        return ours / theirs if self.more_is_better else theirs / ours

    def is_met(self, contender: str) -> bool:
        """Return whether what was wanted in comparison with this contender, or of ours itself, is so."""
        limit = self.wanted.get(contender)
        if limit is None:
            return True
        if contender != OURS:
            return self.advantage(contender) >= limit
        return self.median(OURS) >= limit if self.more_is_better else self.median(OURS) <= limit


@dataclass(frozen=True)
class Curve:
    """What one unit costs as their number grows.

    Attributes:
        name: The cost.
        unit: In which unit.
        size: What grows.
        costs: The cost of one at each size, the sizes ascending.
        wanted: How many times more a larger size may cost than a smaller one.
    """

    name: str
    unit: str
    size: str
    costs: Mapping[int, float]
    wanted: float = 2.0

    @property
    def growth(self) -> float:
        """How many times more one costs than at some smaller size, at most."""
        least, growth = float("inf"), 1.0
        for cost in self.costs.values():
            growth = max(growth, cost / least)
            least = min(least, cost)
        return growth

    @property
    def is_met(self) -> bool:
        return self.growth <= self.wanted


async def interleave(rounds: int, contenders: Mapping[str, Contender]) -> dict[str, list[float]]:
    """Measure the contenders in turn, so many rounds, so that a slow moment of the machine meets all of them."""
    values: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, measure in contenders.items():
            values[contender].append(await measure())
    return values


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far, to the nanosecond where the system tells it."""
    if sys.platform == "linux":
        # The id of another process's clock, as clock_getcpuclockid(3) makes it.
        return time.clock_gettime((~pid << 3) | 2)
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


def timer_us() -> float:
    """Return the processor time that this machine takes for a wait of 5 ms which a timer ends, in µs."""
    start = time.thread_time()
    for _ in range(WAITS):
        time.sleep(WAIT_SECONDS)
    return (time.thread_time() - start) * 1e6 / WAITS


def send_us() -> float:
    """Return the processor time that this machine takes to send some bytes to one who waits for them, in µs."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        receiving = threading.Thread(target=_receive, args=[receiver])
        receiving.start()
        spent = 0.0
        for _ in range(WAITS):
            time.sleep(WAIT_SECONDS)
            start = time.thread_time()
            sender.sendall(bytes(100))
            spent += time.thread_time() - start
        sender.shutdown(socket.SHUT_WR)
        receiving.join()
    return spent * 1e6 / WAITS


def _receive(receiver: socket.socket) -> None:
    with receiver:
        while receiver.recv(1000):
            pass


def late_growth(samples: Sequence[float]) -> float:
    """Return how many times more the last third of the samples is than the middle third, by their medians.

    The first third is left out: what is made once, on first use, is no growth.
    """
    third = len(samples) // 3
    before = statistics.median(samples[third : 2 * third])
    return statistics.median(samples[2 * third :]) / before if before else 1.0
