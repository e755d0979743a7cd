"""train: the paper's network, trained as the paper trains it.

reads   data/prepared/{train,validation}_{images,labels}.npy
writes  models/fashion_mlp.keras   the trained network; keras.models.load_model opens it
        metrics/train.json         train_loss, train_accuracy: the last epoch of the log
        plots/history.csv          the log: epoch, loss, accuracy (and val_…, if held out)
keeps   .run/train.npz             after each epoch, what a killed run goes on from; none at the end
obeys   TF_CONFIG                  the other workers, where there are some (fashion_mlp/cluster.py)

The loss and the accuracy of an epoch are means over its batches while the weights still move,
as Keras' log and the paper's have them.
"""

from __future__ import annotations

import csv
import io
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_mlp.training import workers as cluster
from fashion_mlp.network import engine
from pipeline.console import progress, run
from fashion_mlp.data.arrays import Split, load_split, prepared_path
from pipeline.files import write_json, write_text
from pipeline.params import Optimizer, Train, load_params
from fashion_mlp.training.checkpoint import History, Restart, identity

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

MODEL = Path("models/fashion_mlp.keras")
METRICS = Path("metrics/train.json")
HISTORY = Path("plots/history.csv")
RESTART = Path(".run/train.npz")
# Images that take more than this share of memory are read from their file, batch by batch.
MEMORY_SHARE = 0.4
MEMORY_LIMITS = (resource.RLIMIT_DATA, resource.RLIMIT_AS)
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # version 2; a container's own
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # version 1
)
PIXEL_NOISE = 0.1  # of a pixel's 0…1; chosen on validation images (docs/accuracy.md)
CHUNK = 10_000  # images read at a time
DIGITS = 6  # of a loss or an accuracy; float32 carries no more


def train(
    params: Train, split: Split, validation: Split, restart: Restart, image_shape: tuple[int, int]
) -> tuple[keras.Sequential, History]:
    """Build and train the network.

    Args:
        params: the section `train` of params.yaml.
        split: images float32 (n, pixels) and one-hot labels float32 (n, classes) to learn from.
        validation: the same, to measure after each epoch; may be empty.
        restart: the point to go on from, if there is one, and to write after each epoch.
        image_shape: height and width of an image, in pixels.

    Returns:
        The trained network, compiled, and Keras' history: a list of values by metric.

    Raises:
        KeyboardInterrupt: someone interrupted it; the text says where training goes on.
    """
    from fashion_mlp.network.model import build_network, learnt_weights

    network = build_network(*network_shape(params, split))
    network.summary()
    callbacks = [epoch_progress(params.epochs, restart.epochs)]
    try:
        learner, history = learn(params, split, validation, callbacks, restart, image_shape)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"`make` goes on with epoch {restart.epochs + 1}") from None
    network.set_weights(learnt_weights(learner))
    network.compile(
        loss=params.loss, optimizer=make_optimizer(params.optimizer), metrics=["accuracy"]
    )
    network.optimizer.build(network.trainable_variables)  # or Keras warns when it loads the file
    return network, history


def network_shape(params: Train, split: Split) -> tuple[int, int, str, int]:
    """List what `build_network` needs: pixels, hidden units, activation, classes."""
    return split.images.shape[1], params.hidden_units, params.activation, split.labels.shape[1]


