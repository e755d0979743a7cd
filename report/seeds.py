"""Sum up the experiments that differ in the seed alone: the end of `make seeds NAME=quick SEEDS=5`.

reads   metrics/{train,evaluate}.json of the experiments NAME-seed1, NAME-seed2, … of this commit
prints  mean, standard deviation (n - 1), smallest and largest of each metric, and n
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checks.common import git, machine, table

FILES = ("metrics/train.json", "metrics/evaluate.json")


def experiment(name: str, folder: Path) -> str:
    """Name the git reference of an experiment of HEAD, whether it is there or not."""
    head = git("rev-parse", "HEAD", folder=folder).decode().strip()
    return f"refs/exps/{head[:2]}/{head[2:]}/{name}"


def read_experiment(name: str, folder: Path) -> dict[str, float]:
    """Read the metrics of an experiment of HEAD.

    Raises:
        ValueError: there is no such experiment, or it lacks a file.
    """
    ref = experiment(name, folder)
    metrics: dict[str, Any] = {}
    for path in FILES:
        try:
            metrics |= json.loads(git("show", f"{ref}:{path}", folder=folder))
        except ValueError as error:
            raise ValueError(
                f"HEAD has no whole experiment {name} ({error}); make recipe runs it"
            ) from None
    return metrics


def summary(experiments: Sequence[Mapping[str, float]]) -> list[tuple[object, ...]]:
    """Sum up each metric that all experiments have: its name, mean, sd, smallest, largest, n."""
    rows: list[tuple[object, ...]] = []
    for name in experiments[0]:
        values = [one[name] for one in experiments if name in one]
        if len(values) == len(experiments):
            spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "–"
            shown = (f"{value:.4f}" for value in (min(values), max(values)))
            rows.append((name, f"{statistics.mean(values):.4f}", spread, *shown, len(values)))
    return rows


def main() -> int:
    """Print the table; the exit status says whether all experiments were there."""
    preset, count = sys.argv[1], int(sys.argv[2])
    try:
        experiments = [
            read_experiment(f"{preset}-seed{seed}", Path()) for seed in range(1, count + 1)
        ]
    except ValueError as error:
        print(f"seeds: error: {error}", file=sys.stderr)
        return 1
    print(table(("metric", "mean", "sd", "smallest", "largest", "n"), summary(experiments)))
    print(f"seeds: preset {preset}, seeds 1 to {count}, on {machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
