"""The proof of the ONNX files that ship: held to Keras, and to the graphs that they must be.

Each is a function that takes the candidate, an ONNX model with onnxruntime's answers, and the
evidence, and gives its finding, or raises ValueError with what differed, where and by how much.
No level depends on another, so that checks/mutations.py can show what each of them catches.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fashion_mlp.data.arrays import BATCH_SIZE
from fashion_mlp.proof.double import one_line, run_in_double
from fashion_mlp.proof.evidence import (
    FEW_IMAGES,
    Evidence,
    check_all_inside,
    check_inside,
    check_same_class,
    check_sizes,
)
from fashion_mlp.proof.findings import HELD, Finding, hold
from fashion_mlp.proof.matching import find_weights
from fashion_mlp.proof.reference import FLOAT32, Bounds
from fashion_mlp.proof.runtime import Candidate

Levels = Mapping[str, Callable[[Candidate, Evidence], Finding]]


def check_structure(candidate: Candidate, evidence: Evidence) -> Finding:
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
        wanted, got = (
            next((line[2:].strip() for line in changes if line[0] == sign), "nothing more")
            for sign in "-+"
        )
        raise ValueError(f"graph: expected {wanted}, got {got}; {len(changes)} lines differ")
    contents = (model.SerializeToString(deterministic=True) for model in (expected, found))
    if len(set(contents)) > 1:
        raise ValueError("graph: has fields that ONNX does not know")
    operators = [node.op_type for node in candidate.model.graph.node]
    return Finding(HELD, " -> ".join(operators), {"operators": len(operators)})


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, the values of its initializers left out."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for tensor in plain.graph.initializer:
        tensor.raw_data = b""
    return plain


def check_weights(candidate: Candidate, evidence: Evidence) -> Finding:
    """Level (b): the initializers are the Keras weights bit for bit, each in its place."""
    check_constants(candidate, evidence)
    found = find_weights(evidence.weights, candidate.model)
    if found.result != HELD:
        return found
    values = sum(array.size for array in evidence.weights.values())
    return Finding(
        HELD,
        f"{len(evidence.weights)} initializers, {values:,} values, bit for bit Keras'",
        {"initializers_bit_identical": len(evidence.weights), "weights_bit_identical": values},
    )


def check_constants(candidate: Candidate, evidence: Evidence) -> Finding:
    """Check that the initializers are those expected, bit for bit."""
    expected, found = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (candidate.expected, candidate.model)
    )
    if list(found) != list(expected):
        raise ValueError(f"initializers: expected {list(expected)}, got {list(found)}")
    for name, array in expected.items():
        check_same(f"initializer {name}", array, found[name])
    return Finding(HELD, "")


def check_same(what: str, expected: np.ndarray, got: np.ndarray) -> None:
    """Check that numbers are those expected, bit for bit.

    Raises:
        ValueError: another dtype, shape or value; says where it is.
    """
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        raise ValueError(
            f"{what}: expected {expected.dtype} {expected.shape}, got {got.dtype} {got.shape}"
        )
    bits = f"u{expected.itemsize}"
    if len(different := np.argwhere(got.view(bits) != expected.view(bits))):
        where = tuple(int(i) for i in different[0])
        raise ValueError(
            f"{what}: {len(different):,} of {got.size:,} values differ, first at {where}: "
            f"expected {expected[where]:.9g}, got {got[where]:.9g}"
        )


def check_float64(candidate: Candidate, evidence: Evidence) -> Finding:
    """Level (c): computed in float64, the file lies inside float64's rounding bound."""
    images = evidence.images[evidence.batch_split][:FEW_IMAGES]
    (name,) = (value.name for value in candidate.model.graph.input)
    (answers,) = run_in_double(candidate.model)({name: images}).values()
    what = f"{evidence.batch_split} image"
    distance, _ = check_inside("the file in float64", answers, evidence.float64_bounds, what)
    says = f"inside its rounding bound on {len(images):,} images; largest distance {distance:.1e}"
    return Finding(HELD, says, {"float64_images": len(images)})


def check_bounds(candidate: Candidate, evidence: Evidence) -> Finding:
    """Level (d): on every image onnxruntime lies inside float32's rounding bound."""
    says = check_all_inside("onnxruntime", partial(candidate.answers, evidence.images), evidence)
    total = sum(map(len, evidence.images.values()))
    says = f"onnxruntime inside on {total:,} of {total:,} images; {says}"
    return Finding(HELD, says, {"images": total, "within_bound": total})


