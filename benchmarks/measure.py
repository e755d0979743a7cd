"""Measurements: in rounds, on two cores, with the machine's name."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from checks.common import processor

PACKAGES = ("tensorflow", "keras", "numpy", "onnxruntime", "scikit-learn", "dvc")
CORES = 2  # that everything measured may use
PAUSE = 0.25  # seconds before a measurement, in which spinning threads of the last one go to sleep


class Row(NamedTuple):
    """One thing measured, with a value for each round."""

    name: str
    values: Sequence[float]
    against: str = ""  # the row of the same table that it is divided by, round by round
    goal: float | None = None  # largest ratio; largest value where there is no ratio


class Table(NamedTuple):
    """Rows that were measured in the same rounds."""

    key: str  # its name in results.json
    title: str
    unit: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def ratios(self, row: Row) -> list[float]:
        """Divide a row by the row it is compared with, within each round; [] if there is none."""
        others = [other.values for other in self.rows if other.name == row.against]
        return [a / b for other in others for a, b in zip(row.values, other, strict=True)]


def rounds(runs: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Call functions that measure, round by round, so that noise affects all of them alike."""
    values: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(count):
        for name, run in runs.items():
            time.sleep(PAUSE)
            values[name].append(run())
    return values


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def use_two_cores() -> None:
    """Restrict this process and its children to two cores, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def machine() -> dict[str, Any]:
    """Describe the processor, its cores, the system's load and the versions of libraries."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_used": min(CORES, os.cpu_count() or CORES),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }
