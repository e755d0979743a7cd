import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import numpy_helper

from stages import export as stage
from stages.export import convert
from tests.conftest import CLASSES, HEIGHT, TEST, TRAIN, WIDTH, Data, small_values, snapshot

pytestmark = pytest.mark.usefixtures("engine")

PIXELS = HEIGHT * WIDTH
NAMES = ["hidden_kernel", "hidden_bias", "probabilities_kernel", "probabilities_bias"]
WRITTEN = (Path("models/fashion_mlp.onnx"), Path("models/test_data_set_0"), stage.METRICS)


def make_network(activation: str = "relu") -> Any:
    import keras

    from fashion_mlp.network.model import build_network

    keras.utils.set_random_seed(3)
    network = build_network(PIXELS, 16, activation, CLASSES)
    random = np.random.default_rng(3)  # biases too: tf2onnx leaves out the addition of zeros
    network.set_weights([random.normal(size=w.shape) for w in network.get_weights()])
    return network


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    ("activation", "operator"), [("relu", "Relu"), ("sigmoid", "Sigmoid"), ("tanh", "Tanh")]
)
def test_convert_gives_the_form_that_runtimes_read(activation: str, operator: str) -> None:
    model = convert(make_network(activation), 18, 8)
    assert [node.op_type for node in model.graph.node] == [
        "MatMul", "Add", operator, "MatMul", "Add", "Softmax",
    ]  # fmt: skip
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    (image,), (probabilities,) = model.graph.input, model.graph.output
    assert (image.name, dimensions(image)) == ("image", ["N", PIXELS])
    assert (probabilities.name, dimensions(probabilities)) == ("probabilities", ["N", CLASSES])
    assert [tensor.name for tensor in model.graph.initializer] == NAMES
    onnx.checker.check_model(model, full_check=True)


def test_convert_keeps_the_weights_bit_for_bit() -> None:
    network = make_network()
    model = convert(network, 18, 8)
    for tensor, weight in zip(model.graph.initializer, network.get_weights(), strict=True):
        array = numpy_helper.to_array(tensor)
        assert (array.dtype.name, array.shape) == ("float32", weight.shape)
        assert array.tobytes() == weight.tobytes()


def test_convert_twice_in_one_process_gives_the_same_bytes() -> None:
    one, two = (convert(make_network(), 18, 8).SerializeToString(deterministic=True) for _ in "ab")
    assert one == two


def test_main_writes_a_model_that_answers_as_keras_does(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras

    stage.main()
    session = onnxruntime.InferenceSession("models/fashion_mlp.onnx")
    images = np.load("data/prepared/test_images.npy")
    (got,) = session.run(["probabilities"], {"image": images})
    expected = keras.models.load_model("models/fashion_mlp.keras").predict(images, verbose=0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(got.argmax(axis=1), expected.argmax(axis=1))
    figures = json.loads(stage.METRICS.read_text())
    assert figures["images"] == figures["argmax_agreement"] == TRAIN + TEST
    assert f"on {TRAIN + TEST} of {TRAIN + TEST} images" in capsys.readouterr().out


def test_main_writes_an_input_and_its_output(work: Path) -> None:
    stage.main()
    image, probabilities = (
        numpy_helper.to_array(onnx.load_tensor(f"models/test_data_set_0/{kind}_0.pb"))
        for kind in ("input", "output")
    )
    np.testing.assert_array_equal(image, np.load("data/prepared/test_images.npy")[: len(image)])
    session = onnxruntime.InferenceSession("models/fashion_mlp.onnx")
    (got,) = session.run(None, {"image": image})
    np.testing.assert_allclose(got, probabilities, rtol=0, atol=1e-6)


def test_main_twice_writes_the_same_bytes(work: Path) -> None:
    stage.main()
    before = snapshot(work)
    stage.main()
    assert snapshot(work) == before


def negate_a_weight(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[2]
    array = numpy_helper.to_array(tensor).copy()
    array[3, 4] *= -1
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def add_an_ulp(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0] = np.nextafter(array[0, 0], np.float32(1))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def swap_the_activation(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type = "Elu"


def drop_the_softmax(model: onnx.ModelProto) -> None:
    del model.graph.node[5]
    model.graph.node[4].output[0] = "probabilities"


def name_no_operator(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type = "Rely"


def softmax_over_images(model: onnx.ModelProto) -> None:
    del model.graph.node[5].attribute[:]
    model.graph.node[5].attribute.append(onnx.helper.make_attribute("axis", 0))


FAULTS = [
    negate_a_weight,
    add_an_ulp,
    swap_the_activation,
    drop_the_softmax,
    name_no_operator,
    softmax_over_images,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_main_refuses_a_model_that_differs_and_leaves_none(
    work: Path, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(*arguments: Any) -> onnx.ModelProto:
        model = convert(*arguments)
        fault(model)
        return model

    monkeypatch.setattr(stage, "convert", tampered)
    with pytest.raises(ValueError) as error:
        stage.main()
    assert str(error.value).startswith("ONNX model refused, level ")
    assert not any(path.exists() for path in WRITTEN)


def test_main_refuses_a_tolerance_that_nothing_meets(work: Path, data: Data) -> None:
    values = small_values(data, **{"export.tolerance": 1e-12})
    Path("params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"(Keras|onnxruntime).* image \d+, class \d"):
        stage.main()
    assert not any(path.exists() for path in WRITTEN)


def test_main_refuses_a_network_of_three_layers(work: Path) -> None:
    import keras

    from fashion_mlp.network.model import save_network

    layers = [keras.layers.Dense(CLASSES, activation="softmax") for _ in range(3)]
    network = keras.Sequential([keras.Input((PIXELS,)), *layers])
    save_network(network, stage.MODEL)
    with pytest.raises(ValueError, match="expected a network of 2 dense layers, got 3"):
        stage.main()
    assert not any(path.exists() for path in WRITTEN)
