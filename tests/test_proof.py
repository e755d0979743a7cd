import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from checks.healthy import refusals
from checks.mutants import division
from checks.mutations import Form, forms, noticed
from fashion_mlp.export.exact import exact_graph
from fashion_mlp.export.graph import plain_graph, uint8_graph
from fashion_mlp.export.quantize import quantize
from fashion_mlp.network import engine
from fashion_mlp.proof import levels
from fashion_mlp.proof.evidence import Evidence, as_bytes, gather
from fashion_mlp.proof.levels import PLAIN, UINT8, prove
from fashion_mlp.proof.reference import FLOAT32
from fashion_mlp.proof.runtime import Candidate
from stages import export
from tests.oracle import DEPTHS, make_images, make_layers, network_of

SHAPE, CLASSES = (4, 4), 3
PIXELS = SHAPE[0] * SHAPE[1]
FORM = (13, 8)


def gathered(layers: Sequence[Any]) -> Evidence:
    images = {"train": make_images(60, PIXELS, 4), "test": make_images(300, PIXELS, 5)}
    return gather(network_of(layers), images, [1, 7])[0]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    engine.start()
    return gathered(make_layers(PIXELS, [8, 6], CLASSES))


@pytest.fixture(scope="module")
def model(evidence: Evidence) -> onnx.ModelProto:
    return plain_graph(evidence.layers, *FORM)


@pytest.mark.parametrize("hidden_units", DEPTHS, ids=str)
def test_prove_counts_what_held(hidden_units: list[int]) -> None:
    engine.start()
    evidence = gathered(make_layers(PIXELS, hidden_units, CLASSES))
    model = plain_graph(evidence.layers, *FORM)
    said: list[str] = []
    metrics = prove(Candidate(model, model), evidence, said.append)
    assert [line.split(":")[0] for line in said] == list(PLAIN)
    certified = metrics.pop("argmax_certified")
    listed = export.uncertified_rows(evidence, {}, "abc")
    assert metrics.pop("argmax_listed") == 360 - certified == len(listed)
    assert certified > 300
    assert metrics == {
        "operators": 3 * len(evidence.layers),
        "initializers_bit_identical": 2 * len(evidence.layers),
        "weights_bit_identical": sum(a.size for layer in evidence.layers for a in layer[:2]),
        "float64_images": 300,
        "images": 360,
        "within_bound": 360,
        "argmax_agreement": 360,
        "batch_sizes_agreeing": 2,
        "edge_case_inputs_agreeing": 18,  # all but the largest and the smallest float32
    }


def shipped(model: onnx.ModelProto, evidence: Evidence) -> list[Form]:
    """Make the files that ship, with some metadata, and the ways to break them."""
    exact = exact_graph(quantize(evidence.layers, SHAPE), *FORM)
    files = [copy.deepcopy(file) for file in (model, uint8_graph(model), exact)]
    for file in files:
        file.doc_string = "a classifier"
        helper.set_model_props(file, {"test_accuracy": "0.870000", "license": "MIT"})
    seeds = (make_layers(PIXELS, [8, 6], CLASSES, seed) for seed in range(2, 9))
    return forms(files, SHAPE, [[it for layer in one for it in layer[:2]] for one in seeds])


def test_levels_notice_every_mutation(model: onnx.ModelProto, evidence: Evidence) -> None:
    rng = np.random.default_rng(4)
    for form in shipped(model, evidence):
        assert noticed(form.model, form, evidence) == []
        by: set[str] = set()
        for kind in form.kinds:
            for _ in range(min(kind.models, 3)):
                mutant = copy.deepcopy(form.model)
                kind.mutate(mutant, rng)
                levels = noticed(mutant, form, evidence)
                assert levels, f"{form.name}: {kind.name}"
                by |= {*levels}
        assert by == {*form.levels}  # each level notices something, whatever the others do


def test_odd_networks_are_not_refused() -> None:
    """A slice of what `make mutations` proves."""
    engine.start()
    assert [reason for reason in refusals(15, seed=1) if reason] == []


