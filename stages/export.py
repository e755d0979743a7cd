"""export: the network as an ONNX file, proven equal to the Keras model before it is written.

reads   models/fashion_mlp.keras, data/prepared/{train,test}_{images,labels}.npy
writes  models/fashion_mlp.onnx         image float32 [N,784] -> probabilities float32 [N,10]
        models/fashion_mlp_uint8.onnx   the same with the preprocessing inside: image uint8 [N,784]
        models/int8/                    fashion_mlp_int8.onnx too, where export.int8 asks for it
        models/test_data_set_0/         an input and its output, in ONNX's backend-test layout
        metrics/export.json             what was compared, and on how many images it held
        metrics/uncertified.csv         the images whose class the rounding bound leaves open

The proof has levels (fashion_mlp/proof.py): the graph is the one expected; its weights are Keras'
bit for bit; on all images Keras and onnxruntime lie inside a rounding bound around a float64
reference and name the same class, whatever the batch size; hostile inputs fare alike. Nothing is
written before all of it holds.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fashion_mlp.network import engine
from pipeline.console import progress, run
from fashion_mlp.data.arrays import load_split
from pipeline.files import replacing, write_json, write_text
from pipeline.params import Dataset, File, Train, load_params
from fashion_mlp.proof.levels import (
    BATCH_SIZE,
    Candidate,
    Evidence,
    gather,
    onnxruntime_predict,
    prove,
    read_weights,
    uncertified,
)
from fashion_mlp.proof.reference import Weights

if TYPE_CHECKING:
    import keras

MODEL = Path("models/fashion_mlp.keras")
ONNX = Path("models/fashion_mlp.onnx")
ONNX_UINT8 = Path("models/fashion_mlp_uint8.onnx")
INT8 = Path("models/int8")
# DVC wants every output to be there, and warns of a folder that is empty.
INT8_README = "fashion_mlp_int8.onnx lies here where export.int8 in params.yaml is true.\n"
TEST_DATA = Path("models/test_data_set_0")
METRICS = Path("metrics/export.json")
UNCERTIFIED = Path("metrics/uncertified.csv")
SAMPLE_IMAGES = 10  # in test_data_set_0
CALIBRATION_IMAGES = 1000  # of the training set, for int8
DIGITS = 6
WHITE = np.float32(255)  # the byte that preprocessing makes 1


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
            same = array.shape == weight.shape and array.tobytes() == weight.tobytes()
            if same and name not in names.values():
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


def uint8_variant(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make the variant with the preprocessing inside: image uint8 [N, pixels], bytes.

    Cast, then a true division by 255: as a multiplication by 1/255 it would round otherwise.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    graph.name = "fashion_mlp_uint8"
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    graph.initializer.append(numpy_helper.from_array(np.array(WHITE), "white"))
    graph.node[0].input[0] = "scaled"
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "white"], ["scaled"], "div"),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def check_uint8(
    model_uint8: onnx.ModelProto, faithful: Candidate, images: Mapping[str, np.ndarray]
) -> int:
    """Check that bytes into the uint8 variant give the bits that preprocessed images give.

    Args:
        model_uint8: from `uint8_variant`.
        faithful: the model that takes float32.
        images: by split, float32 (n, pixels): bytes divided by 255.

    Returns:
        The number of images compared: all of them.

    Raises:
        ValueError: the first image that differs.
    """
    from_bytes = onnxruntime_predict(model_uint8)
    for split, array in images.items():
        answers = faithful.answers(images, split)
        for first in range(0, len(array), BATCH_SIZE):
            prepared = np.asarray(array[first : first + BATCH_SIZE])
            pixels = np.rint(prepared * WHITE).astype(np.uint8)
            if (pixels / WHITE).tobytes() != prepared.tobytes():
                raise ValueError(
                    f"{split} images {first}…: not bytes divided by 255; "
                    f"run `dvc repro --force preprocess`"
                )
            expected = answers[first : first + BATCH_SIZE]
            got = from_bytes(pixels, BATCH_SIZE)
            if len(rows := np.flatnonzero((got != expected).any(axis=1))):
                raise ValueError(
                    f"uint8 model, {split} image {first + rows[0]}: expected {expected[rows[0]]}, "
                    f"got {got[rows[0]]}"
                )
    return sum(len(array) for array in images.values())


def metadata(
    dataset: Dataset,
    files: Mapping[str, File],
    validation_images: int,
    train: Train,
    accuracy: float,
) -> dict[str, Any]:
    """Gather what a consumer must know, whichever of the files it is.

    `model_author` and `model_license` (onnx, docs/IR.md) are ONNX's own keys; for the rest there
    is no standard.

    Args:
        dataset: names, shape, licence.
        files: the raw data, by file name.
        validation_images: held out from training.
        train: the parameters that were trained with.
        accuracy: on the test set.
    """
    return {
        "class_names": dataset.classes.model_dump(),
        "data_license": dataset.license,
        "data_sha256": {name: file.sha256 for name, file in files.items()},
        "dataset": dataset.name,
        "image_shape": dataset.image_shape,
        "model_author": "fashion-mlp",
        "model_license": "MIT",
        "test_accuracy": f"{accuracy:.{DIGITS}f}",
        "train_params": train.model_dump(),
        "validation_images": validation_images,
    }


def describe(model: onnx.ModelProto, known: Mapping[str, Any], scaled: bool) -> None:
    """Write metadata into a model, with what its input must be.

    Args:
        model: changed in place.
        known: from `metadata`.
        scaled: whether the model takes values in 0…1; bytes otherwise.
    """
    height, width = known["image_shape"]
    steps = f"{height}x{width} image, grey, light on dark, flattened row by row"
    model.doc_string = f"{known['dataset']} classifier, {height * width} pixels to probabilities"
    entries = {
        # onnx, docs/MetadataProps.md
        "Image.BitmapPixelFormat": "Gray8",
        "Image.NominalPixelRange": "Normalized_0_1" if scaled else "NominalRange_0_255",
        **known,
        "preprocessing": f"{steps}, divided by 255" if scaled else f"{steps}, bytes as they are",
    }
    helper.set_model_props(
        model,
        {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in sorted(entries.items())
        },
    )


def quantize(model: onnx.ModelProto, images: np.ndarray, path: Path) -> None:
    """Write an int8 variant: static quantization, calibrated on images, QDQ form.

    Args:
        model: the faithful one.
        images: float32 (n, pixels), of the training set.
        path: where to write.
    """
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(np.array_split(images, 10))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        source = Path(folder) / "model.onnx"
        onnx.save(model, source)
        logging.disable(logging.WARNING)  # it advises to fold constants first: there are none
        quantization.quantize_static(
            source,
            temporary,
            Images(),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


def int8_variant(model: onnx.ModelProto, evidence: Evidence, labels: np.ndarray) -> dict[str, Any]:
    """Write the int8 variant and measure on the test set what it costs.

    Args:
        model: the faithful one.
        evidence: with the images and Keras' answers.
        labels: class numbers (n,).

    Returns:
        int8_test_accuracy, and int8_disagreement: the share of answers that differ from Keras'.
    """
    path = INT8 / "fashion_mlp_int8.onnx"
    quantize(model, np.asarray(evidence.images["train"][:CALIBRATION_IMAGES]), path)
    predict = onnxruntime_predict(onnx.load(path))
    classes = predict(evidence.images["test"], BATCH_SIZE).argmax(axis=1)
    accuracy = float((classes == labels).mean())
    disagreement = float((classes != evidence.keras["test"].argmax(axis=1)).mean())
    say(
        f"int8: {path}, {path.stat().st_size:,} bytes, test accuracy {accuracy:.4f}, "
        f"{disagreement:.2%} of the answers differ from Keras'"
    )
    return {
        "int8_test_accuracy": round(accuracy, DIGITS),
        "int8_disagreement": round(disagreement, DIGITS),
    }


def uncertified_csv(evidence: Evidence, names: list[str]) -> str:
    """List the images whose class the bound leaves open, the closest call first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "image", "class", "next_class", "probability_gap"])
    for split, number, best, following, gap in sorted(
        uncertified(evidence), key=lambda row: (round(row[4], DIGITS), row[0], row[1])
    ):
        writer.writerow([split, number, names[best], names[following], f"{gap:.{DIGITS}f}"])
    return text.getvalue()


