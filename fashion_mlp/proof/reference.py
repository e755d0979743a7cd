"""float64 reference and rounding error bound.

The bound is derived, not chosen: it holds for every order in which a runtime may add the products,
with or without fused multiply-add, on every processor that rounds as IEEE 754 says. Written with
the unit roundoff u, 2**-24 for float32, and gamma(n) = n u / (1 - n u), layer after layer, for
however many there are:

1.  A layer is given x, of which the runtime has some x' with |x' - x| <= e (e = 0 for the image),
    and computes x' W + b. What it is given moves the result by at most e |W|. A sum of n products,
    in whatever order, rounds by at most gamma(n) times the sum of the terms' sizes (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd edition 2002, section 3.1, equation 3.5).
    A term that is zero rounds nothing, so n counts the inputs that may be other than zero; the
    bias adds one. So

        da = e |W| + gamma(n + 1) * ((|x| + e) |W| + |b|)

2.  relu moves no two numbers further apart, and gives exactly 0 where a + da <= 0: the next
    layer's e is da, or 0 there. (sigmoid and tanh: see `ACTIVATIONS`.)

3.  softmax grows with its own logit and falls with the others, so its extremes over the box
    z ± dz are at corners of the box: no linearisation. Its own rounding: the difference to the
    largest logit (relative u), exp (3 ulp, which is 6 u: the largest error that the OpenCL C
    specification, "Relative Error as ULPs", allows it), a sum of k terms and a division
    (gamma(k + 1)).

A number below the smallest normal one, t, may be taken for zero, whether it is a result or an
operand (TensorFlow does both). With n inputs that may be other than zero, that adds to da

        t * (sum |W| + sum (|x| + e) + 4 (n + 1))

for inputs, for weights, and for the bias, the products and the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from fashion_mlp.network.model import Layer

SLACK = 1.0 + 2.0**-10  # more than what the bound itself loses to rounding
EXP_ERROR = 6.0  # 3 ulp, in units of roundoff
MOST_POWER = 600.0  # exp of it is more than any sum, and far from float64's end
BLOCK = 5000  # images at a time, so that memory stays bounded


class Precision(NamedTuple):
    """The arithmetic of a runtime."""

    unit: float  # roundoff: half the distance from 1 to the next number
    tiny: float  # the smallest normal number
    largest: float


FLOAT32 = Precision(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max))
# Four times the unit roundoff of float64: there the reference rounds as the runtime does, and so
# does the computation of the bound.
FLOAT64 = Precision(2.0**-51, 2.0**-1022, float(np.finfo(np.float64).max))


class Bounds(NamedTuple):
    """What a runtime may answer: float64 (n, classes) each."""

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
    error: float  # absolute, its own, in units of roundoff
    cuts: bool  # gives exactly 0 for what is negative


# sigmoid and tanh lie within -1…1; 4 ulp at 1 (8 u) covers the rational approximations in use,
# which cut off where the function is within 4 u of its limit.
ACTIVATIONS = {
    "relu": Activation(lambda x: np.maximum(x, 0.0), 1.0, 0.0, cuts=True),
    "sigmoid": Activation(lambda x: 1.0 / (1.0 + np.exp(-x)), 0.25, 8.0, cuts=False),
    "tanh": Activation(np.tanh, 1.0, 8.0, cuts=False),
}


def bounds(layers: Sequence[Layer], images: np.ndarray, precision: Precision = FLOAT32) -> Bounds:
    """Compute the reference and what rounding may make of it.

    Args:
        layers: relu, sigmoid or tanh; softmax the last.
        images: float32 (n, pixels).
        precision: of the runtime.

    Returns:
        float64 (n, classes): the probabilities, and the lowest and the highest that a correct
        runtime can answer. Where the runtime may overflow, or the image is not finite, both are
        NaN: no bound holds.
    """
    parts = [
        _bounds(layers, np.asarray(images[first : first + BLOCK]), precision)
        for first in range(0, max(len(images), 1), BLOCK)
    ]
    return Bounds(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _bounds(layers: Sequence[Layer], images: np.ndarray, precision: Precision) -> Bounds:
    # What goes into the next layer, float64 (n, inputs); largest is |values| + error.
    values = images.astype(np.float64)
    error, largest = np.zeros((1, 1)), np.abs(values)
    overflows = np.zeros(len(images), bool)
    with np.errstate(over="ignore", invalid="ignore"):  # some edge-case inputs overflow
        for number, layer in enumerate(layers, start=1):
            kernel, bias = layer.kernel.astype(np.float64), layer.bias.astype(np.float64)
            sizes = np.abs(kernel)
            terms = 1 + np.count_nonzero(largest, axis=1, keepdims=True)
            size = largest @ sizes + np.abs(bias)
            gamma = gamma_of(terms, precision.unit)
            overflows |= ~((size * (1.0 + gamma)).max(axis=1) < precision.largest)
            values = values @ kernel + bias
            flushed = sizes.sum(axis=0) + largest.sum(axis=1, keepdims=True) + 4.0 * terms
            inherited = error @ sizes if number > 1 else 0.0
            error = inherited + gamma * size + precision.tiny * flushed
            if number == len(layers):
                break
            activation = ACTIVATIONS[layer.activation]
            stays_zero = activation.cuts & (values + error <= 0)
            values = activation.function(values)
            error = error * activation.slope + activation.error * precision.unit
            error = np.where(stays_zero, 0.0, error)
            largest = np.abs(values) + error
        low, high = _softmax_bounds(values, error, precision)
        low[overflows] = high[overflows] = np.nan
        return Bounds(_softmax(values), low, high)


def gamma_of(terms: np.ndarray, unit: float) -> np.ndarray:
    """Give the largest relative error of a sum of so many products."""
    product = terms * (unit * SLACK)
    gamma: np.ndarray = product / (1.0 - product)
    return gamma


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _softmax_bounds(
    logits: np.ndarray, error: np.ndarray, precision: Precision
) -> tuple[np.ndarray, np.ndarray]:
    """Bound a runtime's softmax of any logits within `error` of these: low and high."""
    unit, tiny, _ = precision
    top = logits.max(axis=1, keepdims=True)
    # What the runtime subtracts from the largest logit is rounded: relative u of the difference.
    difference = (logits + error).max(axis=1, keepdims=True) - (logits - error)
    inside = unit * SLACK * difference
    power = np.exp(np.minimum(logits + error - top + inside, MOST_POWER))
    most = power * (1.0 + EXP_ERROR * unit) + tiny
    least = np.exp(logits - error - top - inside) * (1.0 - EXP_ERROR * unit) - tiny
    least = np.maximum(least, 0.0)
    around = gamma_of(np.array(logits.shape[1] + 1), unit)
    others = 1.0 - np.eye(logits.shape[1])  # added up anew: a difference would cancel
    high = most / (most + least @ others) * (1.0 + 2.0 * around) + tiny
    low = least / (least + most @ others) * (1.0 - around) - tiny
    return np.maximum(low, 0.0), np.minimum(high, 1.0 + 2.0 * around)
