"""Time an epoch of stage `train` against Keras' `fit` as the paper writes it: `make bench`.

Both train the paper's network on the prepared data in this process, in turn, so that a noisy
machine hurts both alike; the ratio is taken pair by pair. The first epoch, which compiles, is
reported apart.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from checks.repro import processor
from fashion_mlp import engine
from fashion_mlp.dataset import Split, load_split
from fashion_mlp.params import load_params
from stages.train import learn, make_optimizer, network_shape

ROUNDS = 5
EPOCHS = 4  # a round, the first of which is not steady


def main() -> int:
    """Run the pairs and print the table."""
    params = load_params()
    train = params.train.model_copy(update={"epochs": EPOCHS})
    split = load_split("train", params.dataset.pixels, len(params.dataset.classes.en))
    split = Split(split.images[:], split.labels[:])
    nothing = Split(split.images[:0], split.labels[:0])
    engine.start()

    import keras
    import tensorflow as tf

    from fashion_mlp.network import build_network

    class Clock(keras.callbacks.Callback):
        """Keeps the seconds of each epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            """Start the watch."""
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            """Stop it."""
            self.seconds.append(time.perf_counter() - self.start)

    def paper(clock: Clock) -> None:
        network = build_network(*network_shape(train, split))
        network.compile(
            loss=train.loss,
            optimizer=make_optimizer(train.optimizer),
            metrics=["accuracy"],
            jit_compile=False,
        )
        network.fit(*split, train.batch_size, EPOCHS, verbose=0, callbacks=[clock])

    def stage(clock: Clock) -> None:
        learn(train, split, nothing, [clock])

    def seconds(run: Callable[[Clock], None]) -> tuple[float, float]:
        run(clock := Clock())
        first, *rest = clock.seconds
        return first, statistics.median(rest)

    pairs = [(seconds(paper), seconds(stage)) for _ in range(ROUNDS)]
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    print(f"{processor()}, {os.cpu_count()} cores, {versions}, {ROUNDS} pairs")
    for name, runs in (
        ("Keras fit as the paper writes it", [theirs for theirs, _ in pairs]),
        ("stage train", [ours for _, ours in pairs]),
    ):
        first, rest = ([run[i] for run in runs] for i in (0, 1))
        print(
            f"{name:34s} first epoch {statistics.median(first):.2f} s, then "
            f"{statistics.median(rest):.2f} s ({min(rest):.2f} to {max(rest):.2f})"
        )
    ratios = [ours[1] / theirs[1] for theirs, ours in pairs]
    print(
        f"ratio, median of pairs: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
