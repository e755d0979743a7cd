"""Time to the paper's accuracy: preset `fastest`, beside Keras and PyTorch with the same recipe."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from statistics import mean

from benchmarks.baselines.one_epoch import LIBRARIES
from benchmarks.measure import Row, Table, rounds
from benchmarks.training import OTHER
from tasks.processes import answer


def measure(seeds: int) -> list[Table]:
    """Train with each library, seed by seed from 1.

    Raises:
        RuntimeError: the stage's loop or Keras failed.
    """
    accuracies: dict[str, list[float]] = {name: [] for name in LIBRARIES}

    def once(name: str) -> float:
        python = OTHER if name == "PyTorch" else sys.executable
        seed = str(len(accuracies[name]) + 1)
        printed = answer([python, "-m", "benchmarks.baselines.one_epoch", name, seed])
        found: dict[str, float] = json.loads(printed.splitlines()[-1])
        accuracies[name].append(found["accuracy"])
        return found["seconds"]

    there = [name for name in LIBRARIES if name != "PyTorch" or Path(OTHER).exists()]
    runs = {name: partial(once, name) for name in there}
    rows = [Row(name, values, "stage train") for name, values in rounds(runs, seeds).items()]
    notes = [
        f"{name}: test accuracy {mean(found):.4f}, mean of seeds 1 to {seeds} "
        f"({min(found):.4f} to {max(found):.4f})"
        for name, found in accuracies.items()
        if found
    ]
    return [Table("fastest", "Training to the paper's accuracy: one epoch", "s", rows, notes)]
