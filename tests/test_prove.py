import copy
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from checks.anybody import Subject, draw, export, mutants, settle
from checks.architectures import architectures
from fashion_mlp import prove
from fashion_mlp.export.graph import converted
from fashion_mlp.network import engine
from fashion_mlp.proof.comparison import compare, load_onnx, verdict
from fashion_mlp.proof.double import widened
from fashion_mlp.proof.findings import DIFFERS, HELD, LIMITED, OPEN
from fashion_mlp.proof.known import Known, study
from fashion_mlp.proof.matching import find_weights
from pipeline.environment import ROOT
from tests.oracle import make_images, make_layers, network_of
from tests.processes import run

PIXELS, CLASSES = 9, 3


class Pair(NamedTuple):
    folder: Path
    known: Known
    model: onnx.ModelProto


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Of a network of two hidden layers whose first hidden unit never fires, by tf2onnx."""
    engine.start()
    folder = tmp_path_factory.mktemp("pair")
    layers = make_layers(PIXELS, [8, 6], CLASSES)
    layers[0].bias[0] = -1000
    network = network_of(layers)
    network.save(folder / "model.keras")
    images = make_images(50, PIXELS)
    np.save(folder / "images.npy", images)
    model = converted(network, 13)
    onnx.save(model, folder / "model.onnx")
    return Pair(folder, study(folder / "model.keras", [images]), model)


def changed(model: onnx.ModelProto, name: str, place: Any, to: Callable[[Any], Any]) -> Any:
    """Copy a model with one value of the constant whose name has a part."""
    mutant = copy.deepcopy(model)
    tensor = next(it for it in mutant.graph.initializer if name in it.name)
    array = numpy_helper.to_array(tensor).copy()
    array[place] = to(array[place])
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return mutant


def ulp(value: np.float32) -> np.float32:
    return np.nextafter(value, np.float32(9))


def test_a_healthy_file_is_equal_at_every_level(pair: Pair) -> None:
    findings = compare(pair.known, pair.model)
    assert {name: it.result for name, it in findings.items()} == dict.fromkeys(
        ["float64", "weights", "float32", "bound"], HELD
    )
    assert findings["float64"].data["distance"] < 1e-14
    assert findings["bound"].data["images"] == 50


@pytest.mark.parametrize(
    ("place", "change", "result"),
    [
        ((3, 2), ulp, HELD),  # far less than float32's rounding
        ((3, 2), lambda value: -value, DIFFERS),
        ((3, 2), lambda value: np.nan, DIFFERS),
    ],
    ids=["ulp", "sign", "NaN"],
)
def test_one_weight_that_differs_is_found_and_named(
    place: Any, change: Any, result: str, pair: Pair
) -> None:
    findings = compare(pair.known, changed(pair.model, "dense_2", place, change))
    assert verdict(findings) == DIFFERS
    assert findings["float32"].result == result
    assert findings["weights"].says.endswith("1 of 48 values of dense_2/kernel changed")
    assert findings["place"].data["node"].endswith("dense_2_1/MatMul")
    # By its name where the values of the few inputs that are compared there do not show it.
    layer = "dense_2/kernel" if change is ulp else "fashion_mlp/dense_2/MatMul"
    assert findings["place"].data["layer"] == layer


def test_a_weight_that_no_input_shows_is_found_by_its_bits(pair: Pair) -> None:
    """Of the unit that never fires: another image may."""
    findings = compare(pair.known, changed(pair.model, "dense_1", (3, 0), ulp))
    assert findings["float64"].data["distance"] < 1e-14
    assert findings["weights"].result == verdict(findings) == DIFFERS
    assert findings["place"].data["layer"] == "dense_1/kernel"
    assert "dense_1_1/MatMul" in findings["place"].data["node"]


def test_an_activation_left_out_is_named(pair: Pair) -> None:
    mutant = copy.deepcopy(pair.model)
    number = [node.op_type for node in mutant.graph.node].index("Relu")
    mutant.graph.node[number].op_type = "Identity"
    findings = compare(pair.known, mutant)
    assert findings["weights"].result == HELD
    assert findings["place"].data["layer"] == "fashion_mlp/dense_1/Relu"
    assert findings["worst"].data["classes"]


def bytes_in(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8


def square_in(model: onnx.ModelProto) -> None:
    axes = model.graph.input[0].type.tensor_type.shape.dim
    axes[1].dim_value = 3
    axes.add(dim_value=3)


def sequence_in(model: onnx.ModelProto) -> None:
    kind = model.graph.input[0].type
    kind.CopyFrom(helper.make_sequence_type_proto(kind))


def sequence_out(model: onnx.ModelProto) -> None:
    kind = model.graph.output[0].type
    kind.CopyFrom(helper.make_sequence_type_proto(kind))


def operator_of_another(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))


TAKES = r"input image: Keras takes rows of float32 \(9,\), the file of "


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (bytes_in, TAKES + r"uint8 \(9,\)"),
        (square_in, TAKES + r"float32 \(3, 3\)"),
        (sequence_in, TAKES + "None"),
        (sequence_out, "output .*: expected numbers, got sequence"),
        (operator_of_another, "onnx's reference does not take the model: "),
    ],
)
def test_a_file_that_can_not_be_compared_is_not_decided(
    change: Callable[[onnx.ModelProto], None], says: str, pair: Pair
) -> None:
    mutant = copy.deepcopy(pair.model)
    change(mutant)
    findings = compare(pair.known, mutant)
    assert verdict(findings) == OPEN
    assert re.match(says, findings["float64"].says)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_file_for_batches_of_one_size_is_run_in_these(rows: int, pair: Pair) -> None:
    fixed = copy.deepcopy(pair.model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = rows
    findings = compare(pair.known, fixed)
    assert verdict(findings) == LIMITED
    assert f"the file takes batches of {rows} alone" in findings["float32"].says
    broken = compare(pair.known, changed(fixed, "dense_2", (3, 2), lambda value: -value))
    assert broken["float64"].result == DIFFERS
    assert broken["place"].data["layer"] == "fashion_mlp/dense_2/MatMul"


def test_weights_are_compared_in_all_their_bits(pair: Pair) -> None:
    """Of a file in float64 whose values are Keras' in the first seven digits alone."""
    double = widened(pair.model)
    assert find_weights(pair.known.weights, double).result == HELD
    mutant = changed(double, "dense_2", (3, 2), lambda value: value * (1 + 2.0**-40))
    assert (
        "1 of 48 values of dense_2/kernel changed" in find_weights(pair.known.weights, mutant).says
    )


