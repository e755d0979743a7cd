"""Draw experiments as parallel coordinates: `make sweep-picture`.

reads   `dvc exp show --csv`       all experiments of this commit
writes  docs/sweep.png             an axis for each parameter that differs, and one for METRIC

DVC's own (`dvc exp show --pcp`) is a page that loads its script from the network.
"""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

from fashion_mlp.pictures.style import INK, drawing

METRIC = "validation_accuracy"
PICTURE = Path("docs/sweep.png")
SPREAD = 0.08  # of an axis, over which experiments that share a value are spread
SECTIONS = ("dataset.", "fetch.", "preprocess.", "train.", "evaluate.", "export.")


def read_sweep(text: str) -> tuple[list[str], list[dict[str, str]]]:
    """Read what `dvc exp show --csv` prints.

    Returns:
        The parameters that differ between experiments, and the experiments that have the metric.

    Raises:
        ValueError: fewer than two experiments have the metric, or no parameter differs.
    """
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["typ"] != "baseline"]
    rows = [row for row in rows if row.get(METRIC)]
    names = list(rows[0]) if rows else []
    differing = [
        name for name in names if name.startswith(SECTIONS) and len({row[name] for row in rows}) > 1
    ]
    if not differing:
        raise ValueError(
            f"expected at least two experiments with {METRIC} that differ in a parameter, "
            f"got {len(rows)}{', all alike' if len(rows) > 1 else ''}; see docs/experiments.md"
        )
    return differing, rows


def positions(values: list[str]) -> tuple[np.ndarray, dict[float, str]]:
    """Spread the distinct values of a parameter over an axis from 0 to 1.

    Returns:
        The place of each value, float64 (n,), and the labels of the axis by their place.
    """
    distinct = sorted(set(values), key=order)
    places = dict(zip(distinct, np.linspace(0, 1, len(distinct)), strict=True))
    labels = {float(place): value for value, place in places.items()}
    return np.array([places[value] for value in values]), labels


def order(value: str) -> tuple[list[float], str]:
    """Order numbers, and lists such as [256, 128], by value; names by letter."""
    return [float(number) for number in re.findall(r"\d+\.?\d*(?:e[-+]?\d+)?", value)], value


def draw(path: Path, names: list[str], rows: list[dict[str, str]]) -> None:
    """Draw a line for each experiment, the best on top, darkest, and highest on the last axis."""
    results = np.array([float(row[METRIC]) for row in rows])
    best = (results - results.min()) / (np.ptp(results) or 1)
    values = np.linspace(results.min(), results.max(), 5)
    ticks = {place / 4: f"{value:.4f}" for place, value in enumerate(values)}
    axes_places = [*(positions([row[name] for row in rows]) for name in names), (best, ticks)]
    with drawing(path, 4.2) as figure:
        axes = figure.subplots()
        colours = mpl.colormaps["viridis"](1 - best)  # which ends in its lightest colour
        for number in np.argsort(best):
            # Side by side where they share a value of a parameter.
            beside = [SPREAD * (best[number] - 0.5)] * len(names) + [0.0]
            line = [places[number] for places, _ in axes_places] + np.array(beside)
            axes.plot(range(len(line)), line, color=colours[number], linewidth=2)
        for at, (_, labels) in enumerate(axes_places):
            axes.axvline(at, color=INK, linewidth=0.8)
            for place, label in labels.items():
                axes.annotate(
                    label, (at, place), xytext=(7, 0), textcoords="offset points", va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
                )  # fmt: skip
        labels_below = [".\n".join(name.rsplit(".", 1)) for name in (*names, METRIC)]
        axes.set_xticks(range(len(axes_places)), labels_below)
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(axes_places) - 0.75)
        for spine in axes.spines.values():
            spine.set_visible(False)


def main() -> int:
    """Ask DVC, draw, and report what was drawn."""
    command = ["dvc", "exp", "show", "--csv", "--no-pager"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if shown.returncode != 0:
            raise ValueError(f"dvc exp show failed: {shown.stderr.strip()}")
        names, rows = read_sweep(shown.stdout)
    except ValueError as error:
        print(f"sweep-picture: error: {error}", file=sys.stderr)
        return 1
    draw(PICTURE, names, rows)
    print(f"sweep-picture: {PICTURE}: {len(rows)} experiments, {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
