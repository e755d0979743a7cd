"""The network in float64, and how far from it float32 arithmetic may lie.

The bound is derived, not chosen: it holds for every order in which a runtime may add, with or
without fused multiply-add, on every processor that rounds as IEEE 754 says. Written with
u = 2**-24, the unit roundoff of float32, and gamma(n) = n u / (1 - n u):

1.  A sum of n products, in whatever order: |computed - exact| <= gamma(n) * sum |x_i w_i|
    (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition 2002, section 3.1,
    equation 3.5). A term that is zero rounds nothing, so n counts the pixels that are not zero;
    the bias adds one. So for the hidden layer

        da = gamma(n + 1) * (|x| |W1| + |b1|)

2.  relu moves no two numbers further apart, and gives exactly 0 where a + da <= 0: dh is da, or
    0 there. (sigmoid and tanh: see `ACTIVATIONS`.)

3.  The second layer carries on what it is given and rounds on its own; with m hidden units that
    may be other than zero,

        dz = dh |W2| + gamma(m + 1) * ((|h| + dh) |W2| + |b2|)

4.  softmax grows with its own logit and falls with the others, so its extremes over the box
    z ± dz are at corners of the box: no linearisation. Its own rounding: the difference to the
    largest logit (relative u), exp (3 ulp, which is 6 u: the largest error that the OpenCL C
    specification, "Relative Error as ULPs", allows it), a sum of k terms and a division
    (gamma(k + 1)).

Results below 2**-126 may be flushed to zero; that is added where it can matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

UNIT_ROUNDOFF = 2.0**-24  # of float32
# The sizes |x| |W1| are summed in float32, and the reference itself rounds (in float64): both
# together move the bound by less than this factor.
SLACK = 1.0 + 2.0**-10
TINY = 2.0**-126  # the smallest normal float32
LARGEST = float(np.finfo(np.float32).max)
EXP_ERROR = 6.0 * UNIT_ROUNDOFF  # 3 ulp
MOST_POWER = 600.0  # exp of it is more than any sum, and far from float64's end
BLOCK = 5000  # images at a time, so that memory stays bounded


class Weights(NamedTuple):
    """The network's weights, float32, by the names that they have in the ONNX file.

    hidden_kernel (pixels, units), hidden_bias (units,), probabilities_kernel (units, classes),
    probabilities_bias (classes,).
    """

    hidden_kernel: np.ndarray
    hidden_bias: np.ndarray
    probabilities_kernel: np.ndarray
    probabilities_bias: np.ndarray


class Bounds(NamedTuple):
    """What a float32 runtime may answer: float64 (n, classes) each."""

    probabilities: np.ndarray  # the reference
    low: np.ndarray
    high: np.ndarray

    def certified(self) -> np.ndarray:
        """Tell for which images no rounding can change the class: bool (n,)."""
        rows, best = np.arange(len(self.low)), self.probabilities.argmax(axis=1)
        others = self.high.copy()
        others[rows, best] = -np.inf
        certain: np.ndarray = self.low[rows, best] > others.max(axis=1)
        return certain


class Activation(NamedTuple):
    """A hidden layer's activation in float64 and what it does to an error."""

    function: Callable[[np.ndarray], np.ndarray]
    slope: float  # the largest: by how much it may widen an error
    error: float  # absolute, its own
    cuts: bool  # gives exactly 0 for what is negative


# sigmoid and tanh lie within -1…1; 4 ulp at 1 (8 u) covers the rational approximations in use,
# which cut off where the function is within 4 u of its limit.
ACTIVATIONS = {
    "relu": Activation(lambda x: np.maximum(x, 0.0), 1.0, 0.0, cuts=True),
    "sigmoid": Activation(lambda x: 1.0 / (1.0 + np.exp(-x)), 0.25, 8 * UNIT_ROUNDOFF, cuts=False),
    "tanh": Activation(np.tanh, 1.0, 8 * UNIT_ROUNDOFF, cuts=False),
}


def bounds(weights: Weights, activation: str, images: np.ndarray) -> Bounds:
    """Compute the reference and what float32 may make of it.

    Args:
        weights: float32.
        activation: relu, sigmoid or tanh.
        images: float32 (n, pixels).

    Returns:
        float64 (n, classes): the probabilities, and the lowest and the highest that a correct
        float32 runtime can answer. Where float32 may overflow, or the image is not finite, both
        are NaN: no bound holds.
    """
    parts = [
        _bounds(weights, ACTIVATIONS[activation], np.asarray(images[first : first + BLOCK]))
        for first in range(0, max(len(images), 1), BLOCK)
    ]
    return Bounds(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _bounds(weights: Weights, activation: Activation, images: np.ndarray) -> Bounds:
    kernel_1, bias_1, kernel_2, bias_2 = (weight.astype(np.float64) for weight in weights)
    with np.errstate(over="ignore", invalid="ignore"):  # hostile images overflow, as they should
        before = images.astype(np.float64) @ kernel_1 + bias_1
        terms = np.count_nonzero(images, axis=1, keepdims=True)
        size = np.abs(images) @ np.abs(weights.hidden_kernel) + np.abs(weights.hidden_bias)
        before_error = _gamma(terms + 1) * size + (terms + 1) * TINY
        hidden = activation.function(before)
        hidden_error = before_error * activation.slope + activation.error
        if activation.cuts:
            hidden_error = np.where(before + before_error <= 0, 0.0, hidden_error)
        largest = np.abs(hidden) + hidden_error
        terms = np.count_nonzero(largest, axis=1, keepdims=True)
        logits = hidden @ kernel_2 + bias_2
        sums = largest @ np.abs(kernel_2) + np.abs(bias_2)
        logits_error = (
            hidden_error @ np.abs(kernel_2) + _gamma(terms + 1) * sums + (terms + 1) * TINY
        )
        low, high = _softmax_bounds(logits, logits_error)
        overflows = ~((size.max(axis=1) < LARGEST) & (sums.max(axis=1) < LARGEST))
        low[overflows] = high[overflows] = np.nan
        return Bounds(_softmax(logits), low, high)


def _gamma(terms: np.ndarray) -> np.ndarray:
    """Give the largest relative error of a sum of so many products."""
    product = terms * (UNIT_ROUNDOFF * SLACK)
    gamma: np.ndarray = product / (1.0 - product)
    return gamma


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _softmax_bounds(logits: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bound float32's softmax of any logits within `error` of these: low and high."""
    top = logits.max(axis=1, keepdims=True)
    # What float32 subtracts from the largest logit is rounded: relative u of the difference.
    difference = (logits + error).max(axis=1, keepdims=True) - (logits - error)
    inside = UNIT_ROUNDOFF * SLACK * difference
    most = np.exp(np.minimum(logits + error - top + inside, MOST_POWER)) * (1.0 + EXP_ERROR) + TINY
    least = np.exp(logits - error - top - inside) * (1.0 - EXP_ERROR) - TINY
    least = np.maximum(least, 0.0)
    around = _gamma(np.array(logits.shape[1] + 1))
    others = 1.0 - np.eye(logits.shape[1])  # added up anew: a difference would cancel
    high = most / (most + least @ others) * (1.0 + 2.0 * around) + TINY
    low = least / (least + most @ others) * (1.0 - around) - TINY
    return np.maximum(low, 0.0), np.minimum(high, 1.0 + 2.0 * around)