def learn(
    params: Train,
    split: Split,
    validation: Split,
    callbacks: list[keras.callbacks.Callback],
    restart: Restart | None = None,
    image_shape: tuple[int, int] = (0, 0),
) -> tuple[keras.Sequential, History]:
    """Train a network whose weights have the same bits on every processor.

    Args:
        params: as in `train`.
        split: as in `train`.
        validation: as in `train`.
        callbacks: as Keras' `fit` takes them.
        restart: as in `train`; None starts from nothing and keeps nothing.
        image_shape: as in `train`; params.flip and params.warp need it.

    Returns:
        The network that learnt, see `build_learner`, and Keras' history.
    """
    import keras

    from fashion_mlp.network.model import Augmentation, Trainer, build_learner, tables_per_epoch

    keras.utils.set_random_seed(params.seed)
    moments = pixel_moments(split.images) if params.standardize else None
    build = partial(build_learner, *network_shape(params, split), params.precision, moments)
    steps = params.epochs * -(-len(split.images) // params.batch_size)
    optimizer = partial(make_optimizer, params.optimizer, steps)
    if cluster.asked():
        return cluster.learn(params, split, validation, callbacks, restart, build, optimizer)
    learner = build(params.dropout, params.seed)
    augmentation = None
    if params.flip or params.mixup or params.warp:
        augmentation = Augmentation(
            params.seed, image_shape, params.flip, params.mixup, params.warp
        )
    resident = split.images.nbytes <= MEMORY_SHARE * memory_limit()
    trainer = Trainer(learner, split if resident else None, augmentation)
    batching = (len(split.images), params.batch_size, params.steps_per_execution)
    trainer.compile(
        loss=params.loss,
        optimizer=optimizer(),
        metrics=["accuracy"],
        jit_compile=True,
    )
    trainer.make_variables()
    done = 0
    if restart:
        restart.restore(trainer)
        callbacks = [*callbacks, restart.callback(trainer)]
        done = restart.epochs
    history = trainer.fit(
        tables(split, resident, *batching[1:], params.seed, done),
        steps_per_epoch=tables_per_epoch(*batching),
        epochs=params.epochs,
        initial_epoch=done,
        shuffle=False,  # the tables are shuffled already
        validation_data=tuple(validation) if len(validation.images) else None,
        validation_batch_size=1000,
        callbacks=callbacks,
        verbose=0,
    )
    return learner, restart.history if restart else history.history


def tables(
    split: Split,
    resident: bool,
    batch_size: int,
    steps_per_execution: int,
    seed: int,
    first_epoch: int,
) -> tf.data.Dataset:
    """Make the tables of batches that `Trainer` takes, of numbers or of images, without end."""
    import tensorflow as tf

    from fashion_mlp.network.model import shuffled_batches

    def numbers() -> Iterator[np.ndarray]:
        return shuffled_batches(
            len(split.images), batch_size, steps_per_execution, seed, first_epoch
        )

    if resident:
        made = tf.data.Dataset.from_generator(
            numbers, output_signature=tf.TensorSpec((None, None), tf.int32)
        )
    else:
        made = tf.data.Dataset.from_generator(
            lambda: ((split.images[table], split.labels[table]) for table in numbers()),
            output_signature=tuple(
                tf.TensorSpec((None, None, array.shape[1]), tf.float32) for array in split
            ),
        ).prefetch(1)
    options = tf.data.Options()
    # There is nothing to tune, and the end of training would wait for the tuner to wake up: 2 s.
    options.autotune.enabled = False
    return made.with_options(options)


def memory_limit() -> int:
    """Say how many bytes this process may use: the machine's, or less where a limit is set."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [soft for soft, _ in map(resource.getrlimit, MEMORY_LIMITS) if soft >= 0]
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such group, or the word `max`
            limits.append(int(path.read_text()))
    return min(limits)


def pixel_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute each pixel's mean and variance over float32 (n, pixels).

    Returns:
        float32 (pixels,) twice. The variance is that of the pixel plus `PIXEL_NOISE`'s, or pixels
        that are nearly always empty would count more than any other.
    """
    total = np.zeros((2, images.shape[1]))
    for first in range(0, len(images), CHUNK):
        chunk = images[first : first + CHUNK].astype(np.float64)
        total += chunk.sum(axis=0), (chunk**2).sum(axis=0)
    mean, square = total / len(images)
    return mean.astype(np.float32), (square - mean**2 + PIXEL_NOISE**2).astype(np.float32)


def make_optimizer(optimizer: Optimizer, steps: int | None = None) -> keras.optimizers.Optimizer:
    """Make the Keras optimizer that params.yaml names, with the options that are set there.

    Args:
        optimizer: the section `train.optimizer`.
        steps: of the whole training, for a schedule; None leaves the learning rate constant.
    """
    import keras

    options: dict[str, Any] = dict(optimizer.options)
    if steps and optimizer.schedule == "cosine":
        options["learning_rate"] = keras.optimizers.schedules.CosineDecay(
            optimizer.learning_rate, steps
        )
    # Named, as Keras would count the optimizers of the process, and the file would say so.
    return getattr(keras.optimizers, optimizer.name)(**options, name=optimizer.name)


def epoch_progress(epochs: int, done: int) -> keras.callbacks.Callback:
    """Make a callback that shows epochs done, loss, accuracy and the time left."""
    import keras

    bar = progress("train", epochs, "epochs", done)

    def show(epoch: int, logs: dict[str, Any]) -> None:
        bar.set_postfix({key: f"{value:.4f}" for key, value in logs.items()}, refresh=False)
        bar.update()

    return keras.callbacks.LambdaCallback(on_epoch_end=show, on_train_end=lambda logs: bar.close())


def history_csv(history: History) -> str:
    """Write Keras' history as CSV: a line an epoch, numbered from 1."""
    columns = [key for key in ("loss", "accuracy", "val_loss", "val_accuracy") if key in history]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *columns])
    for epoch, values in enumerate(zip(*(history[key] for key in columns), strict=True), start=1):
        writer.writerow([epoch, *(f"{value:.{DIGITS}f}" for value in values)])
    return text.getvalue()


def metrics(history: History) -> dict[str, float]:
    """Name the last epoch's figures: train_loss, train_accuracy (and validation_…)."""
    names = {
        "loss": "train_loss",
        "accuracy": "train_accuracy",
        "val_loss": "validation_loss",
        "val_accuracy": "validation_accuracy",
    }
    return {
        name: round(float(history[key][-1]), DIGITS)
        for key, name in names.items()
        if key in history
    }


def main() -> None:
    params = load_params()
    pixels, classes = params.dataset.pixels, len(params.dataset.classes.en)
    split = load_split("train", pixels, classes)
    validation = load_split("validation", pixels, classes)
    if cluster.asked():
        cluster.join(params.train, chief=True)
    engine.start()
    data = [prepared_path(*of) for of in product(("train", "validation"), ("images", "labels"))]
    restart = Restart(RESTART, identity(params.train.model_dump(), data, [Path(__file__)]))
    network, history = train(params.train, split, validation, restart, params.dataset.image_shape)
    figures = metrics(history)

    from fashion_mlp.network.model import save_network

    save_network(network, MODEL)
    write_text(HISTORY, history_csv(history))
    write_json(METRICS, figures)
    restart.remove()
    print("train: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


if __name__ == "__main__":
    run(main)
