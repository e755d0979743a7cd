"""train: the paper's network, trained as the paper trains it.

reads   data/prepared/{train,validation}_{images,labels}.npy
writes  models/fashion_mlp.keras   the trained network; keras.models.load_model opens it
        metrics/train.json         train_loss, train_accuracy: the last epoch of the log
        plots/history.csv          the log: epoch, loss, accuracy (and validation_…, if held out)
keeps   .run/checkpoint            after each epoch, what a killed run resumes from; none at the end
obeys   TF_CONFIG                  the other workers, where there are some (docs/workers.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fashion_mlp.data.arrays import Split, load_split
from fashion_mlp.formats import DIGITS, write_csv, write_json
from fashion_mlp.network import engine
from fashion_mlp.paths import HISTORY, MODEL
from pipeline.checkpoint import Checkpoint, History, identity
from pipeline.console import progress, run
from pipeline.params import Train, load_params

if TYPE_CHECKING:
    import keras

    from fashion_mlp.network.model import Layer
    from fashion_mlp.training.workers import Workers

METRICS = Path("metrics/train.json")
CHECKPOINT = Path(".run/checkpoint")


def train(
    params: Train,
    split: Split,
    validation: Split,
    image_shape: tuple[int, int],
    checkpoint: Checkpoint,
    workers: Workers | None,
) -> tuple[list[Layer], History]:
    """Train with progress shown; see `fashion_mlp.training.loop.fit`.

    Raises:
        KeyboardInterrupt: someone interrupted it; the text says where training resumes.
    """
    from fashion_mlp.training.loop import fit

    bar = progress("train", params.epochs, "epochs", checkpoint.epochs)

    def show(logs: Mapping[str, float]) -> None:
        bar.set_postfix({key: f"{value:.4f}" for key, value in logs.items()}, refresh=False)
        bar.update()

    try:
        return fit(params, split, validation, image_shape, checkpoint, workers, show)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"`make` goes on with epoch {checkpoint.epochs + 1}") from None
    finally:
        bar.close()


def compile_network(network: keras.Model, params: Train) -> None:
    """Compile the trained network, as whoever loads it expects it to be."""
    from fashion_mlp.training.optimizer import make_optimizer

    optimizer = make_optimizer(params.optimizer.class_name, params.optimizer.config.model_dump())
    optimizer.build(network.trainable_variables)  # or Keras warns when it loads the file
    network.compile(loss=params.loss, optimizer=optimizer, metrics=["accuracy"])


def main() -> None:
    params = load_params()
    pixels, classes = params.dataset.pixels, params.dataset.classes
    split = load_split("train", pixels, classes)
    validation = load_split("validation", pixels, classes)
    engine.start(params.train.device)

    from fashion_mlp.network.model import build_network, save_network, set_layers
    from fashion_mlp.training.workers import asked, join

    workers = join(chief=True) if asked() else None
    of = identity(params.train.model_dump(), workers.count if workers else 1)
    checkpoint = Checkpoint(CHECKPOINT, of)
    network = build_network(pixels, params.train.hidden_units, params.train.activation, classes)
    network.summary()
    shape = params.dataset.image_shape
    layers, history = train(params.train, split, validation, shape, checkpoint, workers)
    last = {
        name if name.startswith("validation") else f"train_{name}": round(values[-1], DIGITS)
        for name, values in history.items()
    }
    set_layers(network, layers)
    compile_network(network, params.train)
    save_network(network, MODEL)
    epochs = range(1, params.train.epochs + 1)
    write_csv(HISTORY, ["epoch", *history], zip(epochs, *history.values(), strict=True))
    write_json(METRICS, last)
    checkpoint.remove()
    print("train: " + ", ".join(f"{key} {value:.4f}" for key, value in last.items()))


if __name__ == "__main__":
    run(main)
