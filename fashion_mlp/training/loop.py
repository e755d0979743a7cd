"""The training loop: the same for one worker and for each of several.

Keras' `fit` hands one batch at a time from Python to TensorFlow, and does not run on several
workers. Here a compiled call takes many steps, each of which computes what Keras' `train_step`
does. The loss and the accuracy of an epoch are means over its batches while the weights still
move, as Keras' log has them.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from fashion_mlp.data.arrays import Split
from fashion_mlp.network.model import Layer, build_network, mean_loss, predict, set_layers
from fashion_mlp.training.augmentation import DROPOUT, Augmentation
from fashion_mlp.training.batches import (
    Draws,
    Part,
    sampling_rates,
    shuffled_batches,
    steps_per_epoch,
)
from fashion_mlp.training.layers import (
    PortableDense,
    build_training_model,
    pixel_moments,
    trained_layers,
)
from fashion_mlp.training.optimizer import apply_portably, make_optimizer
from fashion_mlp.training.workers import Workers
from pipeline.checkpoint import Checkpoint, History
from pipeline.params import Train

# Images that take more than this share of memory are read from their file as they are needed.
MEMORY_SHARE = 0.4
MEMORY_LIMITS = (resource.RLIMIT_DATA, resource.RLIMIT_AS)
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # version 2; a container's own
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # version 1
)


def fit(
    params: Train,
    split: Split,
    validation: Split,
    image_shape: tuple[int, int],
    checkpoint: Checkpoint | None = None,
    workers: Workers | None = None,
    on_epoch: Callable[[Mapping[str, float]], object] = lambda logs: None,
) -> tuple[list[Layer], History]:
    """Train a network; its weights have the same bits on every processor.

    Args:
        params: the section `train` of params.yaml.
        split: images float32 (n, pixels) and one-hot labels float32 (n, classes) to train on.
        validation: the same, to measure after each epoch; may be empty.
        image_shape: height and width of an image, in pixels.
        checkpoint: to resume from and to write after each epoch; with several workers, the
            chief's is used.
        workers: that train together; all call this with the same arguments.
        on_epoch: called after each epoch with its metrics.

    Returns:
        The trained layers, and a list of values, one per epoch, by metric: loss, accuracy and,
        where there are validation images, validation_loss and validation_accuracy.

    Raises:
        ValueError: the optimizer's configuration is wrong, training diverged, or workers do not
            agree.
        RuntimeError: a worker is gone.
    """
    step = prepare(params, split, image_shape, workers)
    network = build_network(*network_shape(params, split))
    variables = [*step.model.trainable_variables, *step.optimizer.variables, step.errors]
    history: History = {}
    if checkpoint:
        history = {key: list(values) for key, values in checkpoint.history.items()}
        restore(variables, checkpoint.content)
    done = len(history.get("loss", []))
    with workers.report_lost(lambda: done + 1) if workers else nullcontext():
        if workers:
            workers.check_agreement(checkpoint.of if checkpoint else {})
            done = share_state(workers, variables, done)
        while done < params.epochs:
            logs = step.run_epoch(split, done)
            layers = step.layers()
            check_finite(logs["loss"], layers, done + 1)
            if len(validation.images):
                set_layers(network, layers)
                logs |= measure(network, params.loss, validation)
            for key, value in logs.items():
                history.setdefault(key, []).append(value)
            done += 1
            if checkpoint and (workers is None or workers.number == 0):
                checkpoint.save(history, b"".join(one.numpy().tobytes() for one in variables))
            on_epoch(logs)
        layers = step.layers()
        if workers:
            workers.check_weights([array for layer in layers for array in layer[:2]])
    return layers, history


def network_shape(params: Train, split: Split) -> tuple[int, list[int], str, int]:
    """List what `build_network` takes: pixels, hidden units, activation, classes."""
    classes = split.labels.shape[1]
    return split.images.shape[1], params.hidden_units, params.activation, classes


def prepare(
    params: Train, split: Split, image_shape: tuple[int, int], workers: Workers | None
) -> TrainingStep:
    """Build the model and its optimizer, with their first weights; see `fit`."""
    keras.utils.set_random_seed(params.seed)
    moments = pixel_moments(split.images) if params.standardize else None
    model = build_training_model(*network_shape(params, split), params.precision, moments)
    optimizer = make_optimizer(
        params.optimizer.class_name,
        params.optimizer.config.model_dump(),
        params.learning_rate_schedule,
        params.epochs * steps_per_epoch(len(split.images), params.batch_size),
    )
    optimizer.build(model.trainable_variables)
    return TrainingStep(model, optimizer, params, image_shape, workers, len(split.images))


def check_finite(loss: float, layers: Sequence[Layer], epoch: int) -> None:
    """Check that training has not diverged; the loss is of the weights before the last step."""
    finite = all(np.isfinite(array).all() for layer in layers for array in layer[:2])
    if not (math.isfinite(loss) and finite):
        raise ValueError(
            f"epoch {epoch}: training diverged (loss {loss}, weights "
            f"{'finite' if finite else 'not finite'}); nothing was written; lower "
            f"train.optimizer.config.learning_rate"
        )


class TrainingStep:
    """Takes steps of the optimizer: compiled whole for one worker, in two parts for several."""

    def __init__(
        self,
        model: keras.Sequential,
        optimizer: keras.optimizers.Optimizer,
        params: Train,
        image_shape: tuple[int, int],
        workers: Workers | None,
        images: int,
    ) -> None:
        """Train `model`, see `build_training_model`, with a built optimizer, on so many images."""
        self.model = model
        self.optimizer = optimizer
        self.params = params
        self.image_shape = image_shape
        self.augmentation = Augmentation(params, image_shape)
        self.workers = workers
        self.loss = keras.losses.get(params.loss)  # a value for each image
        self.draws = [Draws(params.seed, DROPOUT + number) for number in range(len(model.layers))]
        # Of the epoch, each image by its weight: losses, right answers, weights.
        self.sums = tf.Variable(tf.zeros(3))
        # Of each image, what its right class's probability lacks to 1; before the first epoch, all.
        # Of one that mixup blends, what the classes of its label lack, each by its share.
        self.errors = tf.Variable(tf.ones(images))
        # Nothing here needs autograph, with which tracing takes longer (docs/performance.md).
        graph = partial(tf.function, autograph=False)
        compiled = workers is None  # what workers exchange can't be compiled by XLA
        self.run = graph(self._run, jit_compile=compiled)
        self.differentiate, self.apply = self._differentiate, self._apply
        if not compiled:
            self.differentiate = graph(self._differentiate, jit_compile=True)
            self.apply = graph(self._apply, jit_compile=True)

    def run_epoch(self, split: Split, epoch: int) -> dict[str, float]:
        """Train one epoch, numbered from 0; return its loss and accuracy."""
        params, count = self.params, len(split.images)
        resident = split.images.nbytes <= MEMORY_SHARE * memory_limit()
        if resident and not hasattr(self, "resident"):
            self.resident = Split(*map(tf.constant, split))
        self.sums.assign(tf.zeros(3))
        errors = self.errors.numpy()
        rates = sampling_rates(errors, params.importance_sampling)
        step = epoch * steps_per_epoch(count, params.batch_size)
        batching = (rates, params.batch_size, params.steps_per_execution)
        for batches in shuffled_batches(*batching, params.seed, epoch):
            data, numbers = (self.resident, batches) if resident else read_batches(split, batches)
            weights = (1 / rates[batches]).astype(np.float32)
            try:
                found = self.run(
                    *data, tf.constant(numbers), tf.constant(weights), tf.constant(step, tf.int64)
                )
            except tf.errors.ResourceExhaustedError:
                raise MemoryError("lower train.batch_size or train.steps_per_execution") from None
            if params.importance_sampling:
                found = self.workers.sum([found])[0] if self.workers else found
                errors[batches] = found.numpy()
            step += len(batches)
        self.errors.assign(errors)
        sums = self.workers.sum([self.sums])[0] if self.workers else self.sums
        loss, right, weight = sums.numpy()
        return {"loss": float(loss / weight), "accuracy": float(right / weight)}

    def _run(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        batches: tf.Tensor,
        weights: tf.Tensor,
        first_step: tf.Tensor,
    ) -> tf.Tensor:
        """Take a step for each batch of image numbers, int32 (batches, batch size).

        Returns:
            Each image's error, float32 (batches, batch size), 0 where other workers have it.
        """

        def one_batch(row: tf.Tensor, errors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            step = first_step + tf.cast(row, tf.int64)
            batch = (batches[row], weights[row])
            gradients, found = self.differentiate(images, labels, *batch, step)
            if self.workers:
                gradients = self.workers.sum(gradients)
            self.apply(gradients)
            return row + 1, tf.tensor_scatter_nd_update(errors, [[row]], [found])

        first = (tf.constant(0), tf.zeros(batches.shape))
        return tf.while_loop(lambda row, _: row < batches.shape[0], one_batch, first)[1]

    def _differentiate(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        batch: tf.Tensor,
        weights: tf.Tensor,
        step: tf.Tensor,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Compute this worker's part of the gradients of a batch's mean loss, and of its errors."""
        size = batch.shape[0]
        part = Part.of(
            size, *((self.workers.number, self.workers.count) if self.workers else (0, 1))
        )
        places = self.augmentation.places(part)
        if len(places) != size or self.workers:
            batch = tf.gather(batch, places)
        images, labels = tf.gather(images, batch), tf.gather(labels, batch)
        images, labels = self.augmentation(images, labels, step, part)
        weights = weights[part.first : part.last]
        rights = labels
        if smooth := self.params.label_smoothing:
            labels = (1 - smooth) * labels + smooth / labels.shape[1]
        with tf.GradientTape() as tape:
            probabilities = self.forward(images, step, part)
            losses = self.loss(labels, probabilities)
            losses = losses * weights if self.params.importance_sampling else losses
            loss = tf.reduce_sum(losses) / size
            scaled = self.optimizer.scale_loss(loss)  # by `loss_scale_factor`; `apply` undoes it
        right = tf.cast(keras.metrics.categorical_accuracy(labels, probabilities), tf.float32)
        right = right * weights if self.params.importance_sampling else right
        self.sums.assign_add(tf.stack([loss * size, tf.reduce_sum(right), tf.reduce_sum(weights)]))
        errors = 1 - tf.reduce_sum(rights * probabilities, axis=1)
        errors = tf.pad(errors, [[part.first, size - part.last]])
        return tape.gradient(scaled, self.model.trainable_variables), errors

    def forward(self, images: tf.Tensor, step: tf.Tensor, part: Part) -> tf.Tensor:
        """Map float32 (n, pixels) to (n, classes), dropping hidden units where that is asked for.

        Dropout is here, as Keras' own layer draws slowly on a processor: with it, an epoch of
        the paper's took six times as long as without.
        """
        values, last, dropout = images, self.model.layers[-1], self.params.dropout
        for layer, draws in zip(self.model.layers, self.draws, strict=True):
            values = layer(values, training=True)
            if dropout and isinstance(layer, PortableDense) and layer is not last:
                drawn = draws.uniform(step, part.batch, part.places(), layer.units)
                values = tf.where(drawn >= dropout, values / (1 - dropout), 0.0)
        return values

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        apply_portably(self.optimizer, gradients, self.model.trainable_variables)

    def layers(self) -> list[Layer]:
        """Take the trained layers; their moving average, where the optimizer keeps one."""
        variables = self.model.trainable_variables
        latest = [variable.numpy() for variable in variables]
        if self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(variables)
        layers = trained_layers(self.model, self.image_shape, self.params.inference_blur)
        for variable, value in zip(variables, latest, strict=True):
            variable.assign(value)
        return layers


