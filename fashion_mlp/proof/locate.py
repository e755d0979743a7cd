"""Where a file that differs parts from Keras: the layer, the node, the worst rows, the classes.

Layers and nodes are run in float64 (only the worst rows are of float32's answers), and everything
that Keras' layers compute is looked for among what the nodes compute: equal values, reshaped or
with axes in another order. What is not found may still be right, as a converter merges layers; so
it is taken for right where all that is computed from it is right.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from fashion_mlp.proof.findings import DIFFERS, HELD, OPEN, Finding, distance
from fashion_mlp.proof.known import LOCATED, Known
from fashion_mlp.proof.layerwise import Steps
from fashion_mlp.proof.matching import layouts
from fashion_mlp.proof.pairing import Beside, in_double

WORST = 5  # rows and changes of class that are shown


class Place(NamedTuple):
    """Where the first difference is."""

    layer: str  # of Keras, with the operation in it
    node: str  # of the ONNX file: operator and name
    output: str  # the node's


def find_place(known: Known, file: Beside, findings: Mapping[str, Finding]) -> Finding:
    """Name the first layer and the first node that differ."""
    matches = findings["weights"].data.get("weights", [])
    folded = any(match["how"] == "folded" for match in matches)
    changed = next((match for match in matches if match["how"] == "changed"), None)
    place = Place("", "", "")
    with contextlib.suppress(ValueError):
        place = differing(known, file, folded)
    if changed and not place.node:  # a weight that none of these inputs shows
        user = user_of(changed["tensor"], file.model)
        place = Place(changed["name"], *(node_place(user) if user else ("", "")))
    if not place.layer and not place.node:
        return Finding(OPEN, "no layer and no node differs in float64")
    return Finding(
        DIFFERS, f"layer {place.layer or '?'}; node {place.node or '?'}", place._asdict()
    )


def differing(known: Known, file: Beside, folded: bool) -> Place:
    """Run the file in float64, all its nodes, and find the first that differs from Keras.

    Raises:
        ValueError: it can't be run.
    """
    given = {name: array[-LOCATED:] for name, array in file.feeds.items()}
    values = given | in_double(file.model, given, every=True)
    limits = known.wide_limits if folded else known.limits
    wrong = [
        name
        for name, expected, limit in zip(file.outputs, known.double, limits, strict=True)
        if not distance(expected[-LOCATED:], values[name]) <= limit
    ]
    step_limits = known.step_limits[folded]
    return first_difference(known.steps, known.step_values, step_limits, file.model, values, wrong)


def worst_rows(known: Known, answers: Sequence[np.ndarray]) -> Finding:
    """Show where float32's answers are furthest off, and which classes of that output changed."""
    expected, found = max(zip(known.double, answers, strict=True), key=lambda it: distance(*it))
    apart = np.abs(expected - found).reshape(len(found), -1).max(axis=1)
    rows = np.argsort(-np.nan_to_num(apart, nan=np.inf), kind="stable")[:WORST]
    data: dict[str, Any] = {"rows": rows.tolist(), "distances": apart[rows].tolist()}
    says = f"rows {', '.join(map(str, rows))}"
    if expected.ndim == 2 and expected.shape[1] > 1:
        images = slice(known.images)
        pairs = Counter(
            (int(a), int(b))
            for a, b in zip(expected[images].argmax(1), found[images].argmax(1), strict=True)
            if a != b
        )
        data["classes"] = [[*pair, count] for pair, count in pairs.most_common()]
        most = ", ".join(f"{a} -> {b}: {count}" for (a, b), count in pairs.most_common(WORST))
        says += f"; {pairs.total():,} of {known.images:,} images of another class {most}".rstrip()
    return Finding(DIFFERS if data.get("classes") else HELD, says, data)


