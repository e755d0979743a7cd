"""Any Keras model and any ONNX file compared, level by level; no level stops the next.

What is known of the Keras model is computed once (`study`); then as many files as one likes are
held to it (`compare`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fashion_mlp.proof.double import one_line, run_in_double
from fashion_mlp.proof.evidence import check_inside
from fashion_mlp.proof.findings import DIFFERS, HELD, LIMITED, OPEN, Finding, distance
from fashion_mlp.proof.known import EDGES, MARGIN, Known
from fashion_mlp.proof.layerwise import as_double
from fashion_mlp.proof.levels import onnxruntime_run
from fashion_mlp.proof.matching import match_weights
from fashion_mlp.proof.parting import find_place, worst_rows

BATCH_SIZES = (1, 7)  # besides all at once
BATCHED = 50  # inputs that are run at each of them
# Of onnxruntime in float32, in movements by one rounding of each weight, or Keras' own distances.
FLOAT32_MARGIN = 64.0


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, and weights that it keeps in files beside it.

    Raises:
        ValueError: not an ONNX file.
        OSError: a file can't be read.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError, onnx's ValidationError, …
        raise ValueError(f"{path}: not a valid ONNX file: {one_line(error)}") from None
    return model


def compare(known: Known, model: onnx.ModelProto) -> dict[str, Finding]:
    """Hold an ONNX model to a Keras model.

    Args:
        known: from `study`.
        model: the file, which is not changed.

    Returns:
        What each level found, by its name: `float64`, `weights`, `float32`, `bound`, and where they
        part, `place` and `worst`.
    """
    weights = check_weights(known, model)
    try:
        feeds = feeds_of(known, model)
    except ValueError as error:
        return {"weights": weights, "float64": Finding(OPEN, str(error))}
    float64 = check_double(known, model, feeds)
    float32, answers = check_single(known, model, feeds)
    findings = {"float64": float64, "weights": weights, "float32": float32}
    if any(it.result == DIFFERS for it in findings.values()):
        findings["place"] = find_place(known, model, feeds, findings)
        if answers:
            findings["worst"] = worst_rows(known, answers)
    findings["bound"] = check_bound(known, answers)
    return findings


def verdict(findings: Mapping[str, Finding]) -> str:
    """Sum up: DIFFERS if any level says so, else what the comparison in float64 says."""
    if any(finding.result == DIFFERS for finding in findings.values()):
        return DIFFERS
    return findings["float64"].result


def feeds_of(known: Known, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Pair the model's inputs with Keras': by name, or else in their order.

    Raises:
        ValueError: other inputs than Keras'.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {it.name: it.type.tensor_type for it in model.graph.input if it.name not in constants}
    names = list(inputs)
    if len(names) != len(known.inputs):
        raise ValueError(f"inputs: expected {len(known.inputs)} as in Keras, got {names}")
    plain = {name.split(":")[0]: name for name in names}
    if set(plain) == set(known.names):
        names = [plain[name] for name in known.names]
    for name, array in zip(names, known.inputs, strict=True):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].elem_type)
        if dtype != array.dtype:
            raise ValueError(f"input {name}: Keras takes {array.dtype}, the file {dtype}")
    return dict(zip(names, known.inputs, strict=True))


def check_double(known: Known, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Finding:
    """Compare in float64, where a correct file differs by next to nothing."""
    try:
        run = run_in_double(model)
        found = list(run({name: as_double(array) for name, array in feeds.items()}).values())
        distances = [distance(*pair) for pair in paired(known.double, found)]
    except ValueError as error:
        return Finding(OPEN, str(error))
    data = {"distance": max(distances), "limit": max(known.limits)}
    says = f"largest distance {max(distances):.1e}"
    if all(a <= b for a, b in zip(distances, known.limits, strict=True)):
        return Finding(HELD, f"{says}; float64's own rounding may do {max(known.limits):.1e}", data)
    data["limit"] = max(known.wide_limits)
    limit = f"rounding each weight to float32 once may do {max(known.wide_limits):.1e}"
    if all(a <= b for a, b in zip(distances, known.wide_limits, strict=True)):
        return Finding(LIMITED, f"{says}; {limit}: smaller faults than that can't be seen", data)
    return Finding(DIFFERS, f"{says}; {limit}", data)


def paired(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pair outputs in their order.

    Raises:
        ValueError: another number of them, or another shape.
    """
    shapes = [[array.shape for array in arrays] for arrays in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs: expected shapes {shapes[0]}, got {shapes[1]}")
    return list(zip(expected, found, strict=True))


def check_weights(known: Known, model: onnx.ModelProto) -> Finding:
    """Look for Keras' weights, bit for bit."""
    matches = match_weights(known.weights, model)
    kinds: dict[str, list[Any]] = {}
    for match in matches:
        kinds.setdefault(match.how, []).append(match)
    counts = ", ".join(f"{len(found)} {how}" for how, found in kinds.items())
    data = {"weights": [match._asdict() for match in matches]}
    if changed := kinds.get("changed"):
        one = changed[0]
        return Finding(
            DIFFERS, f"{counts}; {one.missing:,} of {one.size:,} values of {one.name} changed", data
        )
    if folded := kinds.get("folded"):
        names = ", ".join(match.name for match in folded)
        return Finding(LIMITED, f"{counts}: the file has none of {names} as they are", data)
    return Finding(HELD, f"{counts}, bit for bit" if matches else "none", data)


def check_single(
    known: Known, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]
) -> tuple[Finding, list[np.ndarray]]:
    """Compare onnxruntime in float32 with the float64 reference, at several batch sizes."""
    try:
        run = onnxruntime_run(model)
        answers = run(feeds)
        pairs = paired(known.double, answers)
        limits = [
            FLOAT32_MARGIN * max(wide / MARGIN[1], distance(double, single))
            for wide, double, single in zip(
                known.wide_limits, known.double, known.single, strict=True
            )
        ]
        for size in BATCH_SIZES:
            check_batch(run, feeds, answers, size, limits)
        edges = run(dict(zip(feeds, known.edges, strict=True)))
    except ValueError as error:
        return Finding(DIFFERS, str(error)), []
    distances = [distance(*pair) for pair in pairs]
    own = max(distance(*pair) for pair in zip(known.double, known.single, strict=True))
    data: dict[str, Any] = {"distance": max(distances), "keras": own}
    says = f"onnxruntime within {max(distances):.1e} of float64, Keras within {own:.1e}"
    fine = all(a <= b for a, b in zip(distances, limits, strict=True))
    alike = nan_alike(known.edges_single, edges)
    data["edges_alike"] = alike
    says += f"; batch sizes {', '.join(map(str, BATCH_SIZES))} agree; of inputs of NaN and "
    says += f"infinities, {alike} of {len(EDGES)} give NaN where Keras does"
    return Finding(HELD if fine else DIFFERS, says, data), answers


