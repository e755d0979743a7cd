import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import numpy_helper

from checks.small_data import Data
from fashion_mlp.export.graph import plain_graph, uint8_graph
from stages import export as stage
from stages import preprocess, train
from tests.conftest import CLASSES, HEIGHT, TEST, TRAIN, WIDTH, small_values, snapshot
from tests.oracle import DEPTHS, make_layers

pytestmark = pytest.mark.usefixtures("engine")

PIXELS = HEIGHT * WIDTH
OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
FILES = (stage.ONNX, stage.ONNX_UINT8, stage.ONNX_EXACT)
WRITTEN = (*FILES, stage.LABELS, stage.TEST_DATA, stage.METRICS)


def dimensions(value: onnx.ValueInfoProto, kind: int) -> list[str | int]:
    assert value.type.tensor_type.elem_type == kind
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("activation", OPERATORS)
@pytest.mark.parametrize("hidden_units", DEPTHS, ids=str)
def test_graphs_have_the_form_that_runtimes_read_and_the_weights_bit_for_bit(
    hidden_units: list[int], activation: str
) -> None:
    layers = make_layers(PIXELS, hidden_units, CLASSES, activation=activation)
    model, numbers = plain_graph(layers, 17, 8), range(1, len(layers) + 1)
    dense = ["MatMul", "Add", OPERATORS[activation]]
    expected = [*dense * len(hidden_units), "MatMul", "Add", "Softmax"]
    assert [node.op_type for node in model.graph.node] == expected
    assert [node.op_type for node in uint8_graph(model).graph.node] == ["Cast", "Div", *expected]
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    names = [f"dense_{number}_{what}" for number in numbers for what in ("kernel", "bias")]
    arrays = [array for layer in layers for array in layer[:2]]
    for form, kind in (
        (model, onnx.TensorProto.FLOAT),
        (uint8_graph(model), onnx.TensorProto.UINT8),
    ):
        (image,), (answer,) = form.graph.input, form.graph.output
        assert (image.name, dimensions(image, kind)) == ("image", ["N", PIXELS])
        assert (answer.name, dimensions(answer, 1)) == ("probabilities", ["N", CLASSES])
        weights = {one.name: numpy_helper.to_array(one) for one in form.graph.initializer}
        assert [*weights][: len(names)] == names
        for name, array in zip(names, arrays, strict=True):
            assert weights[name].shape == array.shape
            assert weights[name].tobytes() == array.tobytes()
        onnx.checker.check_model(form, full_check=True)


def test_main_writes_models_that_answer_as_keras_does(
    work: Path, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two hidden layers, standardized and with averaged weights."""
    import keras

    changes = {
        "train.hidden_units": [16, 8],
        "train.standardize": True,
        "train.optimizer.config.use_ema": True,
        "export.opset": 13,
        "export.ir_version": 7,
    }
    Path("params.yaml").write_text(yaml.safe_dump(small_values(data, **changes)))
    train.main()
    capsys.readouterr()
    stage.main()
    assert f"on {TRAIN + TEST} of {TRAIN + TEST} images" in capsys.readouterr().out
    images = np.load("data/prepared/test_images.npy")
    expected = keras.models.load_model("models/fashion_mlp.keras").predict(images, verbose=0)
    pixels = data.arrays["t10k-images-idx3-ubyte"].reshape(TEST, -1)
    answers = [
        onnxruntime.InferenceSession(path).run(["probabilities"], {"image": given})[0]
        for path, given in ((stage.ONNX, images), (stage.ONNX_UINT8, pixels))
    ]
    np.testing.assert_allclose(answers[0], expected, rtol=0, atol=1e-6)
    assert answers[1].tobytes() == answers[0].tobytes()
    metrics = json.loads(stage.METRICS.read_text())
    assert metrics["images"] == metrics["argmax_agreement"] == TRAIN + TEST
    assert metrics["uint8_bit_identical"] == TRAIN + TEST
    given, answer = (
        numpy_helper.to_array(onnx.load_tensor(stage.TEST_DATA / f"{kind}_0.pb"))
        for kind in ("input", "output")
    )
    assert np.array_equal(given, images[: len(given)])
    np.testing.assert_allclose(answer, expected[: len(given)], rtol=0, atol=1e-6)

    known = {prop.key: prop.value for prop in onnx.load(stage.ONNX).metadata_props}
    assert json.loads(known["train_params"])["hidden_units"] == [16, 8]
    right = expected.argmax(axis=1) == data.arrays["t10k-labels-idx1-ubyte"]
    assert known["test_accuracy"] == f"{right.mean():.6f}"
    before = snapshot(work)
    stage.main()
    assert snapshot(work) == before


def test_main_names_the_validation_accuracy_while_images_are_held_out(
    work: Path, data: Data
) -> None:
    values = small_values(data, **{"preprocess.validation_images": 60})
    Path("params.yaml").write_text(yaml.safe_dump(values))
    preprocess.main()
    train.main()
    stage.main()
    last = Path("plots/history.csv").read_text().split(",")[-1].strip()
    known = {prop.key: prop.value for prop in onnx.load(stage.ONNX).metadata_props}
    assert float(known["validation_accuracy"]) == pytest.approx(float(last), abs=1e-6)
    assert "test_accuracy" not in known
    assert json.loads(stage.METRICS.read_text())["images"] == TRAIN + TEST


def change(tensor: onnx.TensorProto, to: Callable[[np.float32], Any]) -> None:
    array = numpy_helper.to_array(tensor).copy()
    array.flat[3] = to(array.flat[3])
    tensor.raw_data = array.tobytes()


FAULTS: dict[str, tuple[Path, Callable[[onnx.ModelProto], object]]] = {
    "sign": (stage.ONNX, lambda model: change(model.graph.initializer[2], lambda value: -value)),
    "no operator": (stage.ONNX, lambda model: setattr(model.graph.node[-4], "op_type", "Rely")),
    "metadata": (
        stage.ONNX_UINT8,
        lambda model: setattr(model.metadata_props[0], "value", "other"),
    ),
    "constant": (stage.ONNX_EXACT, lambda model: change(model.graph.initializer[0], np.negative)),
}


@pytest.mark.parametrize(("path", "fault"), FAULTS.values(), ids=FAULTS)
def test_main_refuses_a_file_that_differs_and_writes_none(
    work: Path, path: Path, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage.described

    def tampered(*arguments: Any) -> dict[Path, bytes]:
        files = real(*arguments)
        changed = onnx.load_from_string(files[path])
        fault(changed)
        return files | {path: changed.SerializeToString()}

    monkeypatch.setattr(stage, "described", tampered)
    with pytest.raises(ValueError, match=r"^ONNX model refused, level (uint8 |exact |)\w+: "):
        stage.main()
    assert not any(path.exists() for path in WRITTEN)
