from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_mlp.network import engine
from fashion_mlp.proof.reference import ACTIVATIONS, FLOAT32, Bounds, bounds
from tests.oracle import DEPTHS, forward, make_images, make_layers

if TYPE_CHECKING:
    from fashion_mlp.network.model import Layer

PIXELS, CLASSES = 9, 4


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    engine.start()  # Layer lives beside Keras


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_units", DEPTHS, ids=str)
def test_bounds_reference_equals_a_longer_float(activation: str, hidden_units: list[int]) -> None:
    layers = make_layers(PIXELS, hidden_units, CLASSES, activation=activation)
    images = make_images(20, PIXELS)
    expected, known = forward(layers, images, np.longdouble).astype(float), bounds(layers, images)
    np.testing.assert_allclose(known.probabilities, expected, rtol=1e-12)
    assert (known.low <= known.probabilities).all()
    assert (known.probabilities <= known.high).all()
    assert (known.high - known.low).max() < 1e-3


def flushed(values: np.ndarray) -> np.ndarray:
    """Take what is below float32's normal numbers for zero."""
    return np.where(np.abs(values) < FLOAT32.tiny, np.float32(0), values)


def in_float32(
    layers: list[Layer],
    images: np.ndarray,
    rng: np.random.Generator,
    flush: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """Run in float32, each layer's products added one after the other in an order of its own.

    flush: of every operand and result.
    """
    values = flush(images)
    for layer in layers:
        kernel = flush(layer.kernel)
        terms = [np.tile(flush(layer.bias), (len(images), 1))]
        terms += [
            flush(column[:, np.newaxis] * row) for column, row in zip(values.T, kernel, strict=True)
        ]
        total = np.zeros_like(terms[0])
        for place in rng.permutation(len(terms)):
            total = flush(total + terms[place])
        values = total if layer.activation == "softmax" else np.maximum(total, np.float32(0))
    powers = flush(np.exp(flush(values - values.max(axis=1, keepdims=True))))
    assert powers.dtype == np.float32
    return flush(powers / powers.sum(axis=1, keepdims=True))


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 30.0]), st.sampled_from(DEPTHS))
def test_bounds_hold_for_any_order_of_adding(
    seed: int, scale: float, hidden_units: list[int]
) -> None:
    layers = make_layers(PIXELS, hidden_units, CLASSES, seed, scale)
    images = make_images(20, PIXELS, seed)
    known, rng = bounds(layers, images), np.random.default_rng(seed)
    for flush in (np.asarray, np.asarray, flushed):
        found = in_float32(layers, images, rng, flush)
        assert ((known.low <= found) & (found <= known.high)).all()


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-130, 60), min_size=4, max_size=4))
def test_bounds_hold_where_operands_are_flushed_to_zero(seed: int, powers: list[int]) -> None:
    """Layers small and large in turn: what is lost at the end of float32's range comes back."""
    layers, images = make_layers(PIXELS, [8, 8], CLASSES, seed), make_images(20, PIXELS, seed)
    layers = [
        layer._replace(kernel=np.ldexp(layer.kernel, power), bias=np.ldexp(layer.bias, power - 30))
        for layer, power in zip(layers, powers, strict=False)
    ]
    known = bounds(layers, np.ldexp(images, powers[3]))
    for flush in (np.asarray, flushed):
        rng = np.random.default_rng(seed)
        with np.errstate(all="ignore"):
            found = in_float32(layers, np.ldexp(images, powers[3]), rng, flush)
        given_up = np.isnan(known.low)
        assert ((known.low <= found) & (found <= known.high) | given_up).all()
        assert max(map(abs, powers)) > 12 or not given_up.any()


@pytest.mark.parametrize("pixel", [np.finfo(np.float32).max, np.inf, np.nan])
@pytest.mark.parametrize("hidden_units", DEPTHS, ids=str)
def test_bounds_hold_no_promise_where_float32_overflows(
    pixel: float, hidden_units: list[int]
) -> None:
    layers = make_layers(PIXELS, hidden_units, CLASSES, seed=6)
    known = bounds(layers, np.full((1, PIXELS), np.float32(pixel)))
    assert np.isnan(known.low).all()
    assert np.isnan(known.high).all()


def test_certified_wants_the_worst_of_the_best_above_the_best_of_the_rest() -> None:
    middle = np.array([[0.7, 0.3], [0.51, 0.49]])
    assert Bounds(middle, middle - 0.02, middle + 0.02).certified().tolist() == [True, False]
