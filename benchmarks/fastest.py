"""Time to the paper's accuracy: preset `fastest`, beside Keras and PyTorch with the same recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measure import Row, Table, rounds
from benchmarks.training import OTHER

LIBRARIES = {"stage train": sys.executable, "Keras": sys.executable, "PyTorch": OTHER}


def measure(seeds: int) -> list[Table]:
    """Train with each library, seed by seed from 1.

    Raises:
        RuntimeError: the stage's loop or Keras failed.
    """
    accuracies: dict[str, list[float]] = {name: [] for name in LIBRARIES}

    def once(name: str, python: str) -> float:
        command = [
            python,
            "-m",
            "benchmarks.baselines.one_epoch",
            name,
            str(len(accuracies[name]) + 1),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"{name}: {result.stderr.strip().splitlines()[-1]}")
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        accuracies[name].append(found["accuracy"])
        return float(found["seconds"])

    runs = {
        name: partial(once, name, python)
        for name, python in LIBRARIES.items()
        if python != OTHER or Path(OTHER).exists()
    }
    rows = [Row(name, values, "stage train") for name, values in rounds(runs, seeds).items()]
    notes = [
        f"{name}: test accuracy {mean(found):.4f}, mean of seeds 1 to {seeds} "
        f"({min(found):.4f} to {max(found):.4f})"
        for name, found in accuracies.items()
        if found
    ]
    return [Table("fastest", "Training to the paper's accuracy: one epoch", "s", rows, notes)]
