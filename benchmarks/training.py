"""An epoch of stage `train`, beside the bare matrix products and other ways to train the same."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, Table, rounds

# Peers that the pipeline's environment has not: benchmarks/requirements.in.
FOREIGN = "benchmarks/.venv/bin/python"
PRODUCTS = ("the matrix products, NumPy + OpenBLAS", "the matrix products, XLA + YNNPACK")
FLOOR = "floor: the faster of the two"  # round by round
KERAS = "Keras fit as the paper writes it"
STAGE = "stage train"
PEERS = {
    PRODUCTS[0]: (sys.executable, "floor", "numpy"),
    PRODUCTS[1]: (sys.executable, "floor", "xla"),
    STAGE: (sys.executable, "stage_train", "float32"),
    "stage train, precision: bfloat16": (sys.executable, "stage_train", "bfloat16"),
    "JAX, whole epoch by lax.scan": (FOREIGN, "jax_scan"),
    "NumPy by hand": (sys.executable, "by_hand"),
    "Keras fit, steps_per_execution=300": (sys.executable, "keras_fit", "300"),
    "PyTorch, plain loop": (FOREIGN, "pytorch_loop"),
    "scikit-learn MLPClassifier": (sys.executable, "scikit"),
    KERAS: (sys.executable, "keras_fit", "1"),
}
GOALS = {STAGE: 1.12}


class Peer:
    """A process of benchmarks/peers, which sleeps but for the epochs that it is asked for."""

    def __init__(self, python: str, module: str, *arguments: str) -> None:
        """Start it and wait until it has loaded everything.

        Raises:
            RuntimeError: it ended instead; the text has the last line that it printed.
        """
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.peers.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.library: str = self.answer()["library"]

    def answer(self) -> dict[str, Any]:
        """Read a line of the peer's."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().splitlines() or ["no reason given"]
            raise RuntimeError(said[-1])
        return dict(json.loads(line))

    def epoch(self) -> float:
        """Have it train an epoch; return its seconds."""
        if self.process.stdin:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        self.last = self.answer()
        return float(self.last["seconds"])

    def end(self) -> None:
        """End it: no more lines will come."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()


def measure(passes: int, epochs: int) -> list[Table]:
    """Start every peer anew in each pass, and have them take turns.

    Args:
        passes: how often all processes are started.
        epochs: in a pass, after the first, which compiles.

    Returns:
        Two tables: steady epochs, and what the first one takes beyond a steady one.

    Raises:
        RuntimeError: a peer failed that needs nothing but the pipeline's environment.
    """
    steady: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    learnt: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for _ in range(passes):
        peers: dict[str, Peer] = {}
        for name, (python, *command) in PEERS.items():
            try:
                peers[name] = Peer(python, *command)
            except (RuntimeError, OSError) as error:
                if python != FOREIGN:
                    raise RuntimeError(f"{name}: {error}") from None
                left_out[name] = f"{name}: left out: {error}"
        runs = {name: peer.epoch for name, peer in peers.items()}
        starts = rounds(runs, 1)
        for name, values in rounds(runs, epochs).items():
            steady.setdefault(name, []).extend(values)
            first.setdefault(name, []).append(starts[name][0] - statistics.median(values))
        for name, peer in peers.items():
            learnt[name] = describe(peer)
            peer.end()
    notes = [
        "60,000 images in 300 steps, batch 200, SGD 0.01; shuffling, loss and accuracy included",
        f"after {1 + epochs} epochs:",
        *(f"  {name}: {says}" for name, says in learnt.items()),
        *left_out.values(),
    ]
    title = f"Training: a steady epoch; {passes} starts, {epochs} rounds each"
    floor = list(map(min, *(steady[name] for name in PRODUCTS)))
    rows = [Row(name, values, FLOOR, GOALS.get(name)) for name, values in steady.items()]
    rows.insert(len(PRODUCTS), Row(FLOOR, floor, FLOOR))
    extra = [Row(name, values) for name, values in first.items()]
    return [
        Table(title, "s", rows, notes),
        Table("Training: what the first epoch takes beyond a steady one", "s", extra),
    ]


def describe(peer: Peer) -> str:
    """Say what a peer is made of and how far it got."""
    figures = [
        f"{key} {value:.4f}"
        for key, value in peer.last.items()
        if key != "seconds" and value is not None
    ]
    return ", ".join([peer.library, *figures])


def missing() -> list[Path]:
    """List the prepared files that are not there."""
    paths = [Path(f"data/prepared/train_{what}.npy") for what in ("images", "labels")]
    return [path for path in paths if not path.exists()]
