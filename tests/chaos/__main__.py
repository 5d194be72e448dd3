"""``python -m tests.chaos``: play scenarios and print a table; exits with 1 when a promise was broken."""

import argparse
import asyncio
import sys

from tests.chaos.campaign import play, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Plays seeded scenarios.")
    parser.add_argument("--scenarios", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--at-once", type=int, default=2, help="how many at the same time")
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.scenarios)
    tally = asyncio.run(play(seeds, options.at_once, progress=True))
    print(table(tally))
    for broken in tally.broken:
        print(f"\nBROKEN: {broken}")
    return int(bool(tally.broken))


if __name__ == "__main__":
    sys.exit(main())
