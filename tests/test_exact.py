"""The exact ONNX file: no sum can round, whatever the image, runtime and order of adding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fashion_mlp.export.exact import exact_graph
from fashion_mlp.export.quantize import (
    LIMIT,
    diffused,
    largest_error,
    largest_sum,
    quantize,
)
from fashion_mlp.network import engine
from fashion_mlp.proof.box import largest_difference, worst_found
from fashion_mlp.proof.evidence import Evidence, gather
from fashion_mlp.proof.exact import EXACT, measure
from fashion_mlp.proof.integers import prove_exact_sums
from fashion_mlp.proof.levels import prove
from fashion_mlp.proof.reference import ACTIVATIONS, bounds
from fashion_mlp.proof.runtime import Candidate, onnxruntime_predict
from tests.oracle import DEPTHS, make_images, make_layers, network_of

if TYPE_CHECKING:
    from fashion_mlp.network.model import Layer

SHAPE, CLASSES = (5, 6), 4
PIXELS = SHAPE[0] * SHAPE[1]
NETWORKS = [(units, "relu") for units in DEPTHS] + [([9], "sigmoid"), ([9, 5], "tanh")]


@pytest.fixture(autouse=True, scope="module")
def keras() -> None:
    engine.start()


def model_of(layers: list[Layer], opset: int = 13) -> onnx.ModelProto:
    return exact_graph(quantize(layers, SHAPE), opset, 8)


def as_bytes(images: np.ndarray) -> np.ndarray:
    return np.rint(images * 255).astype(np.uint8)


def logits_of(layers: list[Layer], images: np.ndarray) -> np.ndarray:
    *hidden, last = layers
    values = images.astype(np.float64)
    for layer in hidden:
        sums = values @ layer.kernel.astype(np.float64) + layer.bias
        values = ACTIVATIONS[layer.activation].function(sums)
    return np.asarray(values @ last.kernel.astype(np.float64) + last.bias)


@pytest.mark.parametrize(("units", "activation"), NETWORKS, ids=str)
def test_answers_are_the_networks_within_the_bound_that_is_derived(
    units: list[int], activation: str
) -> None:
    layers = make_layers(PIXELS, units, CLASSES, scale=0.4, activation=activation)
    images = make_images(500, PIXELS)
    logits = onnxruntime_predict(model_of(layers))(as_bytes(images), 500)
    distance = np.abs(logits - logits_of(layers, as_bytes(images) / 255)).max()
    assert distance <= largest_error(layers, quantize(layers, SHAPE))
    assert distance < 0.01 * np.abs(logits).max()


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(("units", "activation"), NETWORKS, ids=str)
def test_proven_and_the_same_bits_in_any_order_and_precision(
    units: list[int], activation: str, opset: int
) -> None:
    layers = make_layers(PIXELS, units, CLASSES, activation=activation)
    model = model_of(layers, opset)
    onnx.checker.check_model(model, full_check=True)
    theorem = prove_exact_sums(model)
    assert theorem.sums > 0
    assert 0 < theorem.largest <= 1
    images = as_bytes(make_images(200, PIXELS))
    expected = onnxruntime_predict(model)(images, 200)
    # Terms in another order: the rows of the first kernel and the pixels, shuffled alike.
    order = np.random.default_rng(0).permutation(PIXELS)
    (kernel,) = (it for it in model.graph.initializer if it.name == "dense_1_kernel")
    shuffled = numpy_helper.to_array(kernel)[order]
    kernel.CopyFrom(numpy_helper.from_array(shuffled, kernel.name))
    assert onnxruntime_predict(model)(images[:, order], 7).tobytes() == expected.tobytes()


def test_the_worst_image_of_a_unit_fills_its_sum_and_stays_exact() -> None:
    layers = make_layers(PIXELS, [6], CLASSES)
    first, _ = quantize(layers, SHAPE)
    kernel, bias = first.kernel * LIMIT / 256, first.bias * LIMIT / 256
    largest = largest_sum(kernel.astype(np.float64), bias.astype(np.float64))
    assert (largest < LIMIT).all()
    assert (largest > 0.99 * LIMIT).all()
    assert (kernel == np.rint(kernel)).all()
    for unit in range(6):
        image = np.where(kernel[:, unit] > 0, 255, 0)
        exact = sum(int(a) * int(b) for a, b in zip(image, kernel[:, unit], strict=True))
        total = np.float32(0)
        for pixel, weight in zip(image.astype(np.float32), kernel[:, unit], strict=True):
            total += pixel * weight
        assert int(total) == exact


def test_rounding_errors_are_passed_on_and_none_is_lost() -> None:
    kernel = np.random.default_rng(0).normal(0, 10, (PIXELS, 3))
    rounded = diffused(kernel, SHAPE)
    assert (rounded == np.rint(rounded)).all()
    assert np.abs(rounded - kernel).max() < 2
    # A flat picture meets the sum of the weights: rounding each alone is off by more.
    inner = np.s_[:-1, 1:-1]
    off = (rounded - kernel).reshape(*SHAPE, 3)[inner].sum(axis=(0, 1))
    assert np.abs(off).max() < 2
    np.testing.assert_array_equal(diffused(np.full((PIXELS, 1), 7.0), SHAPE), 7.0)


def edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., None]:
    """Make a function that changes a constant of a model."""

    def apply(model: onnx.ModelProto) -> None:
        (tensor,) = (it for it in model.graph.initializer if it.name == name)
        array = np.asarray(change(numpy_helper.to_array(tensor).copy()), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return apply


def operator(number: int, name: str) -> Callable[..., None]:
    def apply(model: onnx.ModelProto) -> None:
        model.graph.node[number].op_type = name

    return apply


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def fused(model: onnx.ModelProto) -> None:
    """Leave out the scaling between a product and the addition behind it."""
    (scaled,) = (it for it in model.graph.node if it.name == "dense_2_scaled_0")
    (added,) = (it for it in model.graph.node if scaled.output[0] in it.input)
    added.input[list(added.input).index(scaled.output[0])] = scaled.input[0]


def behind_a_cast(model: onnx.ModelProto) -> None:
    """Hide a product from the rounding addition behind it by a cast that changes nothing."""
    fused(model)
    (added,) = (it for it in model.graph.node if it.name == "dense_2_bytes_0")
    (product,) = (name for name in added.input if "matmul" in name)
    added.input[list(added.input).index(product)] = "cast"
    cast = helper.make_node("Cast", [product], ["cast"], to=TensorProto.FLOAT)
    model.graph.node.insert(list(model.graph.node).index(added), cast)


def half_precision(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].i = TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (behind_a_cast, r"dense_2_bytes.*a sum can reach"),
        (half_precision, r"pixels \(Cast\): expected a cast to float32"),
        (edit("dense_2_base_1", lambda it: it * 2.0**-110), "float32's smallest normal"),
        (edit("dense_1_kernel", lambda it: it * 2), r"dense_1_add .*unit \d+: a sum can reach"),
        (edit("dense_1_kernel", lambda it: it + 2.0**-17), r"dense_1_matmul .*a sum can reach"),
        (edit("dense_1_bias", lambda it: it + 256), r"dense_1_add .*a sum can reach"),
        (edit("dense_2_kernel", lambda it: it * 1.1), r"dense_2_matmul_0 .*a sum can reach"),
        (edit("dense_2_factor_0", lambda it: it * 0.9), r"dense_2_bytes.*a sum"),
        (fused, r"dense_2_bytes.*a sum can reach"),
        (operator(4, "Ceil"), r"no rule for 'Ceil'"),
        (float_input, "input image: expected uint8"),
    ],
)
def test_a_sum_that_may_round_is_refused(
    change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    model = model_of(make_layers(PIXELS, [6], CLASSES))
    change(model)
    with pytest.raises(ValueError, match=reason):
        prove_exact_sums(model)


def test_a_tie_goes_to_the_lower_class() -> None:
    (layer,) = make_layers(PIXELS, [], CLASSES)
    tied = layer._replace(kernel=layer.kernel * 0, bias=np.array([0, 3, 1, 3], np.float32))
    _, classes, _ = ReferenceEvaluator(model_of([tied])).run(
        None, {"image": as_bytes(make_images(3, PIXELS))}
    )
    assert list(classes) == [1, 1, 1]


def test_a_layer_with_too_many_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="has room for 32,768 inputs of a layer, got 40000"):
        quantize(make_layers(40_000, [], 2), (200, 200))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e5])
def test_weights_of_any_size(scale: float) -> None:
    layers = make_layers(PIXELS, [6, 5], CLASSES, scale=scale)
    prove_exact_sums(model_of(layers))
    zero = [layer._replace(kernel=layer.kernel * 0, bias=layer.bias * 0) for layer in layers]
    prove_exact_sums(model_of(zero))


@pytest.fixture(scope="module")
def proven() -> tuple[onnx.ModelProto, Evidence]:
    """An exact model, and the evidence for it."""
    layers = make_layers(PIXELS, [8, 6], CLASSES, scale=0.4)
    images = {"train": make_images(60, PIXELS, 4), "test": make_images(100, PIXELS, 5)}
    return model_of(layers), gather(network_of(layers), images, [1, 7])[0]


def test_proof_counts_what_held(proven: tuple[onnx.ModelProto, Evidence]) -> None:
    model, evidence = proven
    candidate = Candidate(model, model)
    assert prove(candidate, evidence, levels=EXACT, name="exact")["exact_sums_proven"] > 0
    metrics, other = measure(candidate, evidence, print)
    assert metrics["exact_argmax_agreement"] == 160 - len(other)
    assert metrics["exact_largest_difference"] < 0.01


def test_measure_lists_the_images_that_get_another_class(
    proven: tuple[onnx.ModelProto, Evidence],
) -> None:
    """The exact model of other weights."""
    _, evidence = proven
    model = model_of(make_layers(PIXELS, [8, 6], CLASSES, seed=2, scale=0.4))
    metrics, other = measure(Candidate(model, model), evidence, print)
    furthest, expected = 0.0, dict[tuple[str, int], int]()
    for split, pixels in evidence.pixels.items():
        _, classes, probabilities = ReferenceEvaluator(model).run(None, {"image": pixels})
        ours = evidence.keras[split]
        furthest = max(furthest, float(np.abs(probabilities - ours).max()))
        expected |= {
            (split, number): int(classes[number])
            for number in np.flatnonzero(classes != ours.argmax(axis=1)).tolist()
        }
    assert len(expected) > 10
    assert other == expected
    assert metrics["exact_argmax_agreement"] == 160 - len(other)
    assert furthest <= metrics["exact_largest_difference"] < 1.1 * furthest  # two digits of it


@pytest.mark.parametrize(("units", "activation"), NETWORKS, ids=str)
def test_bound_for_all_images_holds_for_each(units: list[int], activation: str) -> None:
    layers = make_layers(PIXELS, units, CLASSES, scale=0.3, activation=activation)
    bound = largest_difference(layers)
    images = np.concatenate([make_images(300, PIXELS), np.ones((1, PIXELS), np.float32)])
    known = bounds(layers, images)
    width = (known.high - known.low).max()
    assert 0.999 * width < worst_found(layers, images, known) <= bound
    # The sizes of a sum over a box are not those of one image; so much is lost.
    assert bound < 1000 * width


def test_bound_for_all_images_of_one_layer_is_the_formula() -> None:
    (layer,) = make_layers(PIXELS, [], 2)
    terms = (PIXELS + 1) * 2.0**-24
    sizes = np.abs(layer.kernel.astype(np.float64)).sum(axis=0) + np.abs(layer.bias)
    assert largest_difference([layer]) >= np.tanh(terms * sizes.sum() / 2)
    assert largest_difference([layer]) <= np.tanh(terms * sizes.sum() / 2) + 0.0011
