import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_mlp.proof.reference import ACTIVATIONS, Bounds, Weights, bounds

PIXELS, UNITS, CLASSES = 9, 6, 4


def make_weights(seed: int, scale: float = 1.0) -> Weights:
    rng = np.random.default_rng(seed)
    shapes = [(PIXELS, UNITS), (UNITS,), (UNITS, CLASSES), (CLASSES,)]
    return Weights(*(rng.normal(0, scale, shape).astype(np.float32) for shape in shapes))


def make_images(seed: int, count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, PIXELS)) * rng.integers(0, 2, (count, PIXELS))
    return (pixels / np.float32(255)).astype(np.float32)


def forward(weights: Weights, activation: str, images: np.ndarray) -> np.ndarray:
    """The network in the longest float that the processor has."""
    kernel_1, bias_1, kernel_2, bias_2 = (weight.astype(np.longdouble) for weight in weights)
    hidden = ACTIVATIONS[activation].function(images.astype(np.longdouble) @ kernel_1 + bias_1)
    powers = np.exp(hidden @ kernel_2 + bias_2)
    return powers / powers.sum(axis=1, keepdims=True)


def add_up(
    values: np.ndarray, kernel: np.ndarray, bias: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """A dense layer in float32, one product after the other, in the order given."""
    total = bias.copy()
    for i in order:
        total = (total + values[:, [i]] * kernel[i]).astype(np.float32)
    return total


def forward_float32(weights: Weights, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hidden = add_up(
        images, weights[0], np.tile(weights[1], (len(images), 1)), rng.permutation(PIXELS)
    )
    hidden = np.maximum(hidden, np.float32(0))
    logits = add_up(
        hidden, weights[2], np.tile(weights[3], (len(images), 1)), rng.permutation(UNITS)
    )
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float32)
    return powers / powers.sum(axis=1, keepdims=True, dtype=np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bounds_reference_equals_a_longer_float(activation: str) -> None:
    weights, images = make_weights(1), make_images(2)
    found = bounds(weights, activation, images).probabilities
    np.testing.assert_allclose(
        found, forward(weights, activation, images).astype(float), rtol=1e-13
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 30.0]))
def test_bounds_hold_for_any_order_of_adding(seed: int, scale: float) -> None:
    weights, images = make_weights(seed, scale), make_images(seed)
    found = forward_float32(weights, images, np.random.default_rng(seed))
    known = bounds(weights, "relu", images)
    assert ((known.low <= found) & (found <= known.high)).all()


def test_bounds_are_narrow() -> None:
    known = bounds(make_weights(3), "relu", make_images(4))
    assert (known.high - known.low).max() < 1e-4
    assert (known.low <= known.probabilities).all()
    assert (known.probabilities <= known.high).all()


def test_bounds_count_only_pixels_that_are_not_zero() -> None:
    weights = make_weights(5)
    dark = np.zeros((1, PIXELS), np.float32)
    grey = np.full((1, PIXELS), 1e-6, np.float32)  # hardly a larger size, but nine roundings
    widths = [np.subtract(*bounds(weights, "relu", image)[:0:-1]) for image in (dark, grey)]
    assert (widths[0] < widths[1]).all()


@pytest.mark.parametrize("pixel", [np.finfo(np.float32).max, np.inf, np.nan])
def test_bounds_hold_no_promise_where_float32_overflows(pixel: float) -> None:
    known = bounds(make_weights(6), "relu", np.full((1, PIXELS), np.float32(pixel)))
    assert np.isnan(known.low).all()
    assert np.isnan(known.high).all()


def test_bounds_of_huge_images_are_open_but_hold() -> None:
    known = bounds(make_weights(6), "relu", np.full((1, PIXELS), np.float32(1e30)))
    assert (known.low >= 0).all()
    assert (known.high <= 1.001).all()


def test_bounds_take_no_images() -> None:
    known = bounds(make_weights(7), "relu", np.empty((0, PIXELS), np.float32))
    assert [array.shape for array in known] == [(0, CLASSES)] * 3


def test_certified_wants_the_worst_of_the_best_above_the_best_of_the_rest() -> None:
    middle = np.array([[0.7, 0.3], [0.51, 0.49]])
    known = Bounds(middle, middle - 0.02, middle + 0.02)
    assert known.certified().tolist() == [True, False]


def test_certified_refuses_a_tie() -> None:
    weights = make_weights(8)
    for array in weights[2:]:
        array[..., 1] = array[..., 0]  # two classes that are always alike
        array[..., 2:] = -9.0
    assert not bounds(weights, "relu", make_images(9)).certified().any()
