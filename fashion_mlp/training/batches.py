"""Which images make a batch, and what is drawn for them.

Both depend on the seed, the epoch or step, and an image's place in the batch alone: a run that was
killed goes on with what it would have drawn, and each of several workers draws its own part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Part(NamedTuple):
    """One worker's part of a batch."""

    batch: int  # images in the whole batch
    first: int  # place of the worker's first image
    last: int  # one past the place of its last

    @classmethod
    def of(cls, batch: int, worker: int, workers: int) -> Part:
        """Divide a batch among workers, as evenly as it goes."""
        return cls(batch, batch * worker // workers, batch * (worker + 1) // workers)

    def places(self, more: int = 0) -> np.ndarray:
        """List the places of its images, and of `more` that follow; the last's next is the first.

        Returns:
            int32 (last - first + more,).
        """
        return np.arange(self.first, self.last + more, dtype=np.int32) % self.batch


def shuffled_batches(
    rates: np.ndarray, batch_size: int, steps_per_execution: int, seed: int, epoch: int
) -> Iterator[np.ndarray]:
    """Yield the image numbers of an epoch, in an order of the epoch's own.

    Each block has `steps_per_execution` full batches; the last of them may have fewer, and an
    incomplete last batch is a block of its own.

    Args:
        rates: how often each image is to be seen, on average, float64 (n,); their mean is 1.
        batch_size: images in a batch.
        steps_per_execution: batches in a block.
        seed: of the training.
        epoch: numbered from 0.

    Yields:
        int32 (batches, batch size).
    """
    random = np.random.default_rng([seed, epoch])
    images = len(rates)
    order = random.permutation(images).astype(np.int32)
    if (rates != 1).any():
        # Systematic sampling: an image is seen its rate's number of times, rounded up or down.
        last = np.floor(np.cumsum(rates[order]) + random.random())
        last[-1] = images
        order = random.permutation(np.repeat(order, np.diff(last, prepend=0).astype(int)))
    full = images // batch_size * batch_size
    batches = order[:full].reshape(-1, batch_size)
    for first in range(0, len(batches), steps_per_execution):
        yield batches[first : first + steps_per_execution]
    if full < images:
        yield order[np.newaxis, full:]


def sampling_rates(errors: np.ndarray, share: float) -> np.ndarray:
    """Say how often an epoch is to see each image: more often where the network is wrong.

    Importance sampling: an image's gradient is about as long as its error is large
    (Katharopoulos and Fleuret, "Not All Samples Are Created Equal", ICML 2018).

    Args:
        errors: what each image's right class lacks to probability 1, float32 (n,).
        share: of the epoch that goes by the errors; the rest takes each image as often.

    Returns:
        float64 (n,), whose mean is 1.
    """
    errors = errors.astype(float)
    total = np.cumsum(errors)[-1]  # one after the other: the same bits on every processor
    return (1 - share) + share * (errors * (len(errors) / total)) if total else np.ones(len(errors))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Count the batches of an epoch."""
    return -(-images // batch_size)


class Draws:
    """Random numbers for one purpose, such as one layer's dropout."""

    def __init__(self, seed: int, purpose: int) -> None:
        """Take the training's seed; another purpose draws other numbers at the same step."""
        (self.key,) = np.random.SeedSequence([seed, purpose]).generate_state(1)

    def uniform(self, step: tf.Tensor, batch: int, places: np.ndarray, columns: int) -> tf.Tensor:
        """Draw for some images of a batch what would be drawn for them in the whole of it.

        Args:
            step: of the training, an int64 scalar.
            batch: images in the whole batch.
            places: of the images, int32 (n,).
            columns: numbers for an image.

        Returns:
            float32 (n, columns) in 0…1.
        """
        seed = tf.stack([tf.constant(int(self.key), tf.int64), step])
        # threefry is the one generator that XLA compiles.
        drawn = tf.random.stateless_uniform((batch, columns), seed, alg="threefry")
        if np.array_equal(places, np.arange(batch)):
            return drawn
        return tf.gather(drawn, places)
