"""Draw experiments as parallel coordinates: `make sweep-picture`, or `… METRIC=validation_loss`.

reads   `dvc exp show --csv`       every experiment of this commit
writes  docs/sweep.png             an axis for each parameter that differs, one for the metric

DVC's own (`dvc exp show --pcp`) is a page whose script comes from the network.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from fashion_mlp.pictures.style import DPI, INK, STYLE, WIDTH
from pipeline.files import replacing

PICTURE = Path("docs/sweep.png")
METRIC = "validation_accuracy"
SPREAD = 0.08  # of an axis, for the experiments that share a value
SECTIONS = ("dataset.", "fetch.", "preprocess.", "train.", "evaluate.", "export.")


def read_sweep(text: str, metric: str) -> tuple[list[str], list[dict[str, str]]]:
    """Read what `dvc exp show --csv` prints.

    Returns:
        The parameters that differ between experiments, and the experiments that have the metric.

    Raises:
        ValueError: there are not two that have it and differ in a parameter.
    """
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["typ"] != "baseline"]
    rows = [row for row in rows if row.get(metric)]
    names = list(rows[0]) if rows else []
    differing = [
        name for name in names if name.startswith(SECTIONS) and len({row[name] for row in rows}) > 1
    ]
    if not differing:
        raise ValueError(
            f"expected two experiments or more with {metric} and other parameters, "
            f"got {len(rows)}; docs/experiments.md says how to run some"
        )
    return differing, rows


def positions(values: list[str]) -> tuple[np.ndarray, dict[float, str]]:
    """Spread the distinct values of a parameter over an axis from 0 to 1.

    Returns:
        The place of each value, float64 (n,), and the labels of the axis by their place.
    """
    try:
        distinct = sorted(set(values), key=float)
    except ValueError:
        distinct = sorted(set(values))  # names
    places = dict(zip(distinct, np.linspace(0, 1, len(distinct)), strict=True))
    labels = {float(place): value for value, place in places.items()}
    return np.array([places[value] for value in values]), labels


def draw(path: Path, names: list[str], rows: list[dict[str, str]], metric: str) -> None:
    """Draw one line an experiment, in the colour of its metric."""
    results = np.array([float(row[metric]) for row in rows])
    low, high = results.min(), results.max()
    scaled = (results - low) / ((high - low) or 1)
    axes_places = [positions([row[name] for row in rows]) for name in names]
    ticks = {float(place): f"{low + place * (high - low):.4f}" for place in np.linspace(0, 1, 5)}
    axes_places.append((scaled, ticks))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        colours = mpl.colormaps["viridis"](1 - scaled)
        for number in np.argsort(scaled):
            # Beside each other where they share a value, the best on top.
            beside = [SPREAD * (scaled[number] - 0.5)] * len(names) + [0.0]
            line = [places[number] for places, _ in axes_places] + np.array(beside)
            axes.plot(range(len(line)), line, color=colours[number], linewidth=2)
        for at, (_, labels) in enumerate(axes_places):
            axes.axvline(at, color=INK, linewidth=0.8)
            for place, label in labels.items():
                axes.annotate(
                    label, (at, place), xytext=(7, 0), textcoords="offset points", va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
                )  # fmt: skip
        axes.set_xticks(range(len(axes_places)), [*names, metric])
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(axes_places) - 0.75)
        for spine in axes.spines.values():
            spine.set_visible(False)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def main() -> int:
    """Ask DVC, draw, say what was drawn."""
    metric = sys.argv[1] if len(sys.argv) > 1 else METRIC
    command = ["dvc", "exp", "show", "--csv", "--no-pager"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if shown.returncode != 0:
            raise ValueError(f"dvc exp show failed: {shown.stderr.strip()}")
        names, rows = read_sweep(shown.stdout, metric)
    except ValueError as error:
        print(f"sweep-picture: error: {error}", file=sys.stderr)
        return 1
    draw(PICTURE, names, rows, metric)
    print(f"sweep-picture: {PICTURE}: {len(rows)} experiments, {', '.join(names)}, {metric}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
