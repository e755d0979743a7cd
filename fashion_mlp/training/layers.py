"""The network as it is trained: dense layers whose gradients have portable bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fashion_mlp.network.model import Layer, build_network
from fashion_mlp.network.products import portable_matmul

PIXEL_NOISE = 0.1  # of a pixel's 0…1; chosen on validation images (docs/accuracy.md)
CHUNK = 200  # images at a time: in float64 they stay in the cache (3.5 times as fast as 10,000)


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


def build_training_model(
    pixels: int,
    hidden_units: Sequence[int],
    activation: str,
    classes: int,
    precision: str = "float32",
    moments: tuple[np.ndarray, np.ndarray] | None = None,
) -> keras.Sequential:
    """Build the network as it is trained: portable layers, pixels standardized in front.

    With `moments`, from `pixel_moments`, on standardized pixels; see `trained_layers`.
    `precision` is that of `portable_matmul`; for the rest see `build_network`.
    """
    dense = partial(PortableDense, precision=precision)
    network = build_network(pixels, hidden_units, activation, classes, dense)
    if moments is None:
        return network
    mean, variance = moments
    standardize = keras.layers.Normalization(mean=mean, variance=variance)
    return keras.Sequential([keras.Input((pixels,), name="image"), standardize, *network.layers])


def trained_layers(
    model: keras.Sequential, image_shape: tuple[int, int], blur: float
) -> list[Layer]:
    """Take the layers for `build_network`, with what is done to images folded into the first.

    Standardizing, x -> (x - mean) / deviation, and blurring, which comes before it, are linear.

    Args:
        model: from `build_training_model`.
        image_shape: height and width, in pixels.
        blur: the share of a pixel that each neighbour along an axis gets, 0 to 0.5. Resampling
            blurs the images of training; this shows the network images like those.
    """
    dense = [layer for layer in model.layers if isinstance(layer, PortableDense)]
    weights = (layer.get_weights() for layer in dense)
    layers = [
        Layer(kernel, bias, layer.activation.__name__)
        for layer, (kernel, bias) in zip(dense, weights, strict=True)
    ]
    kernel, bias, activation = layers[0]
    first = model.layers[0]
    if isinstance(first, keras.layers.Normalization):
        mean = np.asarray(first.mean, np.float64)[0]
        deviation = np.sqrt(np.asarray(first.variance, np.float64)[0])
        kernel = kernel / deviation[:, np.newaxis]
        # Row by row, as a product of matrices adds in an order that depends on the processor.
        bias = (bias - (mean[:, np.newaxis] * kernel).sum(axis=0)).astype(np.float32)
    if blur:
        # Each column is an image of weights; the blur is symmetric.
        grid = kernel.astype(np.float64).reshape(*image_shape, -1)
        grid = np.pad(grid, ((1, 1), (1, 1), (0, 0)))
        rows = (1 - 2 * blur) * grid[1:-1] + blur * (grid[:-2] + grid[2:])
        grid = (1 - 2 * blur) * rows[:, 1:-1] + blur * (rows[:, :-2] + rows[:, 2:])
        kernel = grid.reshape(kernel.shape)
    return [Layer(kernel.astype(np.float32), bias, activation), *layers[1:]]


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
