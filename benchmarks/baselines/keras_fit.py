"""Keras' `fit` as the paper writes it; an argument is compile's steps_per_execution."""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.baselines.turns import BATCH, HIDDEN, RATE, Turns, load


def main() -> None:
    """Take turns."""
    os.environ.update({"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"})
    import keras
    import tensorflow as tf

    images, labels = load()
    network = keras.Sequential(
        [
            keras.Input((images.shape[1],)),
            keras.layers.Dense(HIDDEN, activation="relu"),
            keras.layers.Dense(labels.shape[1], activation="softmax"),
        ]
    )
    network.compile(
        loss="categorical_crossentropy",
        optimizer=keras.optimizers.SGD(RATE),
        metrics=["accuracy"],
        steps_per_execution=int(sys.argv[1]),
    )
    turns = Turns(f"Keras {keras.__version__}, TensorFlow {tf.__version__}")

    def next_turn(epoch: int, logs: dict[str, Any]) -> None:
        turns.done(logs["loss"], logs["accuracy"])
        network.stop_training = not turns.wait()

    if turns.wait():
        network.fit(
            images,
            labels,
            BATCH,
            epochs=sys.maxsize,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=next_turn)],
        )


if __name__ == "__main__":
    main()
