"""Any Keras model and any ONNX file compared, level by level; no level stops the next.

What is known of the Keras model is computed once (`study`); then as many files as one likes are
held to it (`compare`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from fashion_mlp.proof.double import one_line
from fashion_mlp.proof.evidence import check_inside
from fashion_mlp.proof.findings import (
    DIFFERS,
    HELD,
    LIMITED,
    OPEN,
    CannotRunError,
    Finding,
    distance,
    hold,
)
from fashion_mlp.proof.known import EDGES, MARGIN, Known
from fashion_mlp.proof.locate import find_place, worst_rows
from fashion_mlp.proof.matching import find_weights
from fashion_mlp.proof.pairing import Beside, in_double, paired

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

    Returns:
        What each level found, by its name: `float64`, `weights`, `float32`, `bound`, and where they
        part, `place` and `worst`.
    """
    try:
        file = Beside(known, model)
    except ValueError as error:
        weights = find_weights(known.weights, model)
        return {"weights": weights, "float64": Finding(OPEN, str(error))}
    findings = dict(hold(LEVELS, file, known))
    if any(it.result == DIFFERS for it in findings.values()):
        findings["place"] = find_place(known, file, findings)
        with contextlib.suppress(ValueError):
            findings["worst"] = worst_rows(known, file.answers)
    return findings


def verdict(findings: Mapping[str, Finding]) -> str:
    """Sum up: what the worst level says."""
    results = {finding.result for finding in findings.values()}
    return next(it for it in (DIFFERS, OPEN, LIMITED, HELD) if it in results)


def check_double(file: Beside, known: Known) -> Finding:
    """Compare in float64, where a correct file differs by next to nothing."""
    values = in_double(file.model, file.feeds)
    found = [values[name] for name in file.outputs]
    distances = [distance(*pair) for pair in paired(known.double, found)]
    data = {"distance": max(distances), "limit": max(known.limits)}
    says = f"largest distance {max(distances):.1e}"
    if all(a <= b for a, b in zip(distances, known.limits, strict=True)):
        return Finding(HELD, f"{says}; float64's own rounding may do {max(known.limits):.1e}", data)
    data["limit"] = max(known.wide_limits)
    limit = f"rounding each weight to {known.precision} once may do {max(known.wide_limits):.1e}"
    if all(a <= b for a, b in zip(distances, known.wide_limits, strict=True)):
        return Finding(LIMITED, f"{says}; {limit}: smaller faults than that can't be seen", data)
    return Finding(DIFFERS, f"{says}; {limit}", data)


def check_weights(file: Beside, known: Known) -> Finding:
    """Look for Keras' weights, bit for bit."""
    return find_weights(known.weights, file.model)


def check_single(file: Beside, known: Known) -> Finding:
    """Compare onnxruntime in float32 with the float64 reference, at several batch sizes."""
    distances, own = (
        [distance(*pair) for pair in zip(known.double, one, strict=True)]
        for one in (file.answers, known.single)
    )
    limits = [
        FLOAT32_MARGIN * max(wide / MARGIN[1], keras)
        for wide, keras in zip(known.wide_limits, own, strict=True)
    ]
    batches, alike = check_batches(file, limits), nan_alike(file, known)
    fine = all(a <= b for a, b in zip(distances, limits, strict=True))
    return Finding(
        DIFFERS if not fine else LIMITED if file.rows else HELD,
        f"onnxruntime within {max(distances):.1e} of float64, Keras within {max(own):.1e}; "
        f"{batches}; of inputs of NaN and infinities, {alike} of {len(EDGES)} give NaN, or can't "
        f"be run, where Keras does",
        {"distance": max(distances), "keras": max(own), "edges_alike": alike},
    )


def nan_alike(file: Beside, known: Known) -> int:
    """Count the inputs of EDGES for which two models give NaN in the same places, or can't run."""
    expected, found = known.edges_single, None
    with contextlib.suppress(CannotRunError):
        found = file.run(dict(zip(file.feeds, known.edges, strict=True)))
    if expected is None or found is None:
        return len(EDGES) * (expected is found)
    same = [np.isnan(a) == np.isnan(b) for a, b in paired(expected, found)]
    return sum(all(one[row].all() for one in same) for row in range(len(EDGES)))


def check_batches(file: Beside, limits: Sequence[float]) -> str:
    """Check that no batch size changes more than rounding does; say which were tried.

    Raises:
        ValueError: one does, or the model can't be run with it.
    """
    if file.rows:
        return f"the file takes batches of {file.rows} alone"
    for size in BATCH_SIZES:
        parts = [
            file.run({name: array[first : first + size] for name, array in file.feeds.items()})
            for first in range(0, len(file.answers[0][:BATCHED]), size)
        ]
        found = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        expected = [array[: len(one)] for array, one in zip(file.answers, found, strict=True)]
        for pair, limit in zip(paired(expected, found), limits, strict=True):
            if not distance(*pair) <= limit:
                raise ValueError(f"batch size {size}: answers move by {distance(*pair):.1e}")
    return f"batch sizes {', '.join(map(str, BATCH_SIZES))} agree"


def check_bound(file: Beside, known: Known) -> Finding:
    """Hold float32's answers to the derived rounding bound, where there is one."""
    if isinstance(known.certain, str):
        return Finding(HELD, f"none: {known.certain}")
    certified, count = int(known.certain.certified().sum()), known.images
    width = float(np.median(known.certain.high - known.certain.low))
    data = {"certified": certified, "images": count, "median_width": width}
    check_inside("onnxruntime", file.answers[0][:count], known.certain, "image")
    use = "" if certified else "; too wide to be of use here"
    return Finding(
        HELD,
        f"onnxruntime inside; no float32 rounding can change the class of {certified:,} of "
        f"{count:,} images; median width {width:.1e}{use}",
        data,
    )


LEVELS: dict[str, Callable[[Beside, Known], Finding]] = {
    "float64": check_double,
    "weights": check_weights,
    "float32": check_single,
    "bound": check_bound,
}
