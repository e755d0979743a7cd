"""export: the network as an ONNX file, proven equal to the Keras model before it is written.

reads   models/fashion_mlp.keras, data/prepared/{train,test}_{images,labels}.npy
writes  models/fashion_mlp.onnx       image float32 [N,784] -> probabilities float32 [N,10]
        models/test_data_set_0/       one input and its output, in ONNX's backend-test layout
        metrics/export.json           what was compared, and on how many images it held

The proof: the graph has the expected form; its four initializers are the Keras weights bit for
bit; on all images Keras and onnxruntime name the same class, and the probabilities of both lie
within a tolerance of a float64 reference; the batch size changes none of that. Nothing is
written before all of it holds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from fashion_mlp import engine
from fashion_mlp.console import progress, run
from fashion_mlp.dataset import Split, load_split
from fashion_mlp.files import replacing, write_json
from fashion_mlp.params import load_params

if TYPE_CHECKING:
    import keras

MODEL = Path("models/fashion_mlp.keras")
ONNX = Path("models/fashion_mlp.onnx")
TEST_DATA = Path("models/test_data_set_0")
METRICS = Path("metrics/export.json")
BATCH_SIZE = 1000
SAMPLE_IMAGES = 10  # in test_data_set_0
ACTIVATION_OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}

Predict = Callable[[np.ndarray, int], np.ndarray]


class Weights(NamedTuple):
    """The network's weights, float32, by the names that they have in the ONNX file.

    hidden_kernel (pixels, units), hidden_bias (units,), probabilities_kernel (units, classes),
    probabilities_bias (classes,).
    """

    hidden_kernel: np.ndarray
    hidden_bias: np.ndarray
    probabilities_kernel: np.ndarray
    probabilities_bias: np.ndarray


def read_weights(network: keras.Model) -> tuple[Weights, str]:
    """Take the weights and the hidden layer's activation out of the Keras model.

    Raises:
        ValueError: not the network that stage `train` makes.
    """
    weights = network.get_weights()
    if len(weights) != 4 or len(network.layers) != 2:
        raise ValueError(f"{MODEL}: expected 2 dense layers, got {len(network.layers)}")
    return Weights(*weights), network.layers[0].activation.__name__


def convert(network: keras.Model, opset: int, ir_version: int) -> onnx.ModelProto:
    """Convert to ONNX by tf2onnx, in the form that most runtimes read.

    The form: MatMul, Add, activation, MatMul, Add, Softmax; one symbolic batch dimension `N`;
    names that say what things are; no imports that are not used.

    Args:
        network: takes float32 (n, pixels), gives float32 (n, classes).
        opset: version of the operator set.
        ir_version: version of the file format.
    """
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, network.input_shape[1]), tf.float32, name="image")]
    forward = tf.function(
        lambda image: {"probabilities": network(image, training=False)}, input_signature=signature
    )
    # from_function, as from_keras fails on a Keras 3 Sequential.
    model, _ = tf2onnx.convert.from_function(forward, input_signature=signature, opset=opset)
    return plain_form(model, read_weights(network)[0], opset, ir_version)


def plain_form(
    model: onnx.ModelProto, weights: Weights, opset: int, ir_version: int
) -> onnx.ModelProto:
    """Rebuild a converted model with plain names, `N` for the batch, and pinned versions.

    tf2onnx numbers its names by a counter of the process, names the batch dimension of input
    and output differently, and imports operator sets that it does not use.
    """
    pixels, classes = len(weights.hidden_kernel), len(weights.probabilities_bias)
    names = {"image": "image", "probabilities": "probabilities"}
    initializers = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        for name, weight in zip(weights._fields, weights, strict=True):
            if name not in names.values() and same_bits(array, weight):
                names[tensor.name] = name
                initializers.append(numpy_helper.from_array(array, name))
                break
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        for output in node.output:
            names.setdefault(output, f"{node.op_type.lower()}_{len(nodes)}")
        nodes.append(
            helper.make_node(
                node.op_type,
                [names.get(name, name) for name in node.input],
                [names[name] for name in node.output],
                name=f"{node.op_type.lower()}_{len(nodes)}",
                **{item.name: helper.get_attribute_value(item) for item in node.attribute},
            )
        )
    graph = helper.make_graph(
        nodes,
        "fashion_mlp",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", pixels])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes])],
        sorted(initializers, key=lambda tensor: weights._fields.index(tensor.name)),
    )
    return helper.make_model(
        graph,
        producer_name="fashion-mlp",
        ir_version=ir_version,
        opset_imports=[helper.make_opsetid("", opset)],
    )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two arrays have the same dtype, shape and bytes (-0.0 is not 0.0)."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check_form(model: onnx.ModelProto, activation: str) -> None:
    """Check the graph: valid ONNX, and the expected operators in the expected order.

    Raises:
        ValueError: says what differs.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"the converted model is not valid ONNX: {error}") from None
    expected = ["MatMul", "Add", ACTIVATION_OPERATORS[activation], "MatMul", "Add", "Softmax"]
    found = [node.op_type for node in model.graph.node]
    if found != expected:
        raise ValueError(f"ONNX graph: expected the operators {expected}, got {found}")


