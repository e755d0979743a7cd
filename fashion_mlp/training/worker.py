"""Runs as an additional training worker: `TF_CONFIG=... python -m fashion_mlp.training.worker`.

reads   params.yaml, data/prepared/{train,validation}_{images,labels}.npy: the chief's, bit for bit
writes  nothing: model, metrics and checkpoints are the chief's

Not a stage: DVC does not run it, and it takes no lock, so that it may share a folder with the
chief. See docs/workers.md.
"""

from __future__ import annotations

from fashion_mlp.data.arrays import load_split
from fashion_mlp.network import engine
from pipeline.checkpoint import Checkpoint, identity
from pipeline.console import run
from pipeline.params import load_params


def main() -> None:
    """Train with the others and forget the result.

    Raises:
        KeyboardInterrupt: someone interrupted it; the text says what to do.
    """
    params = load_params()
    pixels, classes = params.dataset.pixels, params.dataset.classes
    split = load_split("train", pixels, classes)
    validation = load_split("validation", pixels, classes)
    engine.start(params.train.device)

    from fashion_mlp.training.loop import fit
    from fashion_mlp.training.workers import join

    try:
        workers = join(chief=False, count=params.train.workers)
        nothing = Checkpoint(None, identity(params.model_dump()))
        fit(params.train, split, validation, params.dataset.image_shape, nothing, workers)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("start it again together with the others") from None


if __name__ == "__main__":
    run(main)
