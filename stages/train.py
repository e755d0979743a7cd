"""train: the paper's network, trained as the paper trains it.

reads   data/prepared/{train,validation}_{images,labels}.npy
writes  models/fashion_mlp.keras   the trained network; keras.models.load_model opens it
        metrics/train.json         train_loss, train_accuracy: the last epoch of the log
        plots/history.csv          the log so far, after each epoch: epoch, loss, accuracy, and
                                   validation_…, which stay empty where nothing is held out
keeps   .run/checkpoint            after each epoch, what a killed run resumes from; none at the end
obeys   TF_CONFIG                  the other workers, where there are some (docs/workers.md)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from fashion_mlp.data.arrays import Split, load_split
from fashion_mlp.formats import DIGITS, write_csv, write_json
from fashion_mlp.network import engine
from fashion_mlp.paths import HISTORY, MODEL
from pipeline.checkpoint import Checkpoint, History, identity
from pipeline.console import again, progress, run
from pipeline.files import replacing
from pipeline.guard import CHECKPOINT
from pipeline.params import Train, load_params

if TYPE_CHECKING:
    import keras

    from fashion_mlp.network.model import Layer
    from fashion_mlp.training.workers import Workers

METRICS = Path("metrics/train.json")
LOG = ("loss", "accuracy", "validation_loss", "validation_accuracy")  # columns of HISTORY
MOST_CLASSES = 26  # that a softmax adds up alike on x86 and ARM; of more, 47 were tried


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
        write_history(checkpoint.history)
        bar.set_postfix({key: f"{value:.4f}" for key, value in logs.items()}, refresh=False)
        bar.update()

    try:
        with kept(HISTORY):
            return fit(params, split, validation, image_shape, checkpoint, workers, show)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"`{again()}` goes on with epoch {checkpoint.epochs + 1}") from None
    finally:
        bar.close()


def write_history(history: History) -> None:
    """Write the log; DVC draws no plot of a column that is not there, so all always are."""
    epochs = range(1, len(history["loss"]) + 1)
    columns = [history.get(key, []) for key in LOG]
    write_csv(HISTORY, ["epoch", *LOG], zip_longest(epochs, *columns))


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Give a file back what it held before, or remove it, where something fails."""
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        if before is not None:
            with replacing(path) as temporary:
                temporary.write_bytes(before)
        raise


def own_bits(params: Train, images: int, classes: int) -> list[str]:
    """List the parameters for which other machines train to other bits, with how they do.

    docs/reproducibility.md says what is known of the causes.

    Args:
        params: the section `train`.
        images: how many are trained on.
        classes: how many there are.
    """
    from fashion_mlp.network.products import SMALL
    from fashion_mlp.training.optimizer import UNPORTABLE

    options = params.optimizer.config.model_dump()
    named = {"optimizer": params.optimizer.class_name} | options
    found = [
        f"{key} {value}"
        for key, value in named.items()
        if value and (key in UNPORTABLE or value in UNPORTABLE)
    ]
    found += ["precision bfloat16"] if params.precision == "bfloat16" else []
    found += ["device gpu"] if params.device == "gpu" else []
    size = params.batch_size
    small = min(size, images) < SMALL or 0 < images % size < SMALL
    found += [f"batch_size {size}"] if small else []
    return found + ([f"{classes} classes"] if classes > MOST_CLASSES else [])


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
    from fashion_mlp.training.workers import join

    workers = join(chief=True, count=params.train.workers)
    checkpoint = Checkpoint(CHECKPOINT, identity(params.model_dump()))
    network = build_network(pixels, params.train.hidden_units, params.train.activation, classes)
    network.summary()
    if reasons := own_bits(params.train, *split.labels.shape):
        print(
            f"train: with {', '.join(reasons)} the weights' last bits are this machine's own; "
            f"others agree in the first digits (docs/reproducibility.md)",
            file=sys.stderr,
        )
    shape = params.dataset.image_shape
    layers, history = train(params.train, split, validation, shape, checkpoint, workers)
    metrics = {f"train_{key}": round(history[key][-1], DIGITS) for key in LOG[:2]}
    held_out = {key: history[key][-1] for key in LOG[2:] if key in history}
    set_layers(network, layers)
    compile_network(network, params.train)
    save_network(network, MODEL)
    write_history(history)
    write_json(METRICS, metrics)
    checkpoint.remove()
    shown = ", ".join(f"{key} {value:.4f}" for key, value in (metrics | held_out).items())
    print(f"train: {shown}")


if __name__ == "__main__":
    run(main)
