"""How far two float32 runtimes can be apart on any image at all, not only on those that were tried.

The rounding bound of reference.py depends on the image only through sizes: of the terms of each
sum, and of the errors that a layer inherits. Their largest values over all images in [0, 1]^pixels
give a bound for all images. Two things keep it from being wide:

-   Softmax only sees differences of logits. What an error e of the last hidden layer does to the
    difference of logits k and l is e |W_k - W_l|, less than what it does to both.
-   relu(a) for a in [low, high] lies below the line from (low, 0) to (high, high). So a sum of
    hidden values lies below a linear function of the layer before, whose largest value over a box
    is a sum of what each input can add.

A probability is 1 / (1 + the sum of exp(z_l - z_k)). If each difference is at most D from exact, so
is the logit of the probability; two runtimes are at most 2 D apart in it, and tanh(D / 2) in the
probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fashion_mlp.proof.reference import ACTIVATIONS, EXP_ERROR, FLOAT32, Bounds, bounds, gamma_of

if TYPE_CHECKING:
    from fashion_mlp.network.model import Layer

CANDIDATES, ROUNDS = 50, 60  # of the search
UNIT, TINY = FLOAT32.unit, FLOAT32.tiny
Span = tuple[np.ndarray, np.ndarray]  # float64 (n,): at least, at most


def largest_difference(layers: Sequence[Layer]) -> float:
    """Bound how far apart a probability of two float32 runtimes can be, on any image in [0, 1].

    Rounded up to three digits behind the point.

    Args:
        layers: relu, sigmoid or tanh; softmax the last.
    """
    pixels = len(layers[0].kernel)
    values, error = (np.zeros(pixels), np.ones(pixels)), np.zeros(pixels)
    sizes = np.abs(layers[0].kernel).sum(axis=0, dtype=np.float64)  # of the sums |x| |kernel|
    for layer, following in pairwise(layers):
        own = _own_error(layer, sizes, error, values)
        error = error @ np.abs(layer.kernel.astype(np.float64)) + own
        sums = _span(layer.kernel, layer.bias, values)
        weights = np.abs(following.kernel.astype(np.float64))
        function, slope, own_error, cuts = ACTIVATIONS[layer.activation]
        error = np.where(cuts & (sums[1] + error <= 0), 0.0, slope * error + own_error * UNIT)
        with np.errstate(over="ignore"):  # exp, of a sigmoid far out
            low, high = map(function, sums)
        sizes = np.maximum(np.abs(low), np.abs(high)) @ weights
        if layer.activation == "relu":
            sizes = np.minimum(sizes, _above_relu(layer, values, sums, weights))
        values = (low, high)
    last = layers[-1]
    own = _own_error(last, sizes, error, values)
    kernel = last.kernel.astype(np.float64)
    apart = np.abs(kernel[:, :, None] - kernel[:, None, :])  # (units, classes, classes)
    difference = np.tensordot(error, apart, 1) + own[:, None] + own
    # Two runtimes round exp, their sum and the division; a rounded difference d of logits moves
    # exp(-d) by u d exp(-d), at most u / e.
    softmax = (2 * EXP_ERROR + len(own) + 4) * UNIT
    bound = np.tanh(difference.max() / 2) + 2 * softmax + 2 * TINY
    return math.ceil(bound * 1000) / 1000


def _own_error(layer: Layer, sizes: np.ndarray, error: np.ndarray, values: Span) -> np.ndarray:
    """Bound the rounding of a layer's sums, given the sizes of its terms and its inputs' error."""
    kernel, terms = np.abs(layer.kernel.astype(np.float64)), len(layer.kernel) + 1
    sizes = sizes + error @ kernel + np.abs(layer.bias)
    flushed = kernel.sum(axis=0) + (np.maximum(*map(np.abs, values)) + error).sum() + 4 * terms
    return np.asarray(gamma_of(np.array(terms), UNIT) * sizes + TINY * flushed)


def _span(kernel: np.ndarray, bias: np.ndarray, values: Span) -> Span:
    """Find the least and the most of x kernel + bias for x in a box."""
    low, high = values
    positive, negative = np.maximum(kernel, 0.0), np.minimum(kernel, 0.0)
    return low @ positive + high @ negative + bias, high @ positive + low @ negative + bias


def _above_relu(layer: Layer, values: Span, sums: Span, weights: np.ndarray) -> np.ndarray:
    """Bound relu(x kernel + bias) weights, for x in a box, by the line above each relu."""
    low, high = sums
    slope = np.where(low < 0, np.maximum(high, 0) / np.maximum(high - low, TINY), 1.0)
    offset = slope * (layer.bias - np.minimum(low, 0.0))
    return _span(layer.kernel @ (slope[:, None] * weights), offset @ weights, values)[1]


def worst_found(layers: Sequence[Layer], images: np.ndarray, known: Bounds) -> float:
    """Search for an image where two runtimes may be far apart, to see how wide the bound is.

    Args:
        layers: of the network.
        images: float32 (n, pixels) in 0…1, to start from.
        known: their bounds.

    Returns:
        The largest difference that the rounding bound leaves open for the worst image found.
    """
    random, width = np.random.default_rng(0), _width(known)
    start = np.argsort(-width, kind="stable")[:CANDIDATES]
    pool, width = images[start], width[start]
    for _ in range(ROUNDS):
        # Every image gets a part of another one, or is made lighter.
        parts = random.random(pool.shape) < random.random((len(pool), 1)) ** 2
        others = np.where(
            random.random((len(pool), 1)) < 0.5, 1.0, pool[random.permutation(len(pool))]
        )
        tried = np.where(parts, others, pool).astype(np.float32)
        pool = np.concatenate([pool, tried])
        width = np.concatenate([width, _width(bounds(layers, tried))])
        best = np.argsort(-width, kind="stable")[:CANDIDATES]
        pool, width = pool[best], width[best]
    return float(width[0])


def _width(known: Bounds) -> np.ndarray:
    """Measure the width of each image's widest bound; rounded to hide platform differences."""
    return np.asarray((known.high - known.low).max(axis=1), np.float32)
