"""Measure speed, side by side with baselines: `make bench`; `--quick` only tries everything once.

reads   data/raw/, data/prepared/, models/: `make` makes them
writes  benchmarks/results.json; not with --quick
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks import around, fastest, inference, results, training
from benchmarks.measure import machine, use_two_cores

STARTS, EPOCHS, ROUNDS = 3, 3, 5
NEEDED = ("data/prepared/train_images.npy", "data/prepared/train_labels.npy", inference.MODEL)


def main() -> int:
    """Measure, print the tables, write them; the exit status says whether all was measured."""
    parser = argparse.ArgumentParser(description="Measure speed, side by side with baselines.")
    parser.add_argument("--quick", action="store_true", help="one round, and write nothing")
    options = parser.parse_args()
    if missing := [path for path in NEEDED if not Path(path).exists()]:
        print(f"bench: {missing[0]} is missing; `make` makes it", file=sys.stderr)
        return 1
    use_two_cores()
    described = machine()
    print("bench: " + ", ".join(f"{key} {value}" for key, value in described.items()), flush=True)
    starts, epochs, count = (1, 1, 1) if options.quick else (STARTS, EPOCHS, ROUNDS)
    start, tables = time.monotonic(), []
    for part in (
        partial(training.measure, starts, epochs),
        partial(fastest.measure, count),
        partial(inference.measure, count),
        partial(around.measure, count),
    ):
        tables += (found := part())
        print("", *map(results.text, found), sep="\n", flush=True)
    print(f"bench: took {time.monotonic() - start:.0f} s")
    if not options.quick:
        results.publish(described, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
