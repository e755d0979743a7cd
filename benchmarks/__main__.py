"""Measure speed, side by side with baselines: `make bench`.

reads   data/raw/, data/prepared/, models/: `make` makes them
writes  benchmarks/results.json
"""

from __future__ import annotations

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
    if missing := [path for path in NEEDED if not Path(path).exists()]:
        print(f"bench: {missing[0]} is missing; `make` makes it", file=sys.stderr)
        return 1
    use_two_cores()
    described = machine()
    print("bench: " + ", ".join(f"{key} {value}" for key, value in described.items()), flush=True)
    start, tables = time.monotonic(), []
    for part in (
        partial(training.measure, STARTS, EPOCHS),
        partial(fastest.measure, ROUNDS),
        partial(inference.measure, ROUNDS),
        partial(around.measure, ROUNDS),
    ):
        tables += (found := part())
        print("", *map(results.text, found), sep="\n", flush=True)
    print(f"bench: took {time.monotonic() - start:.0f} s")
    results.publish(described, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
