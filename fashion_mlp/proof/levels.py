"""The proof that an ONNX file computes what the Keras model does, level by level.

Each level is a function that takes the candidate, an ONNX model with onnxruntime's answers, and the
evidence, and gives its findings, or raises ValueError with what differed, where and by how much.
They do not rely on each other, so that checks/mutations.py can show what each of them catches; what
several of them look at, onnxruntime is asked for once.

The evidence is gathered from the Keras model once: its weights, the float64 reference with its
rounding bound (reference.py), and what Keras itself answers, which must lie inside the bound.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from fashion_mlp.proof.reference import Bounds, Weights, bounds

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 1000
KERAS_IMAGES = 10_000  # given to TensorFlow at a time
OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}

Predict = Callable[[np.ndarray, int], np.ndarray]


class Findings(NamedTuple):
    """What a level found."""

    figures: dict[str, Any]  # counts, the same on every machine: for metrics/export.json
    says: str  # with what was measured on this machine: for the screen


class Evidence(NamedTuple):
    """What the ONNX model is compared with.

    Arrays by split or by kind of input: images float32 (n, pixels), Keras' answers float32
    (n, classes).
    """

    weights: Weights
    activation: str
    opset: int
    ir_version: int
    tolerance: float  # largest |probability - reference| on real images, beside the bound
    batch_sizes: Sequence[int]
    images: Mapping[str, np.ndarray]
    bounds: Mapping[str, Bounds]
    keras: Mapping[str, np.ndarray]
    hostile_images: np.ndarray
    hostile_bounds: Bounds
    hostile_keras: np.ndarray
    hostile_names: Sequence[str]

    @property
    def batch_split(self) -> str:
        """The split on which batch sizes are compared: the last."""
        return list(self.images)[-1]

    def accuracy(self, split: str, labels: np.ndarray) -> float:
        """Measure how often Keras names the label: class numbers (n,)."""
        return float((self.keras[split].argmax(axis=1) == labels).mean())


def gather(
    network: keras.Model,
    images: Mapping[str, np.ndarray],
    opset: int,
    ir_version: int,
    tolerance: float,
    batch_sizes: Sequence[int],
    done: Callable[[int], object] = lambda count: None,
) -> tuple[Evidence, str]:
    """Compute the reference and Keras' answers, and check that they agree.

    Args:
        network: takes float32 (n, pixels), gives float32 (n, classes).
        images: by split, float32 (n, pixels).
        opset: that the ONNX file must have.
        ir_version: that the ONNX file must have.
        tolerance: largest |probability - reference| on `images`.
        batch_sizes: at which the answers must agree.
        done: called with a number of images as they are done.

    Returns:
        The evidence, and a line for the screen that says how far Keras lies from the reference.

    Raises:
        ValueError: not the network that stage `train` makes, or Keras' answers lie outside the
            rounding bound or the tolerance; says where and by how much.
    """
    weights, activation = read_weights(network)
    predict = keras_predict(network)
    reference, answers, used = {}, {}, []
    for split, array in images.items():
        reference[split] = bounds(weights, activation, array)
        answers[split] = predict(array, BATCH_SIZE)
        what = f"{split} image"
        used.append(check_inside("Keras", answers[split], reference[split], what, tolerance))
        done(len(array))
    for batch_size in batch_sizes:  # on the last split
        usual = batch_size == BATCH_SIZE
        again = answers[split] if usual else predict(array, batch_size)
        what = f"at batch size {batch_size}, {split} image"
        check_inside("Keras", again, reference[split], what, tolerance)
        check_same_class("Keras", again, answers[split], what)
        done(len(array))
    names, hostile = hostile_images(weights.hidden_kernel.shape[0])
    evidence = Evidence(
        weights,
        activation,
        opset,
        ir_version,
        tolerance,
        batch_sizes,
        images,
        reference,
        answers,
        hostile,
        bounds(weights, activation, hostile),
        # Layer by layer: the fused layers of `predict` drop a NaN (docs/proof.md).
        np.asarray(network(hostile, training=False)),
        names,
    )
    return evidence, f"Keras inside the bound on all images; {describe_distance(used)}"


def read_weights(network: keras.Model) -> tuple[Weights, str]:
    """Take the weights and the hidden layer's activation out of the Keras model.

    Raises:
        ValueError: not the network that stage `train` makes.
    """
    weights = network.get_weights()
    if len(weights) != 4 or len(network.layers) != 2:
        raise ValueError(
            f"expected a network of 2 dense layers, got {len(network.layers)}; "
            f"run `dvc repro --force train`"
        )
    return Weights(*weights), network.layers[0].activation.__name__


def keras_predict(network: keras.Model) -> Predict:
    """Make a function that runs the Keras model as its users run it, as `predict` does.

    It goes from batch to batch inside TensorFlow: called from Python for each image, Keras takes
    0.6 ms a call.
    """
    import tensorflow as tf

    classes = network.output_shape[1]

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, network.input_shape[1]), tf.float32),
            tf.TensorSpec((), tf.int32),
        ]
    )
    def forward(images: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
        batches = (tf.shape(images)[0] + batch_size - 1) // batch_size
        answers = tf.TensorArray(
            tf.float32, batches, element_shape=(None, classes), infer_shape=False
        )
        for number in tf.range(batches):
            batch = images[number * batch_size : (number + 1) * batch_size]
            answers = answers.write(number, network(batch, training=False))
        return answers.concat()

    def run(images: np.ndarray, batch_size: int) -> np.ndarray:
        at_once = batch_size * max(1, KERAS_IMAGES // batch_size)
        predict = batched(lambda part: forward(part, batch_size).numpy(), classes)
        return predict(images, at_once)

    return run


def onnxruntime_predict(model: onnx.ModelProto) -> Predict:
    """Make a function that runs the model by onnxruntime on the processor.

    Raises:
        ValueError: onnxruntime does not take the model; from the function: it can't run it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors are raised; nothing else is of interest here
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own exceptions have no common class below Exception
        raise ValueError(f"onnxruntime does not take the model: {_one_line(error)}") from None
    name = session.get_inputs()[0].name
    classes = session.get_outputs()[0].shape[1]

    def predict(batch: np.ndarray) -> np.ndarray:
        try:
            return session.run(None, {name: batch})[0]
        except Exception as error:
            raise ValueError(f"onnxruntime can't run the model: {_one_line(error)}") from None

    return batched(predict, classes)