def test_units_in_another_order_are_the_same_function(pair: Pair) -> None:
    mutant, order = copy.deepcopy(pair.model), [1, 0, *range(2, 8)]
    for tensor in mutant.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if 8 in array.shape:
            array = array.take(order, axis=array.shape.index(8))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    findings = compare(pair.known, mutant)
    assert verdict(findings) == HELD
    assert "rearranged" in findings["weights"].says


def beside(
    model: Any, rng: np.random.Generator, exporter: str, folder: Path, images: Any = None
) -> tuple[Known, onnx.ModelProto]:
    """Draw a model's weights; study it, on given images or drawn ones, and export it."""
    settle(model, rng)
    model.save(folder / "model.keras")
    known = study(folder / "model.keras", images or draw(model, 20, rng))
    return known, export(model, exporter, folder / "model.onnx")


def test_batch_normalization_that_was_folded_is_equal_up_to_a_limit(tmp_path: Path) -> None:
    engine.start()
    named = dict(architectures())
    model, rng = named["residual convolution, batch normalization"], np.random.default_rng(3)
    findings = compare(*beside(model, rng, "tf2onnx", tmp_path))
    assert verdict(findings) == LIMITED
    assert 1e-12 < findings["float64"].data["distance"] < findings["float64"].data["limit"] < 1e-5


