"""A network's weights as integers that float32 can add without rounding.

float32 holds every integer up to 2**24. A sum of integers that can't leave that range has one
value, in whatever order a runtime adds, with or without fused multiply-add. So kernels become
integers, times a power of two, with scales such that no image can make a sum too large:

1.  The first kernel meets bytes. Each unit has a scale of its own that fills its sum. A sum of
    terms of both signs lies, in any order, between minus its negative and plus its positive terms,
    so the larger of the two is what counts. The rounding error of a weight is passed on to
    neighbouring pixels (Floyd and Steinberg, 1976): they hardly differ in an image, so it almost
    cancels.
2.  Hidden values are rounded to 16 bits (24 in deeper layers, whose sums use less of their room)
    and cut into bytes, each of which meets the next kernel.
3.  That kernel is split into parts, digits so small that their sums can't reach 2**24 either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fashion_mlp.proof.reference import ACTIVATIONS, FLOAT32

if TYPE_CHECKING:
    from fashion_mlp.network.model import Layer

LIMIT = 2**24  # float32 holds every integer up to this
PIXEL_END = 255.0
HIDDEN_END = 256.0  # hidden values in the graph lie in 0…256
BYTE = 256.0
KERNEL_BITS = 20  # at least, of a kernel in parts
LARGEST_SHIFT = 100  # keeps factors away from float32's smallest numbers
# tanh(x) = 2 sigmoid(2 x) - 1: factor of sigmoid's argument, factor of its value, offset.
SIGMOIDS = {"sigmoid": (1.0, 1.0, 0.0), "tanh": (2.0, 2.0, -1.0)}
TABLE_STEP = 2.0**-10  # of the argument in sigmoid's table,
TABLE_END = 8.0  # which covers -8…8: beyond, sigmoid is within
TABLE_ERROR = 3.4e-4  # of 0 or 1;
TABLE_ONE = HIDDEN_END - 1 / BYTE  # stands for 1 in it


class Quantized(NamedTuple):
    """A layer in integers. What it gives is `unit` times the graph's value (plus tanh's offset).

    Attributes:
        kernel: float32 (inputs, units · parts), the lowest part first: integers; in a hidden layer
            without parts they are divided by 2**16, so that its sums lie in -256…256.
        bias: float32 (units,); with relu, half of `step` is in it: rounding down rounds to nearest.
        parts: into how many the kernel is split; 0: none, the sums need no putting together.
        bits: by how many a part stands above the one below.
        shift: the lowest part counts 2**-shift.
        activation: relu, sigmoid, tanh or softmax.
        size: in bytes, of the hidden values that come out.
        slope: float32 (units,): makes the table's argument of a sum (sigmoid and tanh).
        unit: float64 (units,).
        error: float64 (units,): how far rounding in this layer moves what it gives, at most.
    """

    kernel: np.ndarray
    bias: np.ndarray
    parts: int
    bits: int
    shift: int
    activation: str
    size: int
    slope: np.ndarray
    unit: np.ndarray
    error: np.ndarray


def quantize(layers: Sequence[Layer], image_shape: Sequence[int]) -> list[Quantized]:
    """Turn layers, the last of them with softmax, into integers.

    `image_shape` is height and width, in pixels.

    Raises:
        ValueError: a layer has more inputs than its sums have room for, or weights that are not
            finite.
    """
    if not all(np.isfinite(array).all() for layer in layers for array in layer[:2]):
        raise ValueError("the exact model: expected finite weights")
    found: list[Quantized] = []
    unit, end, offset = np.full(len(layers[0].kernel), 1 / PIXEL_END), PIXEL_END, 0.0
    for layer in layers:
        kernel = layer.kernel.astype(np.float64) * unit[:, None]
        bias = layer.bias + offset * layer.kernel.sum(axis=0, dtype=np.float64)
        if found or layer is layers[-1]:
            found.append(_in_parts(kernel, bias, layer.activation, end))
        else:
            found.append(_filling(kernel, bias, layer.activation, image_shape))
        unit, end, offset = found[-1].unit, HIDDEN_END, SIGMOIDS.get(layer.activation, (0,))[-1]
    return found


def largest_error(layers: Sequence[Layer], quantized: Sequence[Quantized]) -> float:
    """Bound how far a logit can be from the original's in exact arithmetic, on any image."""
    error = np.zeros(len(layers[0].kernel))
    for layer, integers in zip(layers, quantized, strict=True):
        slope = 1.0 if layer.activation == "softmax" else ACTIVATIONS[layer.activation].slope
        error = slope * (error @ np.abs(layer.kernel.astype(np.float64))) + integers.error
    return float(error.max())