def nan_alike(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> int:
    """Count the inputs of EDGES for which two models give NaN in the same places."""
    same = [np.isnan(a) == np.isnan(b) for a, b in paired(expected, found)]
    return sum(all(one[row].all() for one in same) for row in range(len(EDGES)))


def check_batch(
    run: Callable[[Mapping[str, np.ndarray]], list[np.ndarray]],
    feeds: Mapping[str, np.ndarray],
    answers: Sequence[np.ndarray],
    size: int,
    limits: Sequence[float],
) -> None:
    """Check that a batch size changes nothing but rounding.

    Raises:
        ValueError: it does, or the model can't be run with it.
    """
    for first in range(0, BATCHED, size):
        rows = slice(first, first + size)
        parts = run({name: array[rows] for name, array in feeds.items()})
        expected = [array[rows] for array in answers]
        for (wanted, got), limit in zip(paired(expected, parts), limits, strict=True):
            if not distance(wanted, got) <= limit:
                raise ValueError(
                    f"batch size {size}, input {first}: answers move by {distance(wanted, got):.1e}"
                )


def check_bound(known: Known, answers: Sequence[np.ndarray]) -> Finding:
    """Hold float32's answers to the derived rounding bound, where there is one."""
    if isinstance(known.certain, str):
        return Finding(HELD, f"none: {known.certain}")
    certified, count = int(known.certain.certified().sum()), known.images
    width = float(np.median(known.certain.high - known.certain.low))
    data = {"certified": certified, "images": count, "median_width": width}
    if not answers:
        return Finding(OPEN, "no answers to hold to it", data)
    try:
        check_inside("onnxruntime", answers[0][:count], known.certain, "image")
    except ValueError as error:
        return Finding(DIFFERS, str(error), data)
    use = "" if certified else "; too wide to be of use here"
    return Finding(
        HELD,
        f"onnxruntime inside; no float32 rounding can change the class of {certified:,} of "
        f"{count:,} images; median width {width:.1e}{use}",
        data,
    )
