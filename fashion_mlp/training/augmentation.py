"""What training does to each batch anew: flip and distort images, blend them with others."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fashion_mlp.network.products import product
from fashion_mlp.training.batches import Draws, Part
from pipeline.params import Train

# Purposes of the numbers drawn, see `Draws`; a layer's dropout adds the layer's number to its own.
FLIP, AFFINE, MIXUP, ELASTIC, DROPOUT = 1, 2, 3, 4, 100
KNOTS = 7  # of an elastic distortion, along each axis


class Augmentation:
    """Changes a batch; with nothing asked for, it changes nothing."""

    def __init__(self, params: Train, image_shape: tuple[int, int]) -> None:
        """Take the section `train` of params.yaml, and an image's height and width in pixels."""
        self.params = params
        self.image_shape = image_shape
        self.flips, self.moves, self.bends, self.blends = (
            Draws(params.seed, purpose) for purpose in (FLIP, AFFINE, ELASTIC, MIXUP)
        )

    def places(self, part: Part) -> np.ndarray:
        """List the places in the batch of the images that `part` needs: int32 (n,)."""
        return part.places(more=1 if self.params.mixup else 0)

    def __call__(
        self, images: tf.Tensor, labels: tf.Tensor, step: tf.Tensor, part: Part
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Change a worker's part of a batch.

        Args:
            images: float32 (n, pixels), those at `places`.
            labels: float32 (n, classes).
            step: of the training, an int64 scalar.
            part: of the batch.

        Returns:
            Both for the images of `part`.
        """
        params, of = self.params, (step, part.batch, self.places(part))
        if params.random_flip:
            mirrored = tf.reverse(tf.reshape(images, (-1, *self.image_shape)), [2])
            chosen = self.flips.uniform(*of, 1) < 0.5
            images = tf.where(chosen, tf.reshape(mirrored, tf.shape(images)), images)
        if params.random_affine or params.random_elastic:
            matrix, offset = tf.eye(2), tf.zeros((1, 2))
            # Each image its own strength, and of that its own share in each direction.
            if params.random_affine:
                drawn = self.moves.uniform(*of, 7)
                moves = params.random_affine * drawn[:, :1] * (2 * drawn[:, 1:] - 1)  # pixels
                linear = tf.reshape(moves[:, :4] / (max(self.image_shape) / 2), (-1, 2, 2))
                matrix, offset = matrix + linear, moves[:, 4:]
            places = affine_places(self.image_shape, matrix, offset)
            if params.random_elastic:
                drawn = self.bends.uniform(*of, 1 + 2 * KNOTS**2)
                bends = params.random_elastic * drawn[:, :1] * (2 * drawn[:, 1:] - 1)  # pixels
                places += elastic_field(self.image_shape, bends)
            images = resample(images, self.image_shape, places)
        if params.mixup:
            drawn = self.blends.uniform(step, part.batch, part.places(), 2)
            share = tf.where(drawn[:, :1] < params.mixup, drawn[:, 1:], 1.0)
            # With the next of the batch, which was shuffled.
            images, labels = (
                share * array[:-1] + (1 - share) * array[1:] for array in (images, labels)
            )
        return images, labels


def affine_places(image_shape: tuple[int, int], matrix: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Say where affine maps read each pixel of their result.

    At matrix @ (row, column) + offset, counted in pixels from the middle of the image.

    Args:
        image_shape: height and width.
        matrix: float32 (batch, 2, 2), of each image's map, or (2, 2).
        offset: float32 (batch, 2), pixels.

    Returns:
        Rows and columns, counted from the first: float32 (2, batch, pixels).
    """
    middle = (np.array(image_shape, np.float32)[:, np.newaxis] - 1) / 2
    rows, columns = np.indices(image_shape).reshape(2, -1).astype(np.float32) - middle
    return tf.stack(
        [
            matrix[..., axis, :1] * rows
            + matrix[..., axis, 1:] * columns
            + (offset[:, axis, tf.newaxis] + middle[axis])
            for axis in (0, 1)
        ]
    )


def elastic_field(image_shape: tuple[int, int], bends: tf.Tensor) -> tf.Tensor:
    """Interpolate displacements between knots to every pixel (Simard et al., ICDAR 2003).

    Args:
        image_shape: height and width.
        bends: float32 (batch, 2 * KNOTS**2), pixels: down at each knot, then right.

    Returns:
        float32 (2, batch, pixels).
    """
    knots = np.eye(KNOTS**2, dtype=np.float32).reshape(-1, KNOTS, KNOTS, 1)
    with tf.init_scope():  # computed once, not compiled
        share = tf.image.resize(knots, image_shape, "bicubic").numpy().reshape(KNOTS**2, -1)
    halves = tf.split(bends, 2, axis=1)
    return tf.stack([product(half, tf.constant(share.round(6))) for half in halves])


def resample(images: tf.Tensor, image_shape: tuple[int, int], places: tf.Tensor) -> tf.Tensor:
    """Read images at places between their pixels, with bilinear interpolation; outside all is 0.

    Args:
        images: float32 (batch, pixels).
        image_shape: height and width.
        places: rows and columns, float32 (2, batch, pixels), or (2, 1, pixels) for all images.

    Returns:
        float32 (batch, pixels).
    """
    height, width = image_shape
    down, right = tf.unstack(places)
    top, left = tf.floor(down), tf.floor(right)
    down, right = down - top, right - left
    # Two rows and columns of 0 on each side, so that all four neighbours lie in the array.
    padded = tf.pad(tf.reshape(images, (-1, height, width)), ((0, 0), (2, 2), (2, 2)))
    padded = tf.reshape(padded, (-1, (height + 4) * (width + 4)))
    row, column = tf.clip_by_value(top, -2, height) + 2, tf.clip_by_value(left, -2, width) + 2
    first = tf.cast(row * (width + 4) + column, tf.int32)

    def pixel(below: int, beside: int) -> tf.Tensor:
        return tf.gather(padded, first + below * (width + 4) + beside, batch_dims=1)

    upper = (1 - right) * pixel(0, 0) + right * pixel(0, 1)
    lower = (1 - right) * pixel(1, 0) + right * pixel(1, 1)
    return (1 - down) * upper + down * lower