@pytest.mark.parametrize(
    ("name", "exporter"),
    [("residual", "tf2onnx"), ("LSTM", "tf2onnx"), ("two inputs", "model.export")],
)
def test_mutants_of_other_networks_are_refused(name: str, exporter: str, tmp_path: Path) -> None:
    """A slice of `make check-prove`."""
    engine.start()
    model, rng = dict(architectures())[name], np.random.default_rng(4)
    known, file = beside(model, rng, exporter, tmp_path)
    assert verdict(compare(known, file)) == HELD
    subject = Subject(known, draw(model, 40, rng))
    found = list(mutants(subject, file, file, rng, most=1))
    assert len(found) > 8
    assert [it for it in found if it.found != DIFFERS and not it.same] == []
    assert [it for it in found if it.found == DIFFERS and "same function" in it.kind] == []


def odd_network(kind: str) -> Any:
    import keras
    from keras import layers

    image = keras.Input((PIXELS,))
    if kind == "inputs by name":
        both = {name: keras.Input((PIXELS,), name=name) for name in ("second", "first")}
        return keras.Model(
            both, layers.Dense(CLASSES, name="float32")(both["first"] - 2 * both["second"])
        )
    chains = {
        "rows of rows": [layers.Reshape((3, 3)), layers.Dense(4, "relu")],
        "numbers of words": [layers.Embedding(5, 4), layers.Flatten()],
        "an activation that is a layer": [layers.Dense(4, activation=layers.ReLU())],
        "float16": [layers.Dense(8, "relu", dtype="mixed_float16")],
        "layers of one name": [
            keras.Sequential([keras.Input((PIXELS,)), layers.Dense(PIXELS, "tanh", name="same")])
            for _ in range(2)
        ],
    }
    if kind in chains:
        return keras.Sequential([image, *chains[kind], layers.Dense(CLASSES, "softmax")])
    if kind == "a model in a model":
        inner = keras.Sequential([keras.Input((PIXELS,)), layers.Dense(8, "relu")])
        return keras.Model(image, layers.Dense(CLASSES, "softmax")(inner(image)))
    hidden = layers.Dense(8, "relu")(image)
    first, second = (layers.Dense(CLASSES, "softmax")(hidden) for _ in range(2))
    named = {"second": second, "first": first}
    return keras.Model(image, named if kind == "outputs by name" else [first, second])


@pytest.mark.parametrize(
    ("kind", "result", "bound"),
    [
        ("rows of rows", HELD, "(Reshape)"),
        ("numbers of words", HELD, "(Embedding)"),
        ("an activation that is a layer", HELD, "the activation ReLU"),
        ("inputs by name", HELD, "several inputs"),
        ("float16", LIMITED, "float32 dense layers with biases alone"),
        ("layers of one name", HELD, "(Sequential)"),
    ],
)
def test_healthy_files_of_odd_networks_are_equal(
    kind: str, result: str, bound: str, tmp_path: Path
) -> None:
    engine.start()
    model, rng = odd_network(kind), np.random.default_rng(6)
    images = [rng.integers(0, 5, (20, PIXELS)).astype(np.float32) for _ in model.inputs]
    known, file = beside(model, rng, "model.export", tmp_path, images)
    findings = compare(known, file)
    assert (verdict(findings), len(known.weights)) == (result, len(model.weights))
    assert bound in findings["bound"].says
    assert "3 of 3 give NaN" in findings["float32"].says


