"""The paper's network in Keras: built, trained, saved and read.

Import it after `engine.start()`, which settles how TensorFlow computes.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fashion_mlp.data.arrays import Split
from pipeline.files import replacing

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that the zip format can state


def portable_matmul(inputs: tf.Tensor, kernel: tf.Tensor, precision: str) -> tf.Tensor:
    """Multiply as `tf.matmul` does, with gradients that are plain products too.

    TensorFlow's own gradient asks for a product with its left side transposed, which XLA gives
    to another library, whose order of adding depends on the processor and on the threads. Here
    the transposition is an operation of its own. (Not of `upstream`, which is smaller: products
    of fewer than 64 rows are added up in an order that depends on the threads.)

    Args:
        inputs: float32 (batch, n).
        kernel: float32 (n, units).
        precision: float32, or bfloat16: the factors are rounded to it, the sums are float32.

    Returns:
        float32 (batch, units).
    """

    def product(left: tf.Tensor, right: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
        left, right = (tf.cast(factor, precision) for factor in (left, right))
        return tf.raw_ops.BatchMatMulV3(x=left, y=right, Tout=inputs.dtype, adj_y=transpose_b)

    @tf.custom_gradient
    def multiply(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_inputs = product(upstream, kernel, transpose_b=True)
            by_kernel = product(tf.transpose(inputs), upstream)
            return by_inputs, by_kernel

        return product(inputs, kernel), gradients

    return multiply(inputs, kernel)


class PortableDense(keras.layers.Dense):
    """`Dense` whose weight gradient has the same bits on every processor."""

    def __init__(self, *args: Any, precision: str = "float32", **options: Any) -> None:
        """Take what `Dense` takes, and the `precision` of `portable_matmul`'s factors."""
        super().__init__(*args, **options)
        self.precision = precision

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float32 (batch, n) to (batch, units)."""
        kernel = tf.convert_to_tensor(self.kernel)
        return self.activation(portable_matmul(inputs, kernel, self.precision) + self.bias)


class Dropout(keras.layers.Layer):
    """`keras.layers.Dropout`, with random numbers that XLA draws quickly on a processor.

    With Keras' own, an epoch of the paper's took six times as long as without dropout.
    """

    def __init__(self, rate: float, seed: int) -> None:
        """Leave out a share `rate` of the inputs; what is drawn depends on `seed` and the step."""
        super().__init__(name="dropout")
        self.rate = rate
        self.seed = seed
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step"
        )

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float32 (batch, units) to the same shape."""
        if not training:
            return inputs
        self.step.assign_add(1)
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.step)])
        drawn = tf.random.stateless_uniform(tf.shape(inputs), seed, alg="threefry")
        return tf.where(drawn >= self.rate, inputs / (1 - self.rate), 0.0)


def build_network(
    pixels: int,
    hidden_units: int,
    activation: str,
    classes: int,
    dense: Callable[..., keras.layers.Dense] = keras.layers.Dense,
) -> keras.Sequential:
    """Build the paper's network: pixels -> hidden units -> classes.

    Args:
        pixels: values in one image, 784 in the paper.
        hidden_units: 800 in the paper.
        activation: of the hidden layer, relu in the paper.
        classes: outputs, through softmax, 10 in the paper.
        dense: the layers' class, where training needs its own.
    """
    return keras.Sequential(
        [
            keras.Input((pixels,), name="image"),
            dense(hidden_units, activation=activation, name="hidden"),
            dense(classes, activation="softmax", name="probabilities"),
        ],
        name="fashion_mlp",
    )


