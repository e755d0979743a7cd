"""How a peer is timed: it trains an epoch for each line that it reads, and prints what it took.

So the driver can let one peer after the other train an epoch, round by round, while the others
sleep. Every peer reads the prepared training set, shuffles it anew in each epoch, takes 300 steps
of SGD with batches of 200, and says the epoch's loss and accuracy. It imports NumPy and nothing
else, as some peers live in an environment of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

from fashion_mlp.data.arrays import Split, load_split

PIXELS, HIDDEN, CLASSES = 784, 800, 10
BATCH = 200
RATE = 0.01


def load() -> Split:
    """Read the training images and labels into memory."""
    return Split(*map(np.array, load_split("train", PIXELS, CLASSES)))


class Turns:
    """One turn is one epoch."""

    def __init__(self, library: str) -> None:
        """Say that all is loaded; `library` is a name and a version."""
        print(json.dumps({"library": library}), flush=True)

    def wait(self) -> bool:
        """Sleep until asked for an epoch, and start the clock; False if none will come."""
        asked = bool(sys.stdin.readline())
        self.start = time.perf_counter()
        return asked

    def done(self, loss: float | None, accuracy: float | None) -> None:
        """Stop the clock and say what came out; None is what a peer does not compute."""
        seconds = time.perf_counter() - self.start
        figures = {"seconds": seconds, "loss": loss, "accuracy": accuracy}
        print(json.dumps(figures), flush=True)

    def take(self, epoch: Callable[[], tuple[float | None, float | None]]) -> None:
        """Take turns to the end; `epoch` trains one and gives loss and accuracy."""
        while self.wait():
            self.done(*epoch())
