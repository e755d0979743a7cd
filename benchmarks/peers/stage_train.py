"""Stage `train` as params.yaml has it; an argument is train.precision."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.peers.turns import CLASSES, PIXELS, Turns
from fashion_mlp.network import engine
from fashion_mlp.data.arrays import Split, load_split
from pipeline.params import load_params
from stages.train import learn


def main() -> None:
    """Take turns."""
    changes = {"precision": sys.argv[1], "epochs": sys.maxsize}
    params = load_params().train.model_copy(update=changes)
    engine.start()
    import keras
    import tensorflow as tf

    split = load_split("train", PIXELS, CLASSES)
    turns = Turns(f"Keras {keras.__version__}, TensorFlow {tf.__version__}")

    class NextTurn(keras.callbacks.Callback):
        """Waits between epochs."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            """Say what came out, and wait."""
            turns.done(logs["loss"], logs["accuracy"])
            self.model.stop_training = not turns.wait()

    if turns.wait():
        learn(params, split, Split(split.images[:0], split.labels[:0]), [NextTurn()])


if __name__ == "__main__":
    main()
