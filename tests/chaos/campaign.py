"""Many scenarios, and the tables of what happened."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.followers import FOLLOWERS
from tests.chaos.scenario import MUST_NOT, Scenario, Tally, signs_in
from tests.chaos.world import running_world

WIRES = [follower.wire for follower in FOLLOWERS]


async def play(seeds: Sequence[int], at_once: int, *, share: int = 1, progress: bool = False) -> Tally:
    """Play a scenario for each seed, in so many worlds at the same time.

    Args:
        seeds: The seeds.
        at_once: How many worlds there are at a time.
        share: How many scenarios share a world, which saves the time to start one; 1 is what a seed replays exactly.
        progress: Whether to print how each went.
    """
    groups: list[Sequence[int]] = []
    total, turn = Tally(), asyncio.Semaphore(at_once)

    async def play_in_one_world(group: Sequence[int]) -> None:
        async with turn:
            with tempfile.TemporaryDirectory(prefix=f"chaos-{group[0]}-", ignore_cleanup_errors=True) as directory:
                async with running_world(Path(directory), signs_in=signs_in(group[0])) as world:
                    for seed in group:
                        tally = await Scenario(seed, world).run()
                        total.add(tally)
                        if progress:
                            print(f"seed {seed}: {'BROKEN' if tally.broken else 'ok'}", flush=True)

    for kind in (True, False):
        alike = [seed for seed in seeds if signs_in(seed) is kind]
        groups += [alike[first : first + share] for first in range(0, len(alike), share)]
    await asyncio.gather(*map(play_in_one_world, groups))
    return total


def table(tally: Tally) -> str:
    """Return the tally as Markdown: what was followed while which fault was done, and how all of it ended."""
    met = [[fault, count, *(tally.met[fault, wire] for wire in WIRES)] for fault, count in sorted(tally.faults.items())]
    wires = [
        ["all runs", "", *(tally.runs[wire] for wire in WIRES)],
        ["responses cut", "", *(tally.cut[wire] for wire in WIRES)],
    ]
    ends = [[f"ended with {name}", count] for name, count in sorted(tally.terminal.items())]
    tools = [["of them with a tool call and its result", tally.tools]]
    broken = [[name, len(getattr(tally, name))] for name in MUST_NOT]
    return "\n\n".join(
        (
            _markdown(["fault", "times", *WIRES], [*met, *wires]),
            _markdown(["what", "how often"], [["runs", tally.runs.total()], *ends, *tools, *broken]),
        )
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows))