def check_weights(model: onnx.ModelProto, weights: Weights) -> int:
    """Check that the initializers are the Keras weights bit for bit.

    Returns:
        How many were compared.

    Raises:
        ValueError: names the initializer and the first value that differs.
    """
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    if list(found) != list(weights._fields):
        raise ValueError(f"ONNX initializers: expected {list(weights._fields)}, got {list(found)}")
    for name, expected in zip(weights._fields, weights, strict=True):
        got = found[name]
        if got.dtype != expected.dtype or got.shape != expected.shape:
            raise ValueError(
                f"ONNX initializer {name}: expected {expected.dtype} {expected.shape}, "
                f"got {got.dtype} {got.shape}"
            )
        different = np.argwhere(got.view(np.uint32) != expected.view(np.uint32))
        if len(different):
            where = tuple(int(i) for i in different[0])
            raise ValueError(
                f"ONNX initializer {name}: {len(different):,} of {got.size:,} values differ from "
                f"Keras', first at {where}: expected {expected[where]!r}, got {got[where]!r}"
            )
    return len(found)


def reference(weights: Weights, activation: str, images: np.ndarray) -> np.ndarray:
    """Compute the network in float64: the oracle for every runtime.

    Args:
        weights: float32.
        activation: of the hidden layer.
        images: float32 (n, pixels).

    Returns:
        float64 (n, classes).
    """
    activations: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "relu": lambda x: np.maximum(x, 0.0),
        "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
        "tanh": np.tanh,
    }
    activate = activations[activation]
    kernel_1, bias_1, kernel_2, bias_2 = (weight.astype(np.float64) for weight in weights)
    logits = activate(images.astype(np.float64) @ kernel_1 + bias_1) @ kernel_2 + bias_2
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


class Comparison(NamedTuple):
    """How two runtimes fared against the reference."""

    images: int
    same_argmax: int
    largest: dict[str, float]  # by runtime: the largest |probability - reference|


def compare(
    runtimes: dict[str, Predict],
    oracle: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    split: str,
    batch_size: int,
    tolerance: float,
    done: Callable[[int], object] = lambda count: None,
) -> Comparison:
    """Compare runtimes with each other and with the reference, on every image.

    Args:
        runtimes: by name, functions from float32 (n, pixels) and a batch size to float32
            (n, classes).
        oracle: the reference, from float32 (n, pixels) to float64 (n, classes).
        images: float32 (n, pixels).
        split: their name in errors.
        batch_size: images a call of a runtime.
        tolerance: largest |probability - reference| allowed.
        done: called with a number of images as they are done.

    Raises:
        ValueError: says what differed, where and by how much.
    """
    largest = dict.fromkeys(runtimes, 0.0)
    block = max(batch_size, BATCH_SIZE)
    for first in range(0, len(images), block):
        part = np.asarray(images[first : first + block])
        expected = oracle(part)
        answers = {}
        for name, predict in runtimes.items():
            got = predict(part, batch_size)
            answers[name] = got.argmax(axis=1)
            distance = np.abs(got - expected)
            # `not <=` and not `>`, so that a NaN is a miss.
            if not (distance <= tolerance).all():
                row, column = np.argwhere(~(distance <= tolerance))[0]
                raise ValueError(
                    f"{name} at batch size {batch_size}, {split} image {first + row}, class "
                    f"{column}: expected {expected[row, column]:.9f} ± {tolerance:g}, "
                    f"got {got[row, column]:.9f}"
                )
            largest[name] = max(largest[name], float(distance.max()))
        (name_a, a), *others = answers.items()
        for name_b, b in others:
            if len(different := np.flatnonzero(a != b)):
                row = different[0]
                raise ValueError(
                    f"batch size {batch_size}, {split} image {first + row}: {name_a} names class "
                    f"{a[row]}, {name_b} class {b[row]}; {len(different)} such in this block"
                )
        done(len(part))
    return Comparison(len(images), len(images), largest)


