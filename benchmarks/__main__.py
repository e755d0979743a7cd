"""Measure speed, side by side with peers: `make bench`; `--quick` only tries everything once.

reads   data/raw/, data/prepared/, models/: `make` makes them
writes  benchmarks/results.json, benchmarks/results.png; not with --quick
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from benchmarks import around, inference, training
from benchmarks.measure import Table, machine, publish, text, use_two_cores

PASSES, EPOCHS, ROUNDS = 3, 3, 5
PARTS = ("training", "inference", "around")


def main() -> int:
    """Measure, print the tables, write them; the exit status says whether all was measured."""
    parser = argparse.ArgumentParser(description="Measure speed, side by side with peers.")
    parser.add_argument("--quick", action="store_true", help="one round, and write nothing")
    parser.add_argument("--only", choices=PARTS, help="one part, and write nothing")
    options = parser.parse_args()
    if lacking := training.missing():
        print(f"bench: {lacking[0]} is not there; `make` makes it", file=sys.stderr)
        return 1
    use_two_cores()
    on = machine()
    print("bench: " + ", ".join(f"{key} {value}" for key, value in on.items()), flush=True)
    count = 1 if options.quick else ROUNDS
    parts: dict[str, Callable[[], list[Table]]] = {
        "training": lambda: training.measure(*((1, 1) if options.quick else (PASSES, EPOCHS))),
        "inference": lambda: inference.measure(count),
        "around": lambda: around.measure(count),
    }
    start, tables = time.monotonic(), []
    for name, measure in parts.items():
        if options.only in (None, name):
            tables += (found := measure())
            print("", *map(text, found), sep="\n", flush=True)
    print(f"\nbench: took {time.monotonic() - start:.0f} s")
    if not options.quick and not options.only:
        publish("results", on, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
