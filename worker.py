"""worker: takes part in stage train of another machine: `TF_CONFIG=... python -m worker`.

reads   params.yaml, data/prepared/{train,validation}_{images,labels}.npy: the chief's, bit for bit
writes  nothing: model, metrics and restart points are the chief's

Not a stage: DVC does not run it, and it takes no lock, so that it may share a folder with the
chief. See docs/workers.md.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from fashion_mlp.training import workers as cluster
from pipeline.console import run
from fashion_mlp.data.arrays import load_split, prepared_path
from pipeline.params import load_params
from fashion_mlp.training.checkpoint import Restart, identity
from stages import train

NOWHERE = Path(".run/worker.npz")  # the chief alone reads and writes a restart point


def main() -> None:
    """Train with the others and forget the result.

    Raises:
        KeyboardInterrupt: someone interrupted it; the text says what to do.
    """
    try:
        take_part()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("start it again together with the others") from None


def take_part() -> None:
    """Read what the chief reads too, and train with it."""
    params = load_params()
    pixels, classes = params.dataset.pixels, len(params.dataset.classes.en)
    split = load_split("train", pixels, classes)
    validation = load_split("validation", pixels, classes)
    cluster.join(params.train, chief=False)
    data = [prepared_path(*of) for of in product(("train", "validation"), ("images", "labels"))]
    same = identity(params.train.model_dump(), data, [Path(train.__file__)])
    train.learn(params.train, split, validation, [], Restart(NOWHERE, same))


if __name__ == "__main__":
    run(main)
