"""Many scenarios, and the table of what happened."""

import asyncio
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.chaos.scenario import Scenario, Tally


async def play(seeds: Iterable[int], at_once: int, *, progress: bool = False) -> Tally:
    """Play a scenario for each seed, so many at the same time."""
    total, turn = Tally(), asyncio.Semaphore(at_once)

    async def one(seed: int) -> None:
        async with turn:
            with tempfile.TemporaryDirectory(prefix=f"chaos-{seed}-", ignore_cleanup_errors=True) as directory:
                tally = await Scenario(seed, Path(directory)).run()
        total.add(tally)
        if progress:
            print(f"seed {seed}: {'BROKEN' if tally.broken else 'ok'}", flush=True)

    await asyncio.gather(*(one(seed) for seed in seeds))
    return total


def table(tally: Tally) -> str:
    """Return the tally as a Markdown table."""
    rows = [(f"fault: {name}", count) for name, count in sorted(tally.faults.items())]
    rows.append(("runs", tally.runs))
    rows += [(f"ended with {name}", count) for name, count in sorted(tally.terminal.items())]
    rows += [(name, len(getattr(tally, name))) for name in ("lost", "duplicated", "diverged", "unfinished")]
    return "\n".join(["| what | how often |", "| --- | --- |", *(f"| {name} | {count} |" for name, count in rows)])