def first_difference(
    steps: Steps,
    expected: Sequence[np.ndarray],
    limits: Sequence[float],
    model: onnx.ModelProto,
    values: Mapping[str, np.ndarray],
    wrong: Sequence[str],
) -> Place:
    """Name the first step of Keras and the first node whose values differ.

    Args:
        steps: of Keras.
        expected: their results.
        limits: for each, by how much equal values may differ.
        model: the file.
        values: what the file computes from the same inputs, by name; the inputs too.
        wrong: outputs of the file that are known to differ.
    """
    ordered = [_sorted(array) for array in expected]
    seen: set[int] = set()
    found = {}
    for name in _judged(model, values):
        same = [] if name in wrong else _equal_steps(values[name], expected, ordered, limits)
        seen.update(same)
        found[name] = bool(same)
    # A single number, such as a slope, says nothing.
    known = [number in seen or step.size < 2 for number, step in enumerate(expected)]
    right = _explained(known, steps.sources)
    layers = [name for name, one in zip(steps.names, right, strict=True) if not one]
    node = _first_node(model, found)
    return Place(layers[0] if layers else "", *(node_place(node) if node else ("", "")))


def node_place(node: onnx.NodeProto) -> tuple[str, str]:
    """Name a node, by operator and name, and its output."""
    return f"{node.op_type} {node.name}".strip(), node.output[0]


def user_of(tensor: str, model: onnx.ModelProto) -> onnx.NodeProto | None:
    """Find the first node that computes with a constant and with the model's inputs."""
    depends = dependent(model)
    constant = {tensor}
    for node in model.graph.node:
        if constant & inputs_of(node):
            if depends & set(node.output):
                return node
            constant |= set(node.output)
    return None


def _sorted(array: np.ndarray) -> np.ndarray:
    return np.sort(np.asarray(array, np.float64), axis=None)


def _equal_steps(
    array: np.ndarray,
    steps: Sequence[np.ndarray],
    ordered: Sequence[np.ndarray],
    limits: Sequence[float],
) -> list[int]:
    """List the steps whose values an array has: sorted they are equal, which is soon seen."""
    by_size = _sorted(array)
    return [
        number
        for number, (step, limit) in enumerate(zip(steps, limits, strict=True))
        if step.size == array.size
        if np.abs(by_size - ordered[number]).max() <= limit
        if _equal_layout(array, step, limit)
    ]


def _equal_layout(array: np.ndarray, step: np.ndarray, limit: float) -> bool:
    """Tell whether one is the other, reshaped or with its axes in another order."""
    array, step = np.asarray(array, np.float64), np.asarray(step, np.float64)
    return any(
        np.abs(flat - other.ravel()).max() <= limit
        for one, other in ((step, array), (array, step))
        for flat in layouts(one)
    )


def _explained(found: Sequence[bool], sources: Sequence[set[int]]) -> list[bool]:
    """Take a step for right that was found, or all of whose users are right."""
    users: list[list[int]] = [[] for _ in found]
    for number, before in enumerate(sources):
        for source in before:
            users[source].append(number)
    right = list(found)
    for number in reversed(range(len(found))):
        right[number] |= bool(users[number]) and all(right[user] for user in users[number])
    return right


def _first_node(model: onnx.ModelProto, found: Mapping[str, bool]) -> onnx.NodeProto | None:
    """Find the first node with a wrong output and none but right inputs.

    Args:
        model: whose nodes are in the order in which they are computed, as ONNX wants it.
        found: whether a value is one of Keras', by name; what is not in it is not judged.
    """
    right, outputs = dict(found), {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        users = [other for other in model.graph.node if inputs_of(other) & set(node.output)]
        explained = all(right.get(name, True) for user in users for name in user.output)
        for name in set(node.output) & right.keys() - outputs:
            right[name] |= bool(users) and explained
    for node in model.graph.node:
        wrong = [name for name in node.output if not right.get(name, True)]
        if wrong and all(right.get(name, True) for name in inputs_of(node)):
            return node
    return None


def _judged(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> set[str]:
    """Name what can be compared: numbers that depend on the inputs."""
    depends = dependent(model)
    return {
        name
        for name, array in values.items()
        if name in depends and isinstance(array, np.ndarray)
        if array.dtype.kind in "biuf" and array.size > 1
    }


def dependent(model: onnx.ModelProto) -> set[str]:
    """Name the values that depend on the inputs, and the inputs."""
    depends = {value.name for value in model.graph.input}
    for node in model.graph.node:
        # What depends on an input's shape alone is a constant.
        if depends & inputs_of(node) and node.op_type != "Shape":
            depends |= set(node.output)
    return depends


def inputs_of(node: onnx.NodeProto) -> set[str]:
    """Name what a node computes with; a loop takes values from around it without saying so."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= inputs_of(inner)
    return names
