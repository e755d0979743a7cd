import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_mlp.network import engine
from fashion_mlp.proof.reference import ACTIVATIONS, Bounds, bounds
from tests.oracle import DEPTHS, forward, make_images, make_layers

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


def in_float32(layers: list, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    """Run in float32, each layer's products added one after the other in an order of its own."""
    values = images
    for layer in layers:
        terms = [np.tile(layer.bias, (len(images), 1))]
        terms += [
            column[:, np.newaxis] * row for column, row in zip(values.T, layer.kernel, strict=True)
        ]
        total = np.zeros_like(terms[0])
        for place in rng.permutation(len(terms)):
            total = total + terms[place]
        values = total if layer.activation == "softmax" else np.maximum(total, np.float32(0))
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    assert powers.dtype == np.float32
    return powers / powers.sum(axis=1, keepdims=True)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 30.0]), st.sampled_from(DEPTHS))
def test_bounds_hold_for_any_order_of_adding(
    seed: int, scale: float, hidden_units: list[int]
) -> None:
    layers = make_layers(PIXELS, hidden_units, CLASSES, seed, scale)
    images = make_images(20, PIXELS, seed)
    known, rng = bounds(layers, images), np.random.default_rng(seed)
    for _ in range(3):
        found = in_float32(layers, images, rng)
        assert ((known.low <= found) & (found <= known.high)).all()


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
