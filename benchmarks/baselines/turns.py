"""How a baseline is timed: it trains an epoch for each line that it reads, and prints its seconds.

So the driver lets one after the other train an epoch, round by round, while the others sleep. All
of them read the prepared training set, shuffle it anew in each epoch, take steps of SGD with
batches of 200, and report the epoch's loss and accuracy. Imports NumPy alone, as some baselines
have an environment of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# The paper's training, whatever params.yaml holds.
HIDDEN = 800
BATCH = 200
RATE = 0.01


class Data(NamedTuple):
    """The training set: images float32 (n, pixels), one-hot labels float32 (n, classes)."""

    images: np.ndarray
    labels: np.ndarray


def load() -> Data:
    """Read the training set into memory."""
    paths = (f"data/prepared/train_{what}.npy" for what in Data._fields)
    return Data(*(np.load(path, allow_pickle=False) for path in paths))


class Turns:
    """One turn is one epoch."""

    def __init__(self, library: str) -> None:
        """Report that all is loaded; `library` is a name and a version."""
        print(json.dumps({"library": library}), flush=True)

    def wait(self) -> bool:
        """Sleep until the next epoch is asked for, and start the clock; False at the end."""
        asked = bool(sys.stdin.readline())
        self.start = time.perf_counter()
        return asked

    def done(self, loss: float | None, accuracy: float | None) -> None:
        """Stop the clock and report; None is what a baseline does not compute."""
        seconds = time.perf_counter() - self.start
        print(json.dumps({"seconds": seconds, "loss": loss, "accuracy": accuracy}), flush=True)

    def take(self, epoch: Callable[[], tuple[float | None, float | None]]) -> None:
        """Take turns to the end; `epoch` trains one and returns loss and accuracy."""
        while self.wait():
            self.done(*epoch())