@pytest.mark.parametrize("exporter", ["tf2onnx", "model.export"])
@pytest.mark.parametrize(
    ("kind", "turned"),
    [("a model in a model", HELD), ("outputs by name", HELD), ("outputs in order", DIFFERS)],
)
def test_outputs_are_paired_by_name_or_else_in_order(
    kind: str, turned: str, exporter: str, tmp_path: Path
) -> None:
    engine.start()
    model, rng = odd_network(kind), np.random.default_rng(5)
    known, file = beside(model, rng, exporter, tmp_path)
    assert verdict(compare(known, file)) == HELD
    outputs = list(file.graph.output)[::-1]
    del file.graph.output[:]
    file.graph.output.extend(outputs)
    findings = compare(known, file)
    assert verdict(findings) == turned
    assert ("worst" in findings) == (turned == DIFFERS)
    file.graph.node.append(helper.make_node("Identity", [outputs[0].name], ["more"]))
    file.graph.output.append(helper.make_tensor_value_info("more", 1, ["N", CLASSES]))
    assert verdict(compare(known, file)) == (HELD if kind == "outputs by name" else OPEN)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.ones((5, 4), np.float32), r"input image: expected shape \(5, 9\), got \(5, 4\)"),
        (np.ones((0, PIXELS), np.float32), "images: expected at least one, got 0"),
        (np.full((5, PIXELS), np.nan), "input image: expected finite float32, got nan"),
        (np.full((5, PIXELS), 1e300), r"input image: expected finite float32, got 1e\+300"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: np.ndarray, says: str, pair: Pair) -> None:
    with pytest.raises(ValueError, match=says):
        study(pair.folder / "model.keras", [images])


def test_files_that_are_none_of_the_three_are_refused(pair: Pair) -> None:
    bad = pair.folder / "bad.h5"
    bad.write_bytes(b"not numbers")
    with pytest.raises(ValueError, match=r"bad\.h5: not a valid ONNX file: Error parsing"):
        load_onnx(bad)
    with pytest.raises(ValueError, match=r"bad\.h5: not a whole \.npy .*magic string"):
        prove.load_images(bad)
    text = pair.folder / "text.npz"
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr("notes.txt", "not numbers")
    with pytest.raises(ValueError, match=r"text\.npz: expected numbers of shape \(n, …\), got \|S"):
        prove.load_images(text)
    with pytest.raises(ValueError, match=r"bad\.h5: not a \.keras file"):
        study(bad, [make_images(3, PIXELS)])


def test_images_may_be_more_than_memory_holds(tmp_path: Path) -> None:
    """A file with holes; only what is compared is read."""
    path, count = tmp_path / "images.npy", 2**40
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, PIXELS)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + count * PIXELS)
    (images,) = prove.load_images(path)
    assert images[:2].tolist() == [[0] * PIXELS] * 2


def command(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "fashion_mlp.prove", *map(str, arguments))


def test_the_command_says_equal_or_where_not_and_only_reads(pair: Pair) -> None:
    files = [pair.folder / name for name in ("model.keras", "model.onnx", "images.npy")]
    before = [path.read_bytes() for path in files]
    healthy = command(*files)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert healthy.stdout.splitlines()[-1] == "prove: equal"
    broken = pair.folder / "broken.onnx"
    onnx.save(changed(pair.model, "dense_2", (3, 2), lambda value: -value), broken)
    result = command(files[0], broken, files[2], "--json")
    assert (result.returncode, result.stderr) == (1, "")
    found = json.loads(result.stdout)
    assert found["verdict"] == "different"
    assert found["levels"]["place"]["data"]["layer"] == "fashion_mlp/dense_2/MatMul"
    assert [path.read_bytes() for path in files] == before


def test_the_command_has_nothing_to_do_with_dvc_yaml(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("<<<<<<< HEAD")
    done = command("a.keras", "a.onnx", "a.npy", folder=tmp_path)
    says = "prove: error: a.npy: No such file or directory\n"
    assert (done.returncode, done.stderr) == (2, says)


def test_the_command_says_in_one_line_what_it_can_not_read(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(pair.folder / name) for name in ("model.onnx", "model.onnx", "images.npy")]
    monkeypatch.setattr(sys, "argv", ["prove", *files])
    with pytest.raises(SystemExit, match="2"):
        prove.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"prove: error: {files[0]}: not a .keras file"
    os.mkfifo(pair.folder / "pipe")  # which would be waited for forever
    monkeypatch.setattr(sys, "argv", ["prove", *files[:2], str(pair.folder / "pipe")])
    with pytest.raises(SystemExit, match="2"):
        prove.main()
    assert "pipe: expected a file, got a pipe or a device" in capsys.readouterr().err