def check_classes(candidate: Candidate, evidence: Evidence) -> Finding:
    """Level (e): on every image onnxruntime names the class that Keras names.

    The metrics count the images that the bound certifies: there no correct float32 runtime can
    name another class. metrics/uncertified.csv lists the others.
    """
    for split in evidence.images:
        answers = candidate.answers(evidence.images, split)
        check_same_class("onnxruntime", answers, evidence.keras[split], f"{split} image")
    total = sum(map(len, evidence.images.values()))
    certified = sum(int(known.certified().sum()) for known in evidence.bounds.values())
    metrics = {"agreement": total, "certified": certified, "listed": total - certified}
    return Finding(
        HELD,
        f"the same on {total:,} of {total:,} images; certified by the bound {certified:,}, "
        f"listed {total - certified:,}",
        {f"argmax_{name}": count for name, count in metrics.items()},
    )


def check_batch_sizes(candidate: Candidate, evidence: Evidence) -> Finding:
    """Level (f): the batch size changes no class, and moves no probability out of its bound."""
    moved = check_sizes("onnxruntime", partial(candidate.answers, evidence.images), evidence)
    images = len(evidence.images[evidence.batch_split])
    sizes = ", ".join(f"{size:,}" for size in evidence.batch_sizes)
    says = f"{sizes} agree on {images:,} images; probabilities move by at most {moved:.1g}"
    return Finding(HELD, says, {"batch_sizes_agreeing": len(evidence.batch_sizes)})


def check_edge_cases(candidate: Candidate, evidence: Evidence) -> Finding:
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
    says = f"{judged} of {judged} as in Keras; where float32 overflows, "
    says += f"{alike} of {open_.sum()} alike"
    return Finding(HELD, says, {"edge_case_inputs_agreeing": judged})


def check_same_bits(candidate: Candidate, evidence: Evidence) -> Finding:
    """Check that bytes give the very bits that the proven model gives for the same images."""
    if candidate.proven is None:
        raise ValueError("expected the proven model beside the one that takes bytes")
    answers = partial(candidate.proven.answers, evidence.images)
    for split, pixels in evidence.pixels.items():
        got = candidate.predict(pixels, BATCH_SIZE)
        check_same(f"{split} images", answers(split), got)
    split = evidence.batch_split
    for size in evidence.batch_sizes:
        got = candidate.predict(evidence.pixels[split][:FEW_IMAGES], size)
        check_same(f"batch size {size}, {split} images", answers(split, size)[:FEW_IMAGES], got)
    total = sum(map(len, evidence.pixels.values()))
    says = f"bytes in, the same bits out on {total:,} images"
    return Finding(HELD, says, {"uint8_bit_identical": total})


# In the order in which they are cheap; names as metrics, docs and the mutation table show them.
PLAIN: Levels = {
    "structure": check_structure,
    "weights": check_weights,
    "float64": check_float64,
    "bounds": check_bounds,
    "classes": check_classes,
    "batch sizes": check_batch_sizes,
    "edge cases": check_edge_cases,
}
UINT8: Levels = {
    "structure": check_structure,
    "weights": check_weights,
    "same bits": check_same_bits,
}


def prove(
    candidate: Candidate,
    evidence: Evidence,
    say: Callable[[str], object] = lambda line: None,
    levels: Levels = PLAIN,
    name: str = "",
) -> dict[str, Any]:
    """Hold a file that ships to every level.

    Args:
        candidate: to be proven.
        evidence: from `gather`.
        say: called with a line for each level, but for those that the plain file has, too.
        levels: of this file.
        name: of this file, in what is said.

    Returns:
        What these levels counted, which does not depend on the machine.

    Raises:
        ValueError: at the first level that fails, naming it.
    """
    metrics: dict[str, Any] = {}
    for level, finding in hold(levels, candidate, evidence):
        if finding.result != HELD:
            where = f"{name} {level}".strip()
            raise ValueError(f"ONNX model refused, level {where}: {finding.says}")
        if finding.says and (levels is PLAIN or level not in PLAIN):
            say(f"{name or level}: {finding.says}")
            metrics |= finding.data
    return metrics