def build_learner(
    pixels: int,
    hidden_units: int,
    activation: str,
    classes: int,
    precision: str = "float32",
    moments: tuple[np.ndarray, np.ndarray] | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> keras.Sequential:
    """Build the network as it learns: `build_network`'s layers, and what only training has.

    Args:
        pixels: as in `build_network`.
        hidden_units: as in `build_network`.
        activation: as in `build_network`.
        classes: as in `build_network`.
        precision: of the matrix products' factors, see `portable_matmul`.
        moments: each pixel's mean and variance, float32 (pixels,), where it is to learn from
            standardized pixels; see `learnt_weights`.
        dropout: share of the hidden units left out.
        seed: of what dropout draws.
    """
    dense = partial(PortableDense, precision=precision)
    network = build_network(pixels, hidden_units, activation, classes, dense)
    inputs, (hidden, probabilities) = network.inputs[0], network.layers
    layers = [hidden, probabilities]
    if moments:
        mean, variance = moments
        layers.insert(0, keras.layers.Normalization(mean=mean, variance=variance))
    if dropout:
        layers.insert(-1, Dropout(dropout, seed))
    return keras.Sequential([keras.Input(inputs.shape[1:], name=inputs.name), *layers])


def learnt_weights(learner: keras.Sequential) -> list[np.ndarray]:
    """Take the weights for `build_network` from a learner: both compute the same function.

    Standardizing, x -> (x - mean) / deviation, is linear, and becomes part of the first layer.

    Returns:
        float32 arrays, as `Model.get_weights` lists them: (pixels, hidden units), (hidden
        units,), (hidden units, classes), (classes,).
    """
    kernel, bias, *rest = (np.asarray(variable) for variable in learner.trainable_variables)
    first = learner.layers[0]
    if isinstance(first, keras.layers.Normalization):
        mean = np.asarray(first.mean, np.float64)[0]
        deviation = np.sqrt(np.maximum(np.asarray(first.variance, np.float64)[0], 1e-14))
        folded = kernel / deviation[:, np.newaxis]
        kernel, bias = folded.astype(np.float32), (bias - mean @ folded).astype(np.float32)
    return [kernel, bias, *rest]


def resample(
    images: tf.Tensor, image_shape: tuple[int, int], matrix: tf.Tensor, offset: tf.Tensor
) -> tf.Tensor:
    """Fill each pixel from where a linear map of its place points: between four, by their nearness.

    Places are (row, column) from the middle of the image, in pixels; outside of it all is 0.

    Args:
        images: float32 (batch, pixels).
        image_shape: height and width.
        matrix: float32 (batch, 2, 2), of each image's map.
        offset: float32 (batch, 2), pixels.

    Returns:
        float32 (batch, pixels).
    """
    height, width = image_shape
    middle = np.array([[height - 1], [width - 1]], np.float32) / 2
    rows, columns = np.indices(image_shape).reshape(2, -1).astype(np.float32) - middle
    down, right = (
        matrix[:, axis, :1] * rows
        + matrix[:, axis, 1:] * columns
        + (offset[:, axis, tf.newaxis] + middle[axis])
        for axis in (0, 1)
    )
    padded = tf.pad(tf.reshape(images, (-1, height, width)), ((0, 0), (1, 1), (1, 1)))
    padded = tf.reshape(padded, (-1, (height + 2) * (width + 2)))

    def pixel(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        row, column = tf.clip_by_value(row, -1, height), tf.clip_by_value(column, -1, width)
        place = (row + 1) * (width + 2) + column + 1
        return tf.gather(padded, tf.cast(place, tf.int32), batch_dims=1)

    top, left = tf.floor(down), tf.floor(right)
    down, right = down - top, right - left
    upper = (1 - right) * pixel(top, left) + right * pixel(top, left + 1)
    lower = (1 - right) * pixel(top + 1, left) + right * pixel(top + 1, left + 1)
    return (1 - down) * upper + down * lower


class Augmentation:
    """What training does to each batch anew: mirror and warp images, blend some with others.

    What it draws depends on the seed and the number of the step alone, so that a training run
    that was killed goes on with what it would have drawn.
    """

    DRAWS = 10  # numbers for an image

    def __init__(
        self, seed: int, image_shape: tuple[int, int], flip: bool, mixup: float, warp: float
    ) -> None:
        """Take the knobs of params.yaml, and the height and width of an image in pixels."""
        self.seed = seed
        self.image_shape = image_shape
        self.flip = flip
        self.mixup = mixup
        self.warp = warp

    def __call__(
        self, images: tf.Tensor, labels: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Change a batch.

        Args:
            images: float32 (batch, pixels).
            labels: float32 (batch, classes).
            step: of the training, an int64 scalar.

        Returns:
            Both, of the same shapes.
        """
        seed = tf.stack([tf.constant(self.seed, tf.int64), step])
        # All in one call: its random numbers depend on the lower 32 bits of the seeds alone, so
        # that calls are hard to keep apart. And XLA alone has them (threefry).
        drawn = tf.random.stateless_uniform((tf.shape(images)[0], self.DRAWS), seed, alg="threefry")
        mirror, blend, share = drawn[:, :1], drawn[:, 1:2], drawn[:, 2:3]
        if self.flip:
            mirrored = tf.reverse(tf.reshape(images, (-1, *self.image_shape)), [2])
            images = tf.where(mirror < 0.5, tf.reshape(mirrored, tf.shape(images)), images)
        if self.warp:
            # Each image its own strength, and of that its own share in each direction.
            moves = self.warp * drawn[:, 3:4] * (2 * drawn[:, 4:] - 1)  # pixels
            bend = tf.reshape(moves[:, :4] / (max(self.image_shape) / 2), (-1, 2, 2))
            images = resample(images, self.image_shape, tf.eye(2) + bend, moves[:, 4:])
        if self.mixup:
            share = tf.where(blend < self.mixup, share, 1.0)
            # With the next of the batch, which was shuffled.
            images, labels = (
                share * own + (1 - share) * tf.roll(own, 1, axis=0) for own in (images, labels)
            )
        return images, labels


class Trainer(keras.Model):
    """Trains a network many batches a compiled call.

    Keras' `fit` hands one batch at a time from Python to TensorFlow. Here a step of `fit` is a
    table of batches, and the compiled step takes one step of the optimizer for each. What it
    computes is what Keras' own `train_step` does; see "Customizing what happens in fit()" in
    Keras' guides.

    The images stay in memory as tensors, and a table has their numbers, int32 (batches, batch
    size); or the table brings them: float32 (batches, batch size, pixels), and labels likewise.
    """

    def __init__(
        self,
        network: keras.Sequential,
        resident: Split | None,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Train `network` on the `resident` images, or on those that come."""
        super().__init__(name="trainer")
        self.network = network
        self.augmentation = augmentation
        self.resident = resident and Split(*map(tf.constant, resident))

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float32 (batch, pixels) to (batch, classes)."""
        return self.network(inputs, training=training)

    def make_variables(self) -> None:
        """Make the variables of optimizer and metrics, once compiled; the network has its own.

        Otherwise they are made in the first step, which TensorFlow must then trace twice.
        """
        self.optimizer.build(self.trainable_variables)
        answer = tf.zeros((1, *self.network.output_shape[1:]))
        self.compute_metrics(x=None, y=answer, y_pred=answer)
        self.reset_metrics()

    def train_step(self, table: tf.Tensor | tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Take a step of the optimizer for each batch of `table`."""

        def one_batch(row: tf.Tensor) -> tuple[tf.Tensor]:
            if self.resident:
                images, labels = (tf.gather(array, table[row]) for array in self.resident)
            else:
                images, labels = (array[row] for array in table)
            if self.augmentation:
                step = tf.cast(self.optimizer.iterations, tf.int64)
                images, labels = self.augmentation(images, labels, step)
            self._learn(images, labels)
            return (row + 1,)

        batches = tf.shape(table if self.resident else table[0])[0]
        tf.while_loop(lambda row: row < batches, one_batch, (tf.constant(0),))
        return self.get_metrics_result()

    def _learn(self, images: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            probabilities = self(images, training=True)
            loss = self.compute_loss(x=images, y=labels, y_pred=probabilities)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=tf.shape(images)[0])
            else:
                metric.update_state(labels, probabilities)


def shuffled_batches(
    images: int, batch_size: int, steps_per_execution: int, seed: int, first_epoch: int = 0
) -> Iterator[np.ndarray]:
    """Yield tables of image numbers, epoch after epoch, without end.

    Each epoch takes every image once, in an order that depends on `seed` and the epoch alone.
    All tables of an epoch have `steps_per_execution` full batches, but for a shorter table of
    full batches and a last batch that is not full, where the numbers do not divide.

    Yields:
        int32 (batches, batch size).
    """
    epoch = first_epoch
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(images).astype(np.int32)
        full = images // batch_size * batch_size
        table = order[:full].reshape(-1, batch_size)
        for first in range(0, len(table), steps_per_execution):
            yield table[first : first + steps_per_execution]
        if full < images:
            yield order[np.newaxis, full:]
        epoch += 1


def tables_per_epoch(images: int, batch_size: int, steps_per_execution: int) -> int:
    """How many tables `shuffled_batches` yields in an epoch."""
    full, rest = divmod(images, batch_size)
    return -(-full // steps_per_execution) + bool(rest)


def probabilities(network: keras.Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Predict, compiled by XLA, so that the bits are the same on every processor.

    Args:
        network: takes float32 (n, pixels), gives float32 (n, classes).
        images: float32 (n, pixels).
        batch_size: images a call.

    Returns:
        float32 (n, classes).
    """
    forward = tf.function(lambda batch: network(batch, training=False), jit_compile=True)
    blocks = []
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        # Filled up with empty images: XLA's bits for a batch of a few depend on the threads
        # (measured: 4 and 5 images, on one core and on two).
        whole = np.pad(batch, ((0, batch_size - len(batch)), (0, 0)))
        blocks.append(forward(tf.constant(whole)).numpy()[: len(batch)])
    return np.concatenate(blocks)


def mean_loss(network: keras.Model, predicted: np.ndarray, labels: np.ndarray) -> float:
    """Compute the loss that the network was compiled with, over all images.

    Args:
        network: compiled.
        predicted: probabilities, float32 (n, classes).
        labels: one-hot, float32 (n, classes).
    """
    loss = keras.losses.get(network.loss)  # a function: a value for each image
    by_image = loss(tf.constant(labels, tf.float64), tf.constant(predicted, tf.float64))
    return float(by_image.numpy().mean())


def save_network(network: keras.Model, path: Path) -> None:
    """Save as .keras, with the same bytes for the same network.

    Keras' own file has the time of saving in its metadata and in each entry of its zip, and
    memory addresses as the identities of shared objects. The entries stay uncompressed, as
    zlib's output differs between its versions.
    """
    with replacing(path) as temporary:
        network.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            entries = {name: archive.read(name) for name in sorted(archive.namelist())}
        metadata = json.loads(entries["metadata.json"])
        del metadata["date_saved"]
        entries["metadata.json"] = json.dumps(metadata).encode()
        addresses: dict[bytes, int] = {}
        entries["config.json"] = re.sub(
            rb'(?<="shared_object_id": )\d+',
            lambda address: b"%d" % addresses.setdefault(address[0], len(addresses) + 1),
            entries["config.json"],
        )
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, content in entries.items():
                archive.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), content)


def load_network(path: Path, shape: tuple[int, int] | None = None) -> keras.Model:
    """Read a .keras file; refuse what could run code.

    Args:
        path: the file.
        shape: pixels and classes that the network must have, where the caller knows them.

    Raises:
        ValueError: not a whole .keras file, or a network of another shape.
        OSError: the file can't be read.
    """
    with path.open("rb"):
        pass  # Keras says of a file that is missing that it is not a zip
    try:
        network = keras.models.load_model(path, safe_mode=True)
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not a whole .keras file ({reason}); run `dvc repro --force train`"
        ) from None
    found = (network.input_shape[-1], network.output_shape[-1])
    if shape is not None and shape != found:
        raise ValueError(
            f"{path}: expected {shape[0]} pixels -> {shape[1]} classes, got {found[0]} -> "
            f"{found[1]}; run `dvc repro --force train`"
        )
    return network
