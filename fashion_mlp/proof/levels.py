"""The proof that an ONNX file computes what the Keras model does, level by level.

Each level is a function that takes the candidate, an ONNX model with onnxruntime's answers, and the
evidence, and gives its findings, or raises ValueError with what differed, where and by how much.
The levels do not depend on each other, so that checks/mutations.py can show what each of them
catches; onnxruntime's answers are computed once for all of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from fashion_mlp.data.arrays import BATCH_SIZE
from fashion_mlp.proof.double import one_line, quiet, run_in_double
from fashion_mlp.proof.evidence import (
    FLOAT64_IMAGES,
    Evidence,
    Predict,
    batched,
    check_inside,
    check_same_class,
    describe_distance,
)
from fashion_mlp.proof.reference import FLOAT32, Bounds


class Findings(NamedTuple):
    """What a level found."""

    metrics: dict[str, Any]  # counts, the same on every machine: for metrics/export.json
    says: str  # with what was measured on this machine: for the screen


# Makes one scaled product of the uint8 model's Div and a MatMul whose Add it dropped (one unit,
# bias 0): other bits than those of the plain model.
DISABLED = ("MatMulScaleFusion",)


def onnxruntime_run(
    model: onnx.ModelProto, disabled: Sequence[str] = DISABLED
) -> Callable[[Mapping[str, Any]], list[np.ndarray]]:
    """Make a function that runs a model by onnxruntime: inputs by name -> outputs in order.

    Raises:
        ValueError: onnxruntime does not take the model; from the function: it can't run it.
    """
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            quiet(),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(disabled),
        )
    except Exception as error:  # its own exceptions have no common class below Exception
        raise ValueError(f"onnxruntime does not take the model: {one_line(error)}") from None

    def run(feeds: Mapping[str, Any]) -> list[np.ndarray]:
        try:
            return session.run(None, dict(feeds))
        except Exception as error:
            raise ValueError(f"onnxruntime can't run the model: {one_line(error)}") from None

    return run


def onnxruntime_predict(model: onnx.ModelProto) -> Predict:
    """Make a function of images and a batch size that runs a model with one input by onnxruntime.

    Raises:
        ValueError: as `onnxruntime_run`.
    """
    run, name = onnxruntime_run(model), model.graph.input[0].name
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return batched(lambda batch: run({name: batch})[0], classes)


class Candidate:
    """An ONNX model to be proven, with onnxruntime's answers to the evidence's images.

    The levels share the answers: each is asked for when it is first looked at, and kept.
    """

    def __init__(self, model: onnx.ModelProto, expected: onnx.ModelProto) -> None:
        """Take a model, which must not change any more, and what it must be but for its weights."""
        self.model = model
        self.expected = expected
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
            batch_size: images per call of onnxruntime.

        Raises:
            ValueError: onnxruntime does not take the model, or can't run it.
        """
        key = (split, batch_size)
        if key not in self._answers:
            self._answers[key] = self.predict(images[split], batch_size)
        return self._answers[key]


def check_structure(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (a): the file is, field by field, the one expected; only weights are left open.

    Operators, their order, attributes and connections; names, dtypes, shapes and the symbolic
    batch dimension `N`; opset and IR version; metadata; no other imports, functions or fields.
    """
    try:
        onnx.checker.check_model(candidate.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"not valid ONNX: {one_line(error)}") from None
    expected, found = (_without_weights(it) for it in (candidate.expected, candidate.model))
    wanted_lines, found_lines = (str(model).splitlines() for model in (expected, found))
    changes = [
        line for line in difflib.ndiff(wanted_lines, found_lines) if line[:2] in ("- ", "+ ")
    ]
    if changes:
        wanted = next((line[2:].strip() for line in changes if line[0] == "-"), "nothing more")
        got = next((line[2:].strip() for line in changes if line[0] == "+"), "nothing more")
        raise ValueError(f"graph: expected {wanted}, got {got}; {len(changes)} lines differ")
    contents = (model.SerializeToString(deterministic=True) for model in (expected, found))
    if len(set(contents)) > 1:
        raise ValueError("graph: has fields that ONNX does not know")
    operators = [node.op_type for node in candidate.model.graph.node]
    return Findings({"operators": len(operators)}, " -> ".join(operators))


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, the values of its initializers left out."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for tensor in plain.graph.initializer:
        tensor.raw_data = b""
    return plain


def check_weights(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (b): the initializers are the Keras weights bit for bit."""
    arrays = [array for layer in evidence.layers for array in (layer.kernel, layer.bias)]
    expected, found = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (candidate.expected, candidate.model)
    )
    if list(found) != list(expected):
        raise ValueError(f"initializers: expected {list(expected)}, got {list(found)}")
    expected |= dict(zip(expected, arrays, strict=False))  # a constant may follow the weights
    for name, array in expected.items():
        _check_bits(name, array, found[name])
    values = sum(array.size for array in arrays)
    return Findings(
        {"initializers_bit_identical": len(arrays), "weights_bit_identical": values},
        f"{len(arrays)} initializers, {values:,} values, bit for bit Keras'",
    )


def _check_bits(name: str, expected: np.ndarray, got: np.ndarray) -> None:
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


def check_same_rows(what: str, expected: np.ndarray, got: np.ndarray) -> None:
    """Check that answers, float32 (n, classes), are those expected, bit for bit.

    Raises:
        ValueError: at the first row that differs; `what` is counted: `test image`.
    """
    if got.shape != expected.shape:
        raise ValueError(f"{what}s: expected shape {expected.shape}, got {got.shape}")
    different = (got.view(np.uint32) != expected.view(np.uint32)).any(axis=1)
    if len(rows := np.flatnonzero(different)):
        row = rows[0]
        raise ValueError(
            f"{what} {row}: expected {expected[row]}, got {got[row]}; {len(rows):,} such images"
        )


