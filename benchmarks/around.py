"""What surrounds training: the whole pipeline from nothing, and with nothing to do."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, Table, rounds, timed
from checks.sandbox import Sandbox
from fashion_mlp.paths import RAW
from pipeline.environment import ROOT


def measure(count: int) -> list[Table]:
    """Measure both, `count` rounds each."""
    with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as name:
        project = Sandbox(Path(name) / "project", 10, 10)
        shutil.copy2(ROOT / "params.yaml", project.folder / "params.yaml")
        project.set(train__epochs=1, fetch__sources=[{"folder": str(ROOT / RAW)}])
        project.commit()
        return [cold(project, count), no_op(project, count)]


def cold(project: Sandbox, count: int) -> Table:
    """Time `make repro` from nothing, in all and by stage."""
    parts: dict[str, list[float]] = {}
    for _ in range(count):
        project.forget()
        for name, seconds in stage_times(project).items():
            parts.setdefault(name, []).append(seconds)
    whole = [sum(values) for values in zip(*parts.values(), strict=True)]
    return Table(
        "cold",
        "From nothing, with one epoch and no download",
        "s",
        [Row("make repro", whole, goal=20.0), *(Row(*item) for item in parts.items())],
        [
            "make repro in a clone: data from a local folder, train.epochs 1, environment "
            "installed before",
            "a stage's time includes DVC's hashing and caching of its outputs",
        ],
    )


def stage_times(project: Sandbox) -> dict[str, float]:
    """Run `make repro`; return the seconds of each stage and of what comes before.

    Raises:
        RuntimeError: it failed.
    """
    parts, last, now = {}, time.perf_counter(), "before the first stage"
    process = project.start("make repro")
    output = []
    for line in process.stdout or ():
        output.append(line)
        if started := re.match(r"Running stage '(\w+)'", line):
            parts[now], last, now = time.perf_counter() - last, time.perf_counter(), started[1]
    if process.wait() != 0:
        raise RuntimeError(f"make repro failed:\n{''.join(output)}")
    parts[now] = time.perf_counter() - last
    return parts


def no_op(project: Sandbox, count: int) -> Table:
    """Time a `dvc repro` that finds everything up to date."""

    def repro() -> None:
        if "up to date" not in (printed := project.good("dvc repro")):
            raise RuntimeError(f"{project.folder}: expected nothing to do, got {printed}")

    repro()  # DVC hashes each file once and remembers it
    values = rounds({"dvc repro": lambda: timed(repro)}, count)
    return Table("no_op", "Nothing to do", "s", [Row(*item) for item in values.items()])
