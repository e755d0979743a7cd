"""export: the network as ONNX files, proven equal to the Keras model before they are written.

reads   models/fashion_mlp.keras, data/prepared/{train,validation,test}_{images,labels}.npy
writes  models/fashion_mlp.onnx         float32 [N,pixels] -> probabilities float32 [N,classes]
        models/fashion_mlp_uint8.onnx   the same with the preprocessing inside: uint8 [N,pixels]
        models/fashion_mlp_exact.onnx   uint8 [N,pixels] -> logits, class, probabilities: integers
                                        inside, so that every float32 runtime gives the same logits
        models/labels.json              class names and image shape, for runtimes without metadata
        models/test_data_set_0/         an input and its output, in ONNX's backend-test layout
        metrics/export.json             on how many images it held
        metrics/proof.csv               all that was compared
        metrics/uncertified.csv         the images whose class the rounding bound leaves open

The proof has levels (fashion_mlp/proof/levels.py): the graph is the one expected; its weights are
Keras' bit for bit; in float64 it computes what the reference does; on all images Keras and
onnxruntime lie inside float32's rounding bound around that reference and name the same class,
whatever the batch size; edge-case inputs are answered alike.
What is proven is the bytes that are written, metadata included, and nothing is written before all
of it holds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from fashion_mlp.data.arrays import BATCH_SIZE, load_split
from fashion_mlp.export.exact import exact_graph
from fashion_mlp.export.graph import converted, plain_graph, uint8_graph
from fashion_mlp.export.metadata import describe, labels, metadata
from fashion_mlp.export.quantize import largest_error, quantize
from fashion_mlp.formats import DIGITS, write_csv, write_json
from fashion_mlp.network import engine
from fashion_mlp.paths import MODEL, PREPARED
from fashion_mlp.proof.box import largest_difference, worst_found
from fashion_mlp.proof.evidence import Evidence, gather
from fashion_mlp.proof.exact import EXACT, measure
from fashion_mlp.proof.levels import UINT8, check_same, prove
from fashion_mlp.proof.runtime import Candidate, onnxruntime_predict
from pipeline.console import progress, run
from pipeline.files import replacing
from pipeline.params import Params, load_params

if TYPE_CHECKING:
    import keras

    from fashion_mlp.network.model import Layer

ONNX = Path("models/fashion_mlp.onnx")
ONNX_UINT8 = Path("models/fashion_mlp_uint8.onnx")
ONNX_EXACT = Path("models/fashion_mlp_exact.onnx")
LABELS = Path("models/labels.json")
TEST_DATA = Path("models/test_data_set_0")
METRICS = Path("metrics/export.json")
HEADLINES = (  # of what is proven; the rest is in PROOF alone
    *("images", "within_bound", "argmax_agreement", "argmax_certified"),
    *("uint8_bit_identical", "exact_argmax_agreement", "largest_runtime_difference"),
)
PROOF = Path("metrics/proof.csv")
UNCERTIFIED = Path("metrics/uncertified.csv")
SAMPLE_IMAGES = 10  # in test_data_set_0


def check_params(params: Params, layers: Sequence[Layer], held_out: int) -> None:
    """Check that the network is what params.yaml says, which the files will say of it.

    `held_out` is how many validation images there are.

    Raises:
        ValueError: it has other layers, or other images were held out.
    """
    hidden = [len(layer.bias) for layer in layers[:-1]]
    expected = [params.train.activation] * len(params.train.hidden_units)
    found = [layer.activation for layer in layers[:-1]]
    for key, wanted, got, stage in (
        ("train.hidden_units", params.train.hidden_units, hidden, "train"),
        ("train.activation", expected, found, "train"),
        (
            "preprocess.validation_images",
            params.preprocess.validation_images,
            held_out,
            "preprocess",
        ),
    ):
        if wanted != got:
            raise ValueError(
                f"{key}: params.yaml says {wanted}, {MODEL} and {PREPARED} were made with {got}; "
                f"run `dvc repro --force {stage}`"
            )


def check_converter(network: keras.Model, model: onnx.ModelProto, images: np.ndarray) -> None:
    """Check that tf2onnx's conversion gives the same bits as the graph that we write.

    Args:
        network: maps float32 (n, pixels) to float32 (n, classes).
        model: the graph.
        images: float32 (n, pixels).

    Raises:
        ValueError: an answer differs.
    """
    opset = model.opset_import[0].version
    expected, got = (
        onnxruntime_predict(one)(images, BATCH_SIZE) for one in (converted(network, opset), model)
    )
    check_same("beside tf2onnx's answers, test images", expected, got)


def uncertified_rows(
    evidence: Evidence, exact: Mapping[tuple[str, int], int], names: Sequence[str]
) -> list[tuple[Any, ...]]:
    """List the images whose class the bound leaves open, or exact gives otherwise; by their gap.

    `exact` holds, by split and number, the class that the exact model names where it is another.
    """
    rows = []
    for split, allowed in evidence.bounds.items():
        other = [number for name, number in exact if name == split]
        for number in map(int, {*other, *np.flatnonzero(~allowed.certified())}):
            order = np.argsort(-allowed.probabilities[number], kind="stable")
            best, after = map(int, order[:2])
            gap = float(allowed.probabilities[number, best] - allowed.probabilities[number, after])
            named = exact.get((split, number), best)
            rows.append((split, number, names[best], names[after], gap, names[named]))
    return sorted(rows, key=lambda row: (round(row[4], DIGITS), row[0], row[1]))


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


def bound_for_all(evidence: Evidence) -> float:
    """Bound how far apart two float32 runtimes can be on any image; say what a search found."""
    furthest = largest_difference(evidence.layers)
    found = max(
        worst_found(evidence.layers, array, evidence.bounds[split])
        for split, array in evidence.images.items()
    )
    say(
        f"two float32 runtimes are at most {furthest} apart on any image in [0, 1]; on the worst "
        f"image that a search found, {found:.2g}"
    )
    return furthest


def make_graphs(evidence: Evidence, params: Params) -> dict[Path, onnx.ModelProto]:
    """Make the graph that each file must hold."""
    form = (params.export.opset, params.export.ir_version)
    integers = quantize(evidence.layers, params.dataset.image_shape)
    error = largest_error(evidence.layers, integers)
    say(f"exact: logits within {error:.2g} of the unrounded network's on any image")
    plain = plain_graph(evidence.layers, *form)
    uint8, exact = uint8_graph(plain), exact_graph(integers, *form)
    return {ONNX: plain, ONNX_UINT8: uint8, ONNX_EXACT: exact}


def own_metadata(
    graphs: Mapping[Path, onnx.ModelProto],
    evidence: Evidence,
    split: str,
    numbers: np.ndarray,
    furthest: float,
) -> dict[Path, dict[str, str]]:
    """Say what is measured on each file: the float32 and the uint8 file are proven to be Keras.

    Args:
        graphs: from `make_graphs`.
        evidence: from `gather`.
        split: whose images the accuracy is measured on.
        numbers: of their classes, (n,).
        furthest: from `bound_for_all`.
    """
    exact = onnxruntime_predict(graphs[ONNX_EXACT])(evidence.pixels[split], BATCH_SIZE)
    keras_accuracy, exact_accuracy = (
        {f"{split}_accuracy": f"{(answers.argmax(axis=1) == numbers).mean():.{DIGITS}f}"}
        for answers in (evidence.keras[split], exact)
    )
    plain = {"largest_runtime_difference": str(furthest), **keras_accuracy}
    return {ONNX: plain, ONNX_UINT8: plain, ONNX_EXACT: exact_accuracy}


def described(
    graphs: Mapping[Path, onnx.ModelProto], params: Params, own: Mapping[Path, dict[str, str]]
) -> dict[Path, bytes]:
    """Write metadata into the graphs; give the files' bytes, the same for the same graphs."""
    held_out = params.preprocess.validation_images
    known = metadata(params.dataset, params.fetch.files, held_out, params.train)
    for path, graph in graphs.items():
        describe(graph, known | own[path], scaled=path == ONNX)
    return {path: it.SerializeToString(deterministic=True) for path, it in graphs.items()}