def check_float64(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (c): computed in float64, the file lies inside float64's rounding bound."""
    images = np.asarray(evidence.images[evidence.batch_split][:FLOAT64_IMAGES], np.float64)
    (name,) = (value.name for value in candidate.model.graph.input)
    (answers,) = run_in_double(candidate.model)({name: images}).values()
    what = f"{evidence.batch_split} image"
    distance, _ = check_inside("the file in float64", answers, evidence.float64_bounds, what)
    return Findings(
        {"float64_images": len(images)},
        f"inside its rounding bound on {len(images):,} images; largest distance {distance:.1e}",
    )


def check_bounds(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (d): on every image onnxruntime lies inside float32's rounding bound."""
    used = [
        check_inside(
            "onnxruntime",
            candidate.answers(evidence.images, split),
            evidence.bounds[split],
            f"{split} image",
        )
        for split in evidence.images
    ]
    total = sum(len(images) for images in evidence.images.values())
    return Findings(
        {"images": total, "within_bound": total},
        f"onnxruntime inside on {total:,} of {total:,} images; {describe_distance(used)}",
    )


def check_classes(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (e): on every image onnxruntime names the class that Keras names.

    The metrics count the images that the bound certifies: there no correct float32 runtime can
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


def check_batch_sizes(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (f): the batch size changes no class, and moves no probability out of its bound."""
    split = evidence.batch_split
    usual = candidate.answers(evidence.images, split)
    moved = 0.0
    for batch_size in evidence.batch_sizes:
        answers = candidate.answers(evidence.images, split, batch_size)
        what = f"at batch size {batch_size}, {split} image"
        check_inside("onnxruntime", answers, evidence.bounds[split], what)
        check_same_class("onnxruntime", answers, evidence.keras[split], what)
        moved = max(moved, float(np.abs(answers - usual).max(initial=0.0)))
    sizes = ", ".join(f"{size:,}" for size in evidence.batch_sizes)
    return Findings(
        {"batch_sizes_agreeing": len(evidence.batch_sizes)},
        f"{sizes} agree on {len(usual):,} images; probabilities move by at most {moved:.1g}",
    )


def check_edge_cases(candidate: Candidate, evidence: Evidence) -> Findings:
    """Level (g): edge-case inputs are answered as by Keras.

    What is finite lies inside the rounding bound in both. What has a NaN or an infinity in it
    gives NaN in both or in neither. Where float32 may overflow, the order of adding decides, and
    no bound holds; where a weight that may be flushed to zero meets an infinity, the flushing
    decides: those inputs are shown, not judged.
    """
    answers = {
        "Keras": evidence.edge_keras,
        "onnxruntime": candidate.predict(evidence.edge_images, BATCH_SIZE),
    }
    known = evidence.edge_bounds
    finite = np.isfinite(evidence.edge_images).all(axis=1)
    bounded = finite & np.isfinite(known.high).all(axis=1)
    settled = ~finite
    if any(
        ((layer.kernel != 0) & (np.abs(layer.kernel) < FLOAT32.tiny)).any()
        for layer in evidence.layers
    ):
        settled = np.isnan(evidence.edge_images).any(axis=1)
    for runtime, answer in answers.items():
        for row in map(int, np.flatnonzero(bounded)):
            inside = Bounds(*(array[[row]] for array in known))
            name = f"input of {evidence.edge_names[row]}, number"
            check_inside(runtime, answer[[row]], inside, name)
    broken = {runtime: np.isnan(answer).any(axis=1) for runtime, answer in answers.items()}
    different = broken["Keras"] != broken["onnxruntime"]
    for row in map(int, np.flatnonzero(different & settled)):
        expected, got = ("NaN" if broken[name][row] else "numbers" for name in answers)
        name = evidence.edge_names[row]
        raise ValueError(f"input of {name}: Keras gives {expected}, onnxruntime {got}")
    judged, open_ = int((bounded | settled).sum()), ~(bounded | settled)
    alike = int((open_ & ~different).sum())
    return Findings(
        {"edge_case_inputs_agreeing": judged},
        f"{judged} of {judged} as in Keras; where float32 overflows, "
        f"{alike} of {open_.sum()} alike",
    )


# In the order in which they are cheap; names as metrics, docs and the mutation table show them.
LEVELS: dict[str, Callable[[Candidate, Evidence], Findings]] = {
    "structure": check_structure,
    "weights": check_weights,
    "float64": check_float64,
    "bounds": check_bounds,
    "classes": check_classes,
    "batch sizes": check_batch_sizes,
    "edge cases": check_edge_cases,
}


def prove(candidate: Candidate, evidence: Evidence, say: Callable[[str], object]) -> dict[str, Any]:
    """Hold a model to every level.

    Args:
        candidate: to be proven.
        evidence: from `gather`.
        say: called with a line for each level that held.

    Returns:
        The metrics of metrics/export.json: counts, which do not depend on the machine.

    Raises:
        ValueError: at the first level that fails, naming it.
    """
    metrics: dict[str, Any] = {}
    for name, level in LEVELS.items():
        try:
            findings = level(candidate, evidence)
        except ValueError as error:
            raise ValueError(f"ONNX model refused, level {name}: {error}") from None
        metrics |= findings.metrics
        say(f"{name}: {findings.says}")
    return metrics
