"""Check `python -m fashion_mlp.prove` on networks of all kinds: `make check-prove`.

Builds small networks, exports each by tf2onnx and by Keras' own `model.export`, and breaks each
file in dozens of ways, one at a time. Prints a Markdown table (docs/proof.md shows it), and fails
if a healthy file is refused, or a mutant accepted that computes something else beyond the limit
that is stated with the acceptance.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from checks.any_mutants import kinds
from checks.architectures import architectures
from checks.common import machine, table
from fashion_mlp.network import engine
from fashion_mlp.proof.comparison import compare, verdict
from fashion_mlp.proof.findings import DIFFERS, HELD, OPEN, Finding
from fashion_mlp.proof.known import Known, study
from fashion_mlp.proof.layerwise import call
from fashion_mlp.proof.locate import dependent, inputs_of
from fashion_mlp.proof.pairing import in_double
from pipeline.console import progress

SEED = 20261126
IMAGES, FRESH = 64, 256  # inputs that prove gets; others, on which a mutant's function is compared
EXPORTERS = ("tf2onnx", "model.export")
OPSET = 15


class Mutant(NamedTuple):
    """What became of a broken file."""

    kind: str
    found: str  # the verdict
    same: bool  # whether it computes the same function, up to the limit that was stated
    place: bool | None  # whether the node that is named first is one that was changed


def draw(model: Any, rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw inputs for a Keras model: numbers in 0…1, or whole numbers below 20."""
    return [
        rng.integers(0, 20, (rows, *tensor.shape[1:])).astype(tensor.dtype)
        if "int" in tensor.dtype
        else rng.random((rows, *tensor.shape[1:])).astype(tensor.dtype)
        for tensor in model.inputs
    ]


def settle(model: Any, rng: np.random.Generator) -> None:
    """Give every weight a value drawn at random; variances and scales positive ones."""
    for weight in model.weights:
        if "seed_generator" not in weight.path:
            values = rng.normal(0, 0.5, weight.shape)
            positive = weight.path.endswith(("gamma", "moving_variance"))
            weight.assign(np.abs(values) + 0.3 if positive else values)


def export(model: Any, exporter: str, path: Path) -> onnx.ModelProto:
    """Export a Keras model, as the exporter's documentation shows it."""
    import tensorflow as tf
    import tf2onnx

    with contextlib.redirect_stdout(io.StringIO()):
        if exporter == "model.export":  # which wants a model that has been called
            call(model, [np.zeros((1, *it.shape[1:]), it.dtype) for it in model.inputs])
            model.export(path, format="onnx", verbose=False)
            return onnx.load(path)
        signature = [tf.TensorSpec((None, *it.shape[1:]), it.dtype, it.name) for it in model.inputs]
        forward = tf.function(
            lambda *given: model(list(given) if len(given) > 1 else given[0], training=False),
            input_signature=signature,
        )
        found, _ = tf2onnx.convert.from_function(forward, input_signature=signature, opset=OPSET)
        return found