class Candidate:
    """An ONNX model to be proven, with onnxruntime's answers to the evidence's images.

    The levels share the answers: each is asked for when it is first looked at, and kept.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Take a model, whose graph must not change any more."""
        self.model = model
        self._answers: dict[tuple[str, int], np.ndarray] = {}

    @cached_property
    def predict(self) -> Predict:
        """Run onnxruntime with this model, see `onnxruntime_predict`."""
        return onnxruntime_predict(self.model)

    def answers(
        self, images: Mapping[str, np.ndarray], split: str, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """Give the probabilities of a split's images: float32 (n, classes).

        Args:
            images: by split, float32 (n, pixels); the same ones at every call.
            split: which of them.
            batch_size: images a call of onnxruntime.

        Raises:
            ValueError: onnxruntime does not take the model, or can't run it.
        """
        key = (split, batch_size)
        if key not in self._answers:
            self._answers[key] = self.predict(images[split], batch_size)
        return self._answers[key]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def batched(predict: Callable[[np.ndarray], np.ndarray], classes: int) -> Predict:
    """Make a function of images and a batch size out of one that takes a batch."""

    def run(images: np.ndarray, batch_size: int) -> np.ndarray:
        parts = [
            predict(np.ascontiguousarray(images[first : first + batch_size]))
            for first in range(0, len(images), batch_size)
        ]
        return np.concatenate([np.empty((0, classes), np.float32), *parts])

    return run


def hostile_images(pixels: int) -> tuple[list[str], np.ndarray]:
    """Make the inputs that nobody should send: their names and float32 (n, pixels)."""
    number = np.arange(pixels)
    float32 = np.finfo(np.float32)
    inputs: dict[str, Any] = {
        "zeros": 0.0,
        "negative zeros": -0.0,
        "ones": 1.0,
        "checkerboard": number % 2,
        "checkerboard, the other": 1 - number % 2,
        "stripes of 28": number // 28 % 2,
        "smallest denormal": float32.smallest_subnormal,
        "largest denormal": float32.smallest_normal - float32.smallest_subnormal,
        "minus one": -1.0,
        "bytes not divided": 255.0,
        "1e20": 1e20,
        "1e30": 1e30,
        "largest float32": float32.max,
        "smallest float32": float32.min,
        "NaN": np.nan,
        "one NaN": np.where(number == pixels // 2, np.nan, 0.0),
        "infinity": np.inf,
        "minus infinity": -np.inf,
        "one infinity": np.where(number == pixels // 2, np.inf, 0.0),
        "infinities of both signs": np.where(number % 2, np.inf, -np.inf),
    }
    images = [np.broadcast_to(np.float32(value), (pixels,)) for value in inputs.values()]
    return list(inputs), np.stack(images)


def check_inside(
    runtime: str, answers: np.ndarray, allowed: Bounds, what: str, tolerance: float = np.inf
) -> tuple[float, float]:
    """Check that answers lie inside the rounding bound, and within a tolerance.

    Args:
        runtime: its name in errors.
        answers: float32 (n, classes).
        allowed: for the same images.
        what: is counted, in errors: `test image`.
        tolerance: largest |answer - reference|.

    Returns:
        The largest |answer - reference|, and the largest share of the bound that was used.

    Raises:
        ValueError: at the first answer outside.
    """
    # `not <=` and not `>`, so that a NaN is outside.
    distance = np.abs(answers - allowed.probabilities)
    inside = (allowed.low <= answers) & (answers <= allowed.high) & (distance <= tolerance)
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        low, high = allowed.low[row, column], allowed.high[row, column]
        middle = allowed.probabilities[row, column]
        limits = f"between {low:.9g} and {high:.9g}"
        if low <= answers[row, column] <= high:
            limits = f"within {tolerance:g} of {middle:.9g}"
        raise ValueError(
            f"{runtime}, {what} {row}, class {column}: expected a probability {limits}, got "
            f"{answers[row, column]:.9g}; {np.count_nonzero(~inside.all(axis=1)):,} such images"
        )
    room = np.where(
        answers > allowed.probabilities,
        allowed.high - allowed.probabilities,
        allowed.probabilities - allowed.low,
    )
    share = np.divide(distance, room, out=np.zeros_like(distance), where=room > 0)
    return float(distance.max(initial=0.0)), float(share.max(initial=0.0))


def check_structure(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (a): the graph is, field by field, the one expected; only weights are left open.

    Operators, their order, attributes and connections; names, dtypes, shapes and the symbolic
    batch dimension `N`; opset and IR version; no other imports, functions or fields.
    """
    try:
        onnx.checker.check_model(candidate.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"not valid ONNX: {_one_line(error)}") from None
    expected = _lines(expected_model(evidence))
    found = _lines(candidate.model)
    changes = [line for line in difflib.ndiff(expected, found) if line[:2] in ("- ", "+ ")]
    if changes:
        wanted = next((line[2:].strip() for line in changes if line[0] == "-"), "nothing more")
        got = next((line[2:].strip() for line in changes if line[0] == "+"), "nothing more")
        raise ValueError(f"graph: expected {wanted}, got {got}; {len(changes)} lines differ")
    operators = [node.op_type for node in candidate.model.graph.node]
    return Findings({"operators": len(operators)}, " -> ".join(operators))


def expected_model(evidence: Evidence) -> onnx.ModelProto:
    """Write down the graph that the file must hold, without the values of its weights."""
    weights = evidence.weights
    pixels, classes = len(weights.hidden_kernel), len(weights.probabilities_bias)
    operator = OPERATORS[evidence.activation]
    low = operator.lower()
    nodes = [
        helper.make_node("MatMul", ["image", "hidden_kernel"], ["matmul_0"], "matmul_0"),
        helper.make_node("Add", ["matmul_0", "hidden_bias"], ["add_1"], "add_1"),
        helper.make_node(operator, ["add_1"], [f"{low}_2"], f"{low}_2"),
        helper.make_node("MatMul", [f"{low}_2", "probabilities_kernel"], ["matmul_3"], "matmul_3"),
        helper.make_node("Add", ["matmul_3", "probabilities_bias"], ["add_4"], "add_4"),
        helper.make_node("Softmax", ["add_4"], ["probabilities"], "softmax_5"),
    ]
    graph = helper.make_graph(
        nodes,
        "fashion_mlp",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", pixels])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes])],
        [
            TensorProto(name=name, data_type=TensorProto.FLOAT, dims=weight.shape, raw_data=b"")
            for name, weight in zip(weights._fields, weights, strict=True)
        ],
    )
    return helper.make_model(
        graph,
        producer_name="fashion-mlp",
        ir_version=evidence.ir_version,
        opset_imports=[helper.make_opsetid("", evidence.opset)],
    )


def _lines(model: onnx.ModelProto) -> list[str]:
    """Print a model without its weights and its metadata, a field a line."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.metadata_props[:]
    for tensor in plain.graph.initializer:
        tensor.raw_data = b""
    return str(plain).splitlines()


def check_weights(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (b): the initializers are the Keras weights bit for bit."""
    initializers = candidate.model.graph.initializer
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}
    weights = evidence.weights
    if list(found) != list(weights._fields):
        raise ValueError(f"initializers: expected {list(weights._fields)}, got {list(found)}")
    for name, expected in zip(weights._fields, weights, strict=True):
        got = found[name]
        if got.dtype != expected.dtype or got.shape != expected.shape:
            raise ValueError(
                f"initializer {name}: expected {expected.dtype} {expected.shape}, "
                f"got {got.dtype} {got.shape}"
            )
        different = np.argwhere(got.view(np.uint32) != expected.view(np.uint32))
        if len(different):
            where = tuple(int(i) for i in different[0])
            raise ValueError(
                f"initializer {name}: {len(different):,} of {got.size:,} values differ from "
                f"Keras', first at {where}: expected {expected[where]:.9g}, got {got[where]:.9g}"
            )
    values = sum(weight.size for weight in weights)
    return Findings(
        {"initializers_bit_identical": len(found), "weights_bit_identical": values},
        f"{len(found)} initializers, {values:,} values, bit for bit Keras'",
    )


def check_bounds(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (c): on every image onnxruntime lies inside the rounding bound and the tolerance."""
    used = [
        check_inside(
            "onnxruntime",
            candidate.answers(evidence.images, split),
            evidence.bounds[split],
            f"{split} image",
            evidence.tolerance,
        )
        for split in evidence.images
    ]
    total = sum(len(images) for images in evidence.images.values())
    return Findings(
        {"images": total, "within_bound": total, "tolerance": evidence.tolerance},
        f"onnxruntime inside on {total:,} of {total:,} images; {describe_distance(used)}",
    )


def describe_distance(used: Sequence[tuple[float, float]]) -> str:
    """Say the largest of what `check_inside` gave."""
    distances, shares = zip(*used, strict=True)
    return f"largest distance {max(distances):.1e}, at most {max(shares):.0%} of the bound used"


def check_classes(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (d): on every image onnxruntime names the class that Keras names.

    The figures count the images that the bound certifies: there no correct float32 runtime can
    name another class. `uncertified` lists the others.
    """
    for split in evidence.images:
        answers = candidate.answers(evidence.images, split)
        check_same_class("onnxruntime", answers, evidence.keras[split], f"{split} image")
    total = sum(len(images) for images in evidence.images.values())
    certified = sum(int(known.certified().sum()) for known in evidence.bounds.values())
    return Findings(
        {
            "argmax_agreement": total,
            "argmax_certified": certified,
            "argmax_listed": total - certified,
        },
        f"the same on {total:,} of {total:,} images; certified by the bound {certified:,}, "
        f"listed {total - certified:,}",
    )


def check_same_class(runtime: str, answers: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Check that a runtime's answers name Keras' classes; both float32 (n, classes)."""
    if answers.shape != expected.shape:
        raise ValueError(f"{what}s: expected shape {expected.shape}, got {answers.shape}")
    got, wanted = answers.argmax(axis=1), expected.argmax(axis=1)
    if len(different := np.flatnonzero(got != wanted)):
        row = different[0]
        raise ValueError(
            f"{what} {row}: Keras names class {wanted[row]} ({expected[row].max():.6f}), "
            f"{runtime} class {got[row]} ({answers[row].max():.6f}); {len(different):,} such"
        )


def check_batch_sizes(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (e): the batch size changes no class, and moves no probability out of its bound."""
    split = evidence.batch_split
    usual = candidate.answers(evidence.images, split)
    moved = 0.0
    for batch_size in evidence.batch_sizes:
        answers = candidate.answers(evidence.images, split, batch_size)
        what = f"at batch size {batch_size}, {split} image"
        check_inside("onnxruntime", answers, evidence.bounds[split], what, evidence.tolerance)
        check_same_class("onnxruntime", answers, evidence.keras[split], what)
        moved = max(moved, float(np.abs(answers - usual).max(initial=0.0)))
    sizes = ", ".join(f"{size:,}" for size in evidence.batch_sizes)
    return Findings(
        {"batch_sizes_agreeing": len(evidence.batch_sizes)},
        f"{sizes} agree on {len(usual):,} images; probabilities move by at most {moved:.1g}",
    )


def check_hostile(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (f): inputs that nobody should send fare as in Keras.

    What is finite lies inside the rounding bound in both. What has a NaN or an infinity in it
    gives NaN in both or in neither. Where float32 may overflow, the order of adding decides, and
    no bound holds: those inputs are shown, not judged.
    """
    answers = {
        "Keras": evidence.hostile_keras,
        "onnxruntime": candidate.predict(evidence.hostile_images, BATCH_SIZE),
    }
    known = evidence.hostile_bounds
    finite = np.isfinite(evidence.hostile_images).all(axis=1)
    bounded = finite & np.isfinite(known.high).all(axis=1)
    for runtime, answer in answers.items():
        for row in map(int, np.flatnonzero(bounded)):
            inside = Bounds(*(array[[row]] for array in known))
            name = f"input of {evidence.hostile_names[row]}, number"
            check_inside(runtime, answer[[row]], inside, name)
    broken = {runtime: np.isnan(answer).any(axis=1) for runtime, answer in answers.items()}
    different = broken["Keras"] != broken["onnxruntime"]
    for row in map(int, np.flatnonzero(different & ~finite)):
        expected, got = ("NaN" if broken[name][row] else "numbers" for name in answers)
        name = evidence.hostile_names[row]
        raise ValueError(f"input of {name}: Keras gives {expected}, onnxruntime {got}")
    judged, overflowing = int((bounded | ~finite).sum()), finite & ~bounded
    alike = int((overflowing & ~different).sum())
    return Findings(
        {"hostile_inputs_agreeing": judged},
        f"{judged} of {judged} as in Keras; where float32 overflows, "
        f"{alike} of {overflowing.sum()} alike",
    )


# In the order in which they are cheap; names as metrics, docs and the mutation table show them.
LEVELS: dict[str, Callable[[Candidate, Evidence], Findings]] = {
    "structure": check_structure,
    "weights": check_weights,
    "bounds": check_bounds,
    "classes": check_classes,
    "batch sizes": check_batch_sizes,
    "hostile inputs": check_hostile,
}


def prove(candidate: Candidate, evidence: Evidence, say: Callable[[str], object]) -> dict[str, Any]:
    """Hold a model to every level.

    Args:
        candidate: to be proven.
        evidence: from `gather`.
        say: called with a line for each level that held.

    Returns:
        The figures of metrics/export.json: counts, which do not depend on the machine.

    Raises:
        ValueError: at the first level that fails, naming it.
    """
    figures: dict[str, Any] = {}
    for name, level in LEVELS.items():
        try:
            findings = level(candidate, evidence)
        except ValueError as error:
            raise ValueError(f"ONNX model refused, level {name}: {error}") from None
        figures |= findings.figures
        say(f"{name}: {findings.says}")
    return figures


def uncertified(evidence: Evidence) -> list[tuple[str, int, int, int, float]]:
    """List the images whose class the rounding bound leaves open.

    Returns:
        Of each: split, number, class, the next class, and the gap between their probabilities.
    """
    rows = []
    for split, known in evidence.bounds.items():
        for number in np.flatnonzero(~known.certified()):
            order = np.argsort(-known.probabilities[number], kind="stable")
            best, following = int(order[0]), int(order[1])
            gap = known.probabilities[number, best] - known.probabilities[number, following]
            rows.append((split, int(number), best, following, float(gap)))
    return rows
