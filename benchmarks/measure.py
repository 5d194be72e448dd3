"""Repeating, interleaving and summing up measurements."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

Contender = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Figure:
    """One measured figure: the contenders' medians over all rounds, with their least and greatest values."""

    name: str
    unit: str
    values: Mapping[str, Sequence[float]]

    def median(self, contender: str) -> float:
        return statistics.median(self.values[contender])

    def rows(self) -> list[str]:
        """Return a row of the table for each contender; the last column compares with ours."""
        ours = self.median("ours")
        return [
            f"| {self.name} | {contender} | {self.median(contender):,.6g} {self.unit} "
            f"| {min(values):,.4g} to {max(values):,.4g} | {self.median(contender) / ours:.3g} |"
            for contender, values in self.values.items()
        ]


async def interleave(name: str, unit: str, rounds: int, contenders: Mapping[str, Contender]) -> Figure:
    """Measure the contenders in turn, so many rounds, so that a slow moment of the machine meets all of them."""
    values: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, measure in contenders.items():
            values[contender].append(await measure())
    return Figure(name, unit, values)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]