def test_prove_names_level_tensor_and_place(model: onnx.ModelProto, evidence: Evidence) -> None:
    mutant = copy.deepcopy(model)
    array = numpy_helper.to_array(mutant.graph.initializer[2]).copy()
    array[5, 1] = np.nextafter(array[5, 1], np.float32(9))
    mutant.graph.initializer[2].raw_data = array.tobytes()
    says = r"level weights: initializer dense_2_kernel: 1 of .* first at \(5, 1\)"
    with pytest.raises(ValueError, match=says):
        prove(Candidate(mutant, model), evidence)


def test_check_bounds_counts_nan_as_a_miss(model: onnx.ModelProto, evidence: Evidence) -> None:
    mutant = copy.deepcopy(model)
    mutant.graph.initializer[-1].raw_data = np.full(CLASSES, np.nan, np.float32).tobytes()
    with pytest.raises(ValueError, match=r"onnxruntime, train image 0, class 0: .* got nan"):
        levels.check_bounds(Candidate(mutant, model), evidence)


@pytest.mark.parametrize(
    ("activation", "count", "says"),
    [
        ("elu", 5, r"^dense layer 1: expected .* relu, sigmoid, tanh, got elu; run `dvc repro"),
        ("linear", 5, r"^dense layer 1: expected one of .*, got linear; run `dvc repro"),
        ("relu", 0, r"^test images: expected at least one, got 0; run `dvc repro"),
    ],
)
def test_gather_says_what_can_not_be_compared(activation: str, count: int, says: str) -> None:
    engine.start()
    network = network_of(make_layers(PIXELS, [8], CLASSES, activation=activation))
    with pytest.raises(ValueError, match=says):
        gather(network, {"test": make_images(count, PIXELS)}, [7])


def test_gather_refuses_weights_with_which_a_sum_may_overflow() -> None:
    engine.start()
    layers = make_layers(PIXELS, [8], CLASSES)
    layers = [it._replace(kernel=it.kernel * np.float32(1e25)) for it in layers]
    with pytest.raises(ValueError, match=r"^train image \d+: a sum may leave float32's range"):
        gathered(layers)


def test_gather_refuses_keras_outside_the_bound(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = FLOAT32._replace(unit=FLOAT32.unit / 2**10)
    monkeypatch.setattr("fashion_mlp.proof.reference.bounds.__defaults__", (narrow,))
    with pytest.raises(ValueError, match=r"^Keras, train image \d+, class \d: expected a prob"):
        gathered(evidence.layers)


def test_check_converter_refuses_other_answers(model: onnx.ModelProto, evidence: Evidence) -> None:
    other = make_layers(PIXELS, [8, 6], CLASSES, seed=2)
    with pytest.raises(ValueError, match=r"^beside tf2onnx's answers, test images: 900 of 900 v"):
        export.check_converter(network_of(other), model, evidence.images["test"])


def test_uint8_graph_that_is_wrong_itself_has_other_bits(
    model: onnx.ModelProto, evidence: Evidence
) -> None:
    plain, uint8 = Candidate(model, model), uint8_graph(model)
    division(uint8, np.random.default_rng(1))
    says = r"level same bits: train images: .* differ, first at"
    with pytest.raises(ValueError, match=says):
        prove(Candidate(uint8, uint8, plain), evidence, levels=UINT8)


def test_the_exact_file_says_its_own_accuracy(model: onnx.ModelProto, evidence: Evidence) -> None:
    other = quantize(make_layers(PIXELS, [8, 6], CLASSES, seed=2), SHAPE)
    graphs = {export.ONNX: model, export.ONNX_EXACT: exact_graph(other, *FORM)}
    numbers = evidence.keras["test"].argmax(axis=1)
    own = export.own_metadata(graphs, evidence, "test", numbers, 0.1)
    assert own[export.ONNX]["test_accuracy"] == "1.000000"
    assert float(own[export.ONNX_EXACT]["test_accuracy"]) < 0.9


def test_as_bytes_refuses_images_that_are_not_bytes() -> None:
    with pytest.raises(ValueError, match="not bytes divided by 255"):
        as_bytes(make_images(3, PIXELS) * np.float32(0.999), "test")