def onnxruntime_predict(model: onnx.ModelProto) -> Predict:
    """Make a function that runs the model by onnxruntime on the processor."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def predict(images: np.ndarray, batch_size: int) -> np.ndarray:
        return np.concatenate(
            [
                session.run(["probabilities"], {"image": images[first : first + batch_size]})[0]
                for first in range(0, len(images), batch_size)
            ]
        )

    return predict


def keras_predict(network: keras.Model) -> Predict:
    """Make a function that runs the Keras model as its users run it, by TensorFlow."""
    import tensorflow as tf

    forward = tf.function(
        lambda batch: network(batch, training=False),
        input_signature=[tf.TensorSpec((None, network.input_shape[1]), tf.float32)],
    )

    def predict(images: np.ndarray, batch_size: int) -> np.ndarray:
        return np.concatenate(
            [
                forward(images[first : first + batch_size]).numpy()
                for first in range(0, len(images), batch_size)
            ]
        )

    return predict


def prove(
    model: onnx.ModelProto,
    network: keras.Model,
    splits: dict[str, Split],
    tolerance: float,
    batch_sizes: Sequence[int],
) -> dict[str, Any]:
    """Prove that the ONNX model computes what the Keras model does.

    Args:
        model: the converted model.
        network: the Keras model.
        splits: all images; batch sizes are compared on the last of them.
        tolerance: largest |probability - float64 reference| allowed, for both.
        batch_sizes: to compare.

    Returns:
        The figures of metrics/export.json: counts, which do not depend on the machine.

    Raises:
        ValueError: at the first thing that differs.
    """
    weights, activation = read_weights(network)
    check_form(model, activation)
    figures: dict[str, Any] = {"initializers_bit_identical": check_weights(model, weights)}
    runtimes = {"Keras": keras_predict(network), "onnxruntime": onnxruntime_predict(model)}

    def oracle(images: np.ndarray) -> np.ndarray:
        return reference(weights, activation, images)

    everything = sum(len(split.images) for split in splits.values())
    last_name, last = list(splits.items())[-1]
    with progress("export", everything + len(batch_sizes) * len(last.images), "images") as bar:
        compared = [
            compare(runtimes, oracle, split.images, name, BATCH_SIZE, tolerance, bar.update)
            for name, split in splits.items()
        ]
        for batch_size in batch_sizes:
            compared.append(
                compare(runtimes, oracle, last.images, last_name, batch_size, tolerance, bar.update)
            )
    for name in runtimes:
        print(
            f"export: {name}: largest |probability - float64 reference| "
            f"{max(result.largest[name] for result in compared):.2e}"
        )
    whole = compared[: len(splits)]
    return figures | {
        "images": sum(result.images for result in whole),
        "argmax_agreement": sum(result.same_argmax for result in whole),
        "within_tolerance": sum(result.images for result in whole),
        "tolerance": tolerance,
        "batch_sizes_agreeing": len(batch_sizes),
    }


def write_test_data(folder: Path, images: np.ndarray, probabilities: np.ndarray) -> None:
    """Write an input and its output in the layout of ONNX's backend tests.

    Args:
        folder: replaced as a whole.
        images: float32 (n, pixels).
        probabilities: float32 (n, classes), from the reference, so that no machine's rounding
            is in the file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name, kind, array in (
        ("image", "input", images),
        ("probabilities", "output", probabilities),
    ):
        with replacing(folder / f"{kind}_0.pb") as temporary:
            temporary.write_bytes(numpy_helper.from_array(array, name).SerializeToString())


def main() -> None:
    params = load_params()
    sizes = (params.dataset.pixels, len(params.dataset.classes.en))
    splits = {name: load_split(name, *sizes) for name in ("train", "test")}
    engine.start()

    from fashion_mlp.network import load_network

    network = load_network(MODEL)
    model = convert(network, params.export.opset, params.export.ir_version)
    figures = prove(model, network, splits, params.export.tolerance, params.export.batch_sizes)
    sample = np.asarray(splits["test"].images[:SAMPLE_IMAGES])
    expected = reference(*read_weights(network), sample).astype(np.float32)
    write_test_data(TEST_DATA, sample, expected)
    with replacing(ONNX) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    write_json(METRICS, figures)
    print(
        f"export: {ONNX}, {ONNX.stat().st_size:,} bytes, equal to Keras on "
        f"{figures['argmax_agreement']:,} of {figures['images']:,} images"
    )


if __name__ == "__main__":
    run(main)
