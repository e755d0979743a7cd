"""Rounds, medians and ratios, and how they are shown: text, JSON, a picture."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from checks.repro import processor
from fashion_mlp.pictures.style import BLUE, GREY, STYLE, VERMILION, WIDTH
from pipeline.files import replacing, write_json

RESULTS = Path("benchmarks")
PACKAGES = ("tensorflow", "keras", "numpy", "onnxruntime", "scikit-learn", "dvc")
CORES = 2  # that everything measured may use
PAUSE = 0.25  # seconds before a measurement: until threads that spin while they wait sleep


class Summary(NamedTuple):
    """What a list of measurements comes to."""

    median: float
    low: float
    high: float
    n: int


class Row(NamedTuple):
    """One thing measured, a value a round."""

    name: str
    values: Sequence[float]
    against: str = ""  # the row of its table by which it is divided, round by round
    goal: float | None = None  # the largest ratio, or the largest value where there is no ratio


class Table(NamedTuple):
    """Rows that were measured in the same rounds, and what to know of them."""

    title: str
    unit: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def ratio(self, row: Row) -> Summary | None:
        """Divide a row by the one it is held against, within each round."""
        if not row.against:
            return None
        (other,) = (other for other in self.rows if other.name == row.against)
        return summary([a / b for a, b in zip(row.values, other.values, strict=True)])


def summary(values: Sequence[float]) -> Summary:
    """Give median, smallest, largest and number."""
    return Summary(statistics.median(values), min(values), max(values), len(values))


def rounds(runs: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Measure one after the other, round by round, so that a noisy machine hurts all alike.

    Args:
        runs: by name, what to run; it returns its own measurement.
        count: of rounds.
    """
    values: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(count):
        for name, run in runs.items():
            time.sleep(PAUSE)
            values[name].append(run())
    return values


def timed(run: Callable[[], object]) -> float:
    """Run something; return the seconds that it took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def use_two_cores() -> None:
    """Hold this process and its children to two cores, where there are more."""
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def machine() -> dict[str, Any]:
    """Name the processor, its cores, those that were used, the system's load and versions."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_used": min(CORES, os.cpu_count() or CORES),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def text(table: Table) -> str:
    """Lay a table out for the screen and for docs/performance.md."""
    width = max(len(row.name) for row in table.rows)
    lines = [f"{table.title} ({table.unit})"]
    lines.append(
        f"  {'':{width}}  {'median':>8} {'min':>8} {'max':>8} {'n':>3}  ratio (min to max)"
    )
    for row in table.rows:
        found, ratio = summary(row.values), table.ratio(row)
        cells = " ".join(f"{number(value):>8}" for value in found[:3])
        line = f"  {row.name:{width}}  {cells} {found.n:3}"
        if ratio and row.name != row.against:
            line += f"  {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        if row.goal is not None:
            reached = (ratio or found).median <= row.goal
            line += f"  {'within' if reached else 'NOT within'} {row.goal:g}"
        lines.append(line)
    return "\n".join([*lines, *(f"  {note}" for note in table.notes)])


def number(value: float) -> str:
    """Write three digits that count, and all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def as_json(table: Table) -> dict[str, Any]:
    """Give a table's figures and every value they come from."""
    rows = []
    for row in table.rows:
        entry: dict[str, Any] = {"name": row.name.strip(), **summary(row.values)._asdict()}
        if ratio := table.ratio(row):
            entry |= {"against": row.against, "ratio": ratio._asdict()}
        if row.goal is not None:
            entry["goal"] = row.goal
        rows.append(entry | {"values": list(row.values)})
    return {"title": table.title, "unit": table.unit, "rows": rows, "notes": list(table.notes)}


def publish(name: str, on: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Write benchmarks/NAME.json and NAME.png."""
    values = {"machine": on, "tables": [as_json(table) for table in tables]}
    write_json(RESULTS / f"{name}.json", values)
    with replacing(RESULTS / f"{name}.png") as temporary:
        draw(temporary, on, tables)
    print(f"bench: wrote {RESULTS}/{name}.json, {RESULTS}/{name}.png")


def draw(path: Path, on: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Draw medians as dots, all rounds as lines; a tick where a goal lies.

    Goals that are ratios are drawn at the goal times the median of what the row is held against.
    """
    heights = [len(table.rows) + 1.5 for table in tables]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.27 * sum(heights)), layout="constrained")
        all_axes = figure.subplots(len(tables), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, table in zip(all_axes, tables, strict=True):
            medians = {row.name: summary(row.values).median for row in table.rows}
            for place, row in enumerate(table.rows):
                found = summary(row.values)
                axes.plot([found.low, found.high], [place, place], color=GREY, linewidth=2)
                axes.plot(found.median, place, "o", color=BLUE, markersize=6)
                if row.goal is not None:
                    goal = row.goal * medians.get(row.against, 1.0)
                    axes.plot(goal, place, "|", color=VERMILION, markersize=14, markeredgewidth=2)
            axes.set_yticks(range(len(table.rows)), [row.name for row in table.rows])
            axes.set_ylim(len(table.rows) - 0.5, -0.5)
            axes.set_xlim(left=0)
            axes.grid(axis="x")
            axes.set_title(f"{table.title} ({table.unit})", loc="left", fontsize=10)
        figure.supxlabel(
            f"dot: median; line: smallest to largest; bar: goal. {on['processor']}, "
            f"{on['cores_used']} cores, {on['date']}",
            fontsize=8,
        )
        figure.savefig(path, format="png", metadata={"Software": None})