def write_test_data(folder: Path, images: np.ndarray, probabilities: np.ndarray) -> None:
    """Write the first images and their outputs in the layout of ONNX's backend tests.

    Args:
        folder: replaced as a whole.
        images: float32 (n, pixels).
        probabilities: float64 (n, classes), the reference's, so that no machine's rounding is in
            the file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name, kind, array in (
        ("image", "input", images),
        ("probabilities", "output", probabilities),
    ):
        tensor = numpy_helper.from_array(np.asarray(array[:SAMPLE_IMAGES], np.float32), name)
        with replacing(folder / f"{kind}_0.pb") as temporary:
            temporary.write_bytes(tensor.SerializeToString())


def write_model(path: Path, model: onnx.ModelProto) -> None:
    """Write an ONNX file, with the same bytes for the same model."""
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    params = load_params()
    names = params.dataset.classes.en
    sizes = (params.dataset.pixels, len(names))
    splits = {name: load_split(name, *sizes) for name in ("train", "test")}
    images = {name: split.images for name, split in splits.items()}
    labels = splits["test"].labels.argmax(axis=1)
    engine.start()

    from fashion_mlp.network.model import load_network

    network = load_network(MODEL, sizes)
    form = (params.export.opset, params.export.ir_version)
    checks = (params.export.tolerance, params.export.batch_sizes)
    total = sum(map(len, images.values())) + len(checks[1]) * len(labels)
    with progress("export", total, "images") as bar:
        evidence, distance = gather(network, images, *form, *checks, bar.update)
    say(distance)
    model = convert(network, *form)
    candidate = Candidate(model)
    figures = prove(candidate, evidence, say)
    model_uint8 = uint8_variant(model)
    figures["uint8_bit_identical"] = check_uint8(model_uint8, candidate, images)
    say(f"uint8: bytes in, the same bits out on {figures['uint8_bit_identical']:,} images")
    shutil.rmtree(INT8, ignore_errors=True)
    write_text(INT8 / "README.txt", INT8_README)
    if params.export.int8:
        figures |= int8_variant(model, evidence, labels)
    held_out, accuracy = params.preprocess.validation_images, evidence.accuracy("test", labels)
    known = metadata(params.dataset, params.fetch.files, held_out, params.train, accuracy)
    describe(model, known, scaled=True)
    describe(model_uint8, known, scaled=False)
    write_test_data(TEST_DATA, evidence.images["test"], evidence.bounds["test"].probabilities)
    write_text(UNCERTIFIED, uncertified_csv(evidence, names))
    write_model(ONNX_UINT8, model_uint8)
    write_model(ONNX, model)
    write_json(METRICS, figures)
    say(
        f"{ONNX}, {ONNX.stat().st_size:,} bytes, equal to Keras on "
        f"{figures['argmax_agreement']:,} of {figures['images']:,} images"
    )


def say(line: str) -> None:
    """Print a line of this stage's."""
    print(f"export: {line}", flush=True)


if __name__ == "__main__":
    run(main)