def prove_files(
    files: Mapping[Path, bytes], expected: Mapping[Path, onnx.ModelProto], evidence: Evidence
) -> tuple[dict[str, Any], dict[tuple[str, int], int]]:
    """Prove each file, the bytes that will be written.

    Returns:
        What was compared, for PROOF, and the images to which the exact file gives another class:
        split and number, and that class.
    """
    plain, uint8, exact = (
        Candidate(onnx.load_from_string(files[path]), expected[path])
        for path in (ONNX, ONNX_UINT8, ONNX_EXACT)
    )
    uint8.proven = plain
    metrics = prove(plain, evidence, say)
    metrics |= prove(uint8, evidence, say, UINT8, "uint8")
    sums = prove(exact, evidence, say, EXACT, "exact")
    measured, other = measure(exact, evidence, say)
    return metrics | measured | sums, other


def write(
    files: Mapping[Path, bytes],
    metrics: Mapping[str, Any],
    evidence: Evidence,
    open_rows: Sequence[tuple[Any, ...]],
) -> None:
    """Write the files that were proven, and what was compared."""
    probabilities = evidence.bounds["test"].probabilities
    write_test_data(TEST_DATA, evidence.images["test"], probabilities)
    for path, content in files.items():
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    header = ["split", "image", "class", "next_class", "probability_gap", "exact_class"]
    write_csv(UNCERTIFIED, header, open_rows)
    write_csv(PROOF, ["check", "value"], metrics.items())
    write_json(METRICS, {key: metrics[key] for key in HEADLINES})


def main() -> None:
    params = load_params()
    sizes = (params.dataset.pixels, params.dataset.classes)
    splits = {name: load_split(name, *sizes) for name in ("train", "validation", "test")}
    images = {name: split.images for name, split in splits.items() if len(split.images)}
    engine.start()

    from fashion_mlp.network.model import layers_of, load_network

    network, split = load_network(MODEL, sizes), params.measured
    check_params(params, layers_of(network), len(splits["validation"].images))
    other_sizes = {*params.export.batch_sizes} - {BATCH_SIZE}
    total = sum(map(len, images.values())) + len(other_sizes) * len(images["test"])
    with progress("export", total, "images") as bar:
        evidence, distance = gather(network, images, params.export.batch_sizes, bar.update)
    say(distance)
    furthest, graphs = bound_for_all(evidence), make_graphs(evidence, params)
    numbers = splits[split].labels.argmax(axis=1)
    own = own_metadata(graphs, evidence, split, numbers, furthest)
    files = described(graphs, params, own)
    check_converter(network, graphs[ONNX], images["test"])
    metrics, other = prove_files(files, graphs, evidence)
    metrics["largest_runtime_difference"] = furthest
    write(files, metrics, evidence, uncertified_rows(evidence, other, params.dataset.names()))
    write_json(LABELS, labels(params.dataset))
    say(
        f"{ONNX}, {len(files[ONNX]):,} bytes, equal to Keras on "
        f"{metrics['argmax_agreement']:,} of {metrics['images']:,} images"
    )


def say(line: str) -> None:
    """Print a line of this stage's."""
    print(f"export: {line}", flush=True)


if __name__ == "__main__":
    run(main)