def read_batches(split: Split, batches: np.ndarray) -> tuple[Split, np.ndarray]:
    """Read the images of some batches alone, and number them anew."""
    numbers = np.arange(batches.size, dtype=np.int32).reshape(batches.shape)
    return Split(*(tf.constant(array[batches.ravel()]) for array in split)), numbers


def restore(variables: list[tf.Variable], content: bytes) -> None:
    """Give variables the values that a checkpoint holds, one after the other."""
    if not content:
        return  # nothing to resume
    first = 0
    for variable in variables:
        old = variable.numpy()
        saved = np.frombuffer(content, old.dtype, old.size, first)
        variable.assign(saved.reshape(old.shape))
        first += old.nbytes


def share_state(workers: Workers, variables: list[tf.Variable], done: int) -> int:
    """Give all workers the chief's variables; return how many epochs it has done."""
    values = [np.array(done), *(variable.numpy() for variable in variables)]
    done, *values = (of_all[0] for of_all in workers.gather(values))
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return int(done)


def measure(network: keras.Model, loss: str, validation: Split) -> dict[str, float]:
    """Measure a network on validation images: validation_loss and validation_accuracy."""
    probabilities = predict(network, validation.images)
    right = probabilities.argmax(axis=1) == validation.labels.argmax(axis=1)
    return {
        "validation_loss": mean_loss(loss, probabilities, validation.labels),
        "validation_accuracy": float(right.mean()),
    }


def memory_limit() -> int:
    """Say how many bytes this process may use: the machine's, or less where a limit is set."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [soft for soft, _ in map(resource.getrlimit, MEMORY_LIMITS) if soft >= 0]
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such group, or the word `max`
            limits.append(int(path.read_text()))
    return min(limits)