def changed(model: onnx.ModelProto, mutant: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """Find what was changed.

    Returns:
        The outputs of nodes that were changed, or that compute with what was; and the steps of
        Keras that these and the nodes left out are named after.
    """
    before, after = (
        {it.output[0]: it.SerializeToString() for it in one.graph.node} for one in (model, mutant)
    )
    tensors, now = (
        {it.name: it.SerializeToString() for it in one.graph.initializer} for one in (model, mutant)
    )
    touched = {name for name, content in after.items() if before.get(name) != content}
    constants = {name for name, content in now.items() if tensors.get(name) != content}
    depends = dependent(mutant)
    for node in mutant.graph.node:
        if (touched - depends | constants) & inputs_of(node):
            touched.add(node.output[0])
    names = (touched & depends) | (before.keys() - after.keys())
    steps = {re.sub(r"_1(?=/)|__\d+|:\d+$", "", name) for name in names}
    return touched & depends, steps


class Subject(NamedTuple):
    """What a Keras model's mutants are held to; `fresh` are inputs that `prove` does not get."""

    known: Known
    fresh: list[np.ndarray]


def judge(subject: Subject, kind: str, healthy: onnx.ModelProto, mutant: onnx.ModelProto) -> Mutant:
    """Give a mutant to prove, and find out by other means what is true of it."""
    findings = compare(subject.known, mutant)
    found = verdict(findings)
    limit = findings["float64"].data.get("limit", 0.0)
    same = same_function(healthy, mutant, subject.fresh, limit)
    place = findings.get("place")
    right = None
    if place is not None and place.result == DIFFERS:
        nodes, steps = changed(healthy, mutant)
        right = place.data["output"] in nodes or place.data["layer"] in steps
    return Mutant(kind, found, same, right)


def feeds(model: onnx.ModelProto, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Name inputs, in their order."""
    return dict(zip((value.name for value in model.graph.input), inputs, strict=True))


def same_function(
    healthy: onnx.ModelProto, mutant: onnx.ModelProto, fresh: Sequence[np.ndarray], limit: float
) -> bool:
    """Tell whether two files compute the same in float64 on fresh inputs, up to a limit."""
    try:
        one, other = (list(in_double(it, feeds(it, fresh)).values()) for it in (healthy, mutant))
        return all(np.abs(a - b).max() <= limit for a, b in zip(one, other, strict=True))
    except ValueError:
        return False


def mutants(
    subject: Subject,
    model: onnx.ModelProto,
    other: onnx.ModelProto,
    rng: np.random.Generator,
    most: int = 100,
) -> Iterator[Mutant]:
    """Break a file in every way, at most so often, and say what became of each that changed."""
    for kind in kinds(other):
        for _ in range(min(kind.models, most)):
            mutant = onnx.ModelProto()
            mutant.CopyFrom(model)
            kind.mutate(mutant, rng)
            if mutant != model:
                yield judge(subject, kind.name, model, mutant)


def lines(found: Sequence[Mutant]) -> list[list[object]]:
    """Count what became of each kind, and of all."""
    rows: list[list[object]] = []
    names = [*dict.fromkeys(mutant.kind for mutant in found), "**all**"]
    for name in names:
        of_kind = [mutant for mutant in found if name in (mutant.kind, "**all**")]
        placed = [mutant.place for mutant in of_kind if mutant.place is not None]
        refused = sum(mutant.found in (DIFFERS, OPEN) for mutant in of_kind)
        wrong = sum(mutant.found not in (DIFFERS, OPEN) and not mutant.same for mutant in of_kind)
        rows.append([name, len(of_kind), refused, wrong, f"{sum(placed)} of {len(placed)}"])
    return rows


def try_network(
    model: Any, rng: np.random.Generator, folder: Path
) -> Iterator[tuple[dict[str, Finding], list[Mutant]]]:
    """Export a network by each exporter: what `prove` finds of the file, and of its mutants."""
    import keras

    settle(model, rng)
    model.save(folder / "model.keras")
    known = study(folder / "model.keras", draw(model, IMAGES, rng))
    subject = Subject(known, draw(model, FRESH, rng))
    stale = keras.models.clone_model(model)
    settle(stale, rng)
    for exporter in EXPORTERS:
        file = export(model, exporter, folder / "model.onnx")
        findings = compare(known, file)
        other = export(stale, exporter, folder / "other.onnx")
        yield findings, list(mutants(subject, file, other, rng))
    keras.backend.clear_session()


def main() -> int:
    """Export, compare, break, compare; print the table."""
    began = time.monotonic()
    engine.start()
    rng = np.random.default_rng(SEED)
    found: list[Mutant] = []
    refused: list[str] = []
    results: Counter[str] = Counter()
    networks = list(architectures())
    files = len(networks) * len(EXPORTERS)
    with (
        tempfile.TemporaryDirectory(prefix="anybody-") as folder,
        progress("check-prove", files, "files") as bar,
    ):
        for name, model in networks:
            for findings, broken in try_network(model, rng, Path(folder)):
                results[verdict(findings)] += 1
                found += broken
                if verdict(findings) in (DIFFERS, OPEN):
                    says = (it.says for it in findings.values() if it.result in (DIFFERS, OPEN))
                    refused.append(f"{name}: {'; '.join(says)}")
                bar.update()
    print(table(["mutation", "files", "refused", "accepted wrongly", "place right"], lines(found)))
    print(
        f"\n{len(networks)} networks, {files} healthy files: {len(refused)} refused, "
        f"{results[HELD]} held in float64, {files - results[HELD] - len(refused)} up to a limit.\n"
        f"{machine()}; seed {SEED}; {time.monotonic() - began:.0f} s."
    )
    wrong = [it for it in found if it.found not in (DIFFERS, OPEN) and not it.same]
    for line in [*(f"refused: {it}" for it in refused), *(f"accepted: {it}" for it in wrong)]:
        print(f"check-prove: {line}", file=sys.stderr)
    return 1 if refused or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
