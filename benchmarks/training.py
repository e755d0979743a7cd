"""An epoch of stage `train`, beside the bare matrix products and other ways to train the same."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.measure import Row, Table, rounds

# The environment of the baselines that the pipeline's lacks: benchmarks/requirements.in.
OTHER = "benchmarks/.venv/bin/python"
PRODUCTS = {  # their name, and their library in `lower_bound`
    "matrix products, NumPy + OpenBLAS": "numpy",
    "matrix products, XLA + YNNPACK": "xla",
    "matrix products, TensorFlow + oneDNN": "onednn",
}
LOWER_BOUND = "lower bound: the fastest of them"  # in each round
STAGE = "stage train"
# Python, and the module of benchmarks/baselines with its arguments.
BASELINES = {
    **{name: (sys.executable, "lower_bound", library) for name, library in PRODUCTS.items()},
    STAGE: (sys.executable, "stage_train", "float32"),
    "stage train, precision: bfloat16": (sys.executable, "stage_train", "bfloat16"),
    "JAX, whole epoch in lax.scan": (OTHER, "jax_scan"),
    "NumPy, written by hand": (sys.executable, "by_hand"),
    "Keras fit, 300 steps per execution": (sys.executable, "keras_fit", "300"),
    "PyTorch, plain loop": (OTHER, "pytorch_loop"),
    "scikit-learn MLPClassifier": (sys.executable, "scikit"),
    "Keras fit, as in the paper": (sys.executable, "keras_fit", "1"),
}
GOALS = {STAGE: 1.12}


class Baseline:
    """A process of benchmarks/baselines, which sleeps between the epochs that it is asked for."""

    def __init__(self, python: str, module: str, *arguments: str) -> None:
        """Start it and wait until it has loaded everything.

        Raises:
            RuntimeError: it ended instead; the text has the last line that it printed.
        """
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.baselines.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.library: str = self.answer()["library"]

    def answer(self) -> dict[str, Any]:
        """Read a line that the process writes."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.process.wait()
            self.errors.seek(0)
            printed = self.errors.read().splitlines() or ["no reason given"]
            raise RuntimeError(printed[-1])
        return dict(json.loads(line))

    def epoch(self) -> float:
        """Have it train an epoch; return its seconds."""
        if self.process.stdin:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        self.last = self.answer()
        return float(self.last["seconds"])

    def end(self) -> str:
        """End it; return its library, and loss and accuracy where it computes them."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()
        metrics = {key: self.last[key] for key in ("loss", "accuracy")}
        shown = (f"{key} {value:.4f}" for key, value in metrics.items() if value is not None)
        return ", ".join([self.library, *shown])


def measure(starts: int, epochs: int) -> list[Table]:
    """Start all baselines, and have them take turns.

    `epochs` come after the first one of each start, which compiles.

    Returns:
        Two tables: steady epochs, and the extra time of the first one.

    Raises:
        RuntimeError: a baseline failed that needs nothing but the pipeline's environment.
    """
    steady: dict[str, list[float]] = {}
    extra: dict[str, list[float]] = {}
    notes = {"": "60,000 images in 300 steps of 200, SGD 0.01; shuffling, loss, accuracy included"}
    for _ in range(starts):
        running: dict[str, Baseline] = {}
        for name, (python, *command) in BASELINES.items():
            try:
                running[name] = Baseline(python, *command)
            except (RuntimeError, OSError) as error:
                if python != OTHER:
                    raise RuntimeError(f"{name}: {error}") from None
                notes[name] = f"{name}: left out: {error}"
        runs = {name: baseline.epoch for name, baseline in running.items()}
        first = rounds(runs, 1)
        for name, values in rounds(runs, epochs).items():
            steady.setdefault(name, []).extend(values)
            extra.setdefault(name, []).append(first[name][0] - statistics.median(values))
        for name, baseline in running.items():
            notes[name] = f"{name}, after {1 + epochs} epochs: {baseline.end()}"
    rows = [Row(name, values, LOWER_BOUND, GOALS.get(name)) for name, values in steady.items()]
    lower_bound = list(map(min, *(steady[name] for name in PRODUCTS)))
    rows.insert(len(PRODUCTS), Row(LOWER_BOUND, lower_bound))
    title = f"Training: a steady epoch; {starts} starts of {epochs} rounds each"
    return [
        Table("training", title, "s", rows, list(notes.values())),
        Table(
            "first_epoch",
            "Training: extra time of the first epoch",
            "s",
            [Row(name, values) for name, values in extra.items()],
        ),
    ]
