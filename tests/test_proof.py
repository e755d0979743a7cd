import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from checks.mutations import Mutation, mutations, noticed
from fashion_mlp.network import engine
from fashion_mlp.proof import levels as proof
from stages import export

PIXELS, UNITS, CLASSES = 16, 8, 3
FORM = (18, 8)


def make_network(seed: int) -> Any:
    engine.start()
    import keras

    from fashion_mlp.network.model import build_network

    keras.utils.set_random_seed(seed)
    network = build_network(PIXELS, UNITS, "relu", CLASSES)
    rng = np.random.default_rng(seed)
    network.set_weights([rng.normal(0, 1, w.shape) for w in network.get_weights()])
    return network


def make_images(count: int) -> np.ndarray:
    pixels = np.random.default_rng(3).integers(0, 256, (count, PIXELS))
    return (pixels / np.float32(255)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> Any:
    return make_network(1)


@pytest.fixture(scope="module")
def evidence(network: Any) -> proof.Evidence:
    images = {"train": make_images(60), "test": make_images(300)}
    return proof.gather(network, images, *FORM, 1e-5, [1, 7])[0]


@pytest.fixture(scope="module")
def model(network: Any) -> onnx.ModelProto:
    return export.convert(network, *FORM)


def other_weights() -> Iterator[list[np.ndarray]]:
    while True:
        yield make_network(2).get_weights()


def test_prove_counts_what_held(model: onnx.ModelProto, evidence: proof.Evidence) -> None:
    said: list[str] = []
    figures = proof.prove(proof.Candidate(model), evidence, said.append)
    assert [line.split(":")[0] for line in said] == list(proof.LEVELS)
    certified = figures.pop("argmax_certified")
    assert figures.pop("argmax_listed") == 360 - certified == len(proof.uncertified(evidence))
    assert figures == {
        "operators": 6,
        "initializers_bit_identical": 4,
        "weights_bit_identical": PIXELS * UNITS + UNITS + UNITS * CLASSES + CLASSES,
        "images": 360,
        "within_bound": 360,
        "tolerance": 1e-5,
        "argmax_agreement": 360,
        "batch_sizes_agreeing": 2,
        "hostile_inputs_agreeing": 18,  # all but the largest and the smallest float32
    }


@pytest.mark.parametrize("kind", mutations(other_weights()), ids=lambda kind: kind.name)
def test_levels_notice_every_mutation(
    kind: Mutation, model: onnx.ModelProto, evidence: proof.Evidence
) -> None:
    rng = np.random.default_rng(4)
    for _ in range(min(kind.models, 5)):
        mutant = onnx.ModelProto()
        mutant.CopyFrom(model)
        kind.mutate(mutant, rng)
        assert noticed(mutant, evidence)


def test_prove_names_level_tensor_and_place(
    model: onnx.ModelProto, evidence: proof.Evidence
) -> None:
    mutant = onnx.ModelProto()
    mutant.CopyFrom(model)
    array = numpy_helper.to_array(mutant.graph.initializer[2]).copy()
    array[5, 1] = np.nextafter(array[5, 1], np.float32(9))
    mutant.graph.initializer[2].raw_data = array.tobytes()
    with pytest.raises(ValueError, match=r"level weights: initializer probabilities_kernel: 1 of"):
        proof.prove(proof.Candidate(mutant), evidence, lambda line: None)


def test_levels_ask_onnxruntime_once_for_each_batch_size(
    model: onnx.ModelProto, evidence: proof.Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    real = proof.onnxruntime_predict

    def counting(model: onnx.ModelProto) -> proof.Predict:
        predict = real(model)

        def ask(images: np.ndarray, batch_size: int) -> np.ndarray:
            asked.append((len(images), batch_size))
            return predict(images, batch_size)

        return ask

    monkeypatch.setattr(proof, "onnxruntime_predict", counting)
    proof.prove(proof.Candidate(model), evidence, lambda line: None)
    hostile = len(evidence.hostile_images)
    assert asked == [(60, 1000), (300, 1000), (300, 1), (300, 7), (hostile, 1000)]


def test_check_bounds_counts_nan_as_a_miss(
    model: onnx.ModelProto, evidence: proof.Evidence
) -> None:
    mutant = onnx.ModelProto()
    mutant.CopyFrom(model)
    mutant.graph.initializer[3].raw_data = np.full(CLASSES, np.nan, np.float32).tobytes()
    with pytest.raises(ValueError, match=r"onnxruntime, train image 0, class 0: .* got nan"):
        proof.check_bounds(proof.Candidate(mutant), evidence)


def test_gather_refuses_keras_outside_the_tolerance(network: Any) -> None:
    with pytest.raises(
        ValueError, match=r"Keras, test image \d+, class \d: expected a prob.*1e-12"
    ):
        proof.gather(network, {"test": make_images(50)}, *FORM, 1e-12, [])


def test_gather_refuses_another_network() -> None:
    engine.start()
    import keras

    network = keras.Sequential([keras.Input((PIXELS,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="2 dense layers, got 1"):
        proof.gather(network, {"test": make_images(1)}, *FORM, 1e-5, [])


def test_nan_stays_nan_in_onnxruntime_and_in_keras_layer_by_layer(
    network: Any, model: onnx.ModelProto
) -> None:
    """Not in Keras' predict, where layers are fused: docs/proof.md."""
    image = np.full((1, PIXELS), np.nan, np.float32)
    assert np.isnan(proof.onnxruntime_predict(model)(image, 1)).all()
    assert np.isnan(np.asarray(network(image, training=False))).all()


def test_uint8_model_gives_the_same_bits(model: onnx.ModelProto, evidence: proof.Evidence) -> None:
    from_bytes = export.uint8_variant(model)
    assert export.check_uint8(from_bytes, proof.Candidate(model), evidence.images) == 360


@pytest.mark.parametrize("operator", ["/256", "Mul"])
def test_uint8_model_with_another_scale_is_refused(
    operator: str, model: onnx.ModelProto, evidence: proof.Evidence
) -> None:
    from_bytes = export.uint8_variant(model)
    white = from_bytes.graph.initializer[-1]
    if operator == "/256":
        white.raw_data = np.float32(256).tobytes()
    else:  # what the division becomes where it is written through TensorFlow
        from_bytes.graph.node[1].op_type = "Mul"
        white.raw_data = (np.float32(1) / np.float32(255)).tobytes()
    with pytest.raises(ValueError, match=r"uint8 model, train image \d+: expected"):
        export.check_uint8(from_bytes, proof.Candidate(model), evidence.images)


def test_check_uint8_refuses_images_that_are_not_bytes(model: onnx.ModelProto) -> None:
    images = {"test": make_images(3) * np.float32(0.999)}
    with pytest.raises(ValueError, match="not bytes divided by 255"):
        export.check_uint8(export.uint8_variant(model), proof.Candidate(model), images)


@pytest.mark.filterwarnings("ignore:onnx.version is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("order", "passes"), [(1, True), (-1, False)])
def test_test_data_set_passes_onnx_own_runner(
    order: int,
    passes: bool,
    model: onnx.ModelProto,
    evidence: proof.Evidence,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ONNX's backend runner wants model.onnx beside test_data_set_0; wrong outputs must fail."""
    from onnx.backend.test import runner
    from onnx.backend.test.case.test_case import TestCase
    from onnxruntime.backend import backend

    export.write_model(tmp_path / "model.onnx", model)
    expected = evidence.bounds["test"].probabilities[:4]
    folder = tmp_path / "test_data_set_0"
    export.write_test_data(folder, evidence.images["test"][:4], expected[::order])
    where = ("fashion_mlp", None, str(tmp_path), None, None)
    case = TestCase("test_fashion_mlp", *where, kind="real", rtol=1e-6, atol=1e-7)
    # Instead of the thousands that ONNX brings.
    monkeypatch.setattr(runner, "load_model_tests", lambda kind: [case] if kind == "real" else [])
    result = unittest.TestResult()
    suite = runner.Runner(backend, __name__).include("test_fashion_mlp_cpu").test_suite
    suite.run(result)
    assert result.testsRun == 1 + len(result.skipped)  # the other: on CUDA
    assert result.wasSuccessful() == passes