def _filling(
    kernel: np.ndarray, bias: np.ndarray, activation: str, image_shape: Sequence[int]
) -> Quantized:
    """Quantize the layer that meets bytes, so that each unit's sum fills its 24 bits."""
    one = LIMIT / HIDDEN_END  # in the sums' integers
    half = _half_step(activation, 2) * one
    size = largest_sum(kernel, bias)
    scale = np.divide(LIMIT - 1 - half, size, out=np.ones_like(size), where=size > 0)
    while True:
        integers, constant = diffused(kernel * scale, image_shape), np.rint(bias * scale) + half
        largest = largest_sum(integers, constant)
        if (fits := largest < LIMIT).all():
            break
        scale = np.where(fits, scale, scale * (1 - 2.0**-12) * LIMIT / largest)
    moved = PIXEL_END * np.abs(kernel - integers / scale).sum(axis=0)
    moved += np.abs(bias - (constant - half) / scale)
    form = (0, 0, 0, activation, 2)
    return _finished(integers / one, constant / one, form, scale / one, moved)


def largest_sum(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Find how far from 0 bytes times a kernel (pixels, units) can get, added in any order."""
    above, below = (
        PIXEL_END * np.maximum(sign * kernel, 0).sum(axis=0) + np.maximum(sign * bias, 0)
        for sign in (1, -1)
    )
    return np.maximum(above, below)


def diffused(kernel: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Round a kernel (pixels, units) to integers, passing each error on to pixels to come."""
    height, width = image_shape
    rest = np.zeros((height + 1, width + 2, kernel.shape[1]))  # with room for what leaves the image
    rest[:height, 1:-1] = kernel.reshape(height, width, -1)
    rounded = np.empty((height, width, kernel.shape[1]))
    for y in range(height):
        for x in range(width):
            rounded[y, x] = np.rint(rest[y, x + 1])
            error = (rest[y, x + 1] - rounded[y, x]) / 16
            rest[y, x + 2] += 7 * error
            rest[y + 1, x : x + 3] += np.outer([3, 5, 1], error)
    return rounded.reshape(kernel.shape)


def _in_parts(kernel: np.ndarray, bias: np.ndarray, activation: str, end: float) -> Quantized:
    """Quantize a layer whose inputs are bytes, its kernel split into parts."""
    bits = int(math.log2(LIMIT / (HIDDEN_END * len(kernel)))) + 1
    if bits < 2:
        raise ValueError(
            f"the exact model has room for 32,768 inputs of a layer, got {len(kernel)}"
        )
    parts = -(-KERNEL_BITS // bits)
    bias = np.rint(bias * 2.0**LARGEST_SHIFT) / 2.0**LARGEST_SHIFT
    size = end * np.abs(kernel).sum(axis=0) + np.abs(bias) + 2.0**-LARGEST_SHIFT  # of a sum
    scale = np.ones_like(size)
    if activation == "relu":  # hidden values stay below HIDDEN_END
        scale = np.exp2(np.floor(np.log2((HIDDEN_END - 1) / size)))
    largest = max(float(np.abs(kernel * scale).max()), 2.0**-LARGEST_SHIFT)
    shift = min(bits * parts - 1 - math.ceil(math.log2(largest)), LARGEST_SHIFT)
    integers = np.rint(kernel * scale * 2.0**shift)
    moved = end * np.abs(kernel - integers / scale / 2.0**shift).sum(axis=0)
    moved += (parts + 4) * FLOAT32.unit * size + 2.0**-LARGEST_SHIFT  # additions round
    digits = []
    for _ in range(parts - 1):
        above = np.rint(integers / 2**bits)
        digits.append(integers - above * 2**bits)
        integers = above
    kernel = np.concatenate([*digits, integers], axis=1)
    bytes_ = 3 if activation == "relu" else 2
    constant = bias * scale + _half_step(activation, bytes_)
    return _finished(kernel, constant, (parts, bits, shift, activation, bytes_), scale, moved)


def _half_step(activation: str, size: int) -> float:
    """Give what turns rounding down to so many bytes into rounding to nearest."""
    return HIDDEN_END / BYTE**size / 2 if activation == "relu" else 0.0


def _finished(
    kernel: np.ndarray,
    bias: np.ndarray,
    form: tuple[int, int, int, str, int],
    scale: np.ndarray,
    moved: np.ndarray,
) -> Quantized:
    """Add what the activation makes of sums that were scaled, and moved by so much."""
    *_, activation, size = form
    slope, unit, error = np.zeros(0), 1 / scale, moved + _half_step(activation, size) / scale
    if activation in SIGMOIDS:
        steep, stretch, _ = SIGMOIDS[activation]
        slope, unit = steep / scale, np.full_like(scale, stretch / TABLE_ONE)
        error = stretch * (0.25 * (steep * moved + TABLE_STEP) + TABLE_ERROR + 1 / BYTE / TABLE_ONE)
    # + 0: a sum of zeros is 0 or -0, as a runtime likes, and stays -0 only with a bias of -0.
    narrow = [np.asarray(array, np.float32) + np.float32(0) for array in (kernel, bias, slope)]
    return Quantized(narrow[0], narrow[1], *form, narrow[2], unit, error)


def sigmoid_table() -> np.ndarray:
    """Tabulate the sigmoid for arguments -8…8: float32, in 0…TABLE_ONE, in 16 bits."""
    argument = np.arange(-TABLE_END, TABLE_END, TABLE_STEP) + TABLE_STEP / 2
    return np.asarray(np.rint(BYTE * TABLE_ONE / (1 + np.exp(-argument))) / BYTE, np.float32)
