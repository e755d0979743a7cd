"""Stage `train` with the paper's parameters; an argument is train.precision."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from benchmarks.baselines.turns import Turns, load
from fashion_mlp.data.arrays import Split
from fashion_mlp.network import engine
from pipeline.params import Train


class EndOfTurns(Exception):  # noqa: N818  # no error
    """No further epoch is asked for."""


def main() -> None:
    """Take turns."""
    engine.start()
    import keras
    import tensorflow as tf

    from fashion_mlp.training.loop import fit

    split = Split(*load())
    turns = Turns(f"Keras {keras.__version__}, TensorFlow {tf.__version__}")

    def next_turn(logs: Mapping[str, float]) -> None:
        turns.done(logs["loss"], logs["accuracy"])
        if not turns.wait():
            raise EndOfTurns

    if turns.wait():
        params = Train.model_validate({"precision": sys.argv[1], "epochs": 1_000_000})
        none = Split(split.images[:0], split.labels[:0])
        image_shape = (1, split.images.shape[1])  # read by augmentation alone
        try:
            fit(params, split, none, image_shape, on_epoch=next_turn)
        except EndOfTurns:
            return


if __name__ == "__main__":
    main()
