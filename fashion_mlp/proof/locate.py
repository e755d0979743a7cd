"""Where two models part: the first layer of Keras and the first node of ONNX that differ.

Both are run in float64, and everything that Keras' layers compute is looked for among what the
nodes compute: equal values, in whatever order, as axes may be in another one. What is not found
may still be right, as a converter merges layers; so it is taken for right where all that is
computed from it is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from fashion_mlp.proof.layerwise import Step


class Place(NamedTuple):
    """Where the first difference is."""

    layer: str  # of Keras
    node: str  # of the ONNX file: operator and name
    output: str  # the node's


def first_difference(
    steps: Sequence[Step],
    limits: Sequence[float],
    model: onnx.ModelProto,
    values: Mapping[str, np.ndarray],
) -> Place:
    """Name the first layer and the first node whose values differ.

    Args:
        steps: what Keras computes.
        limits: for each, by how much equal values may differ.
        model: the file.
        values: what the file computes from the same inputs, by name.
    """
    sorted_steps = [_sorted(step.values) for step in steps]
    seen: set[int] = set()
    found = {}
    for name in _judged(model, values):
        same = _equal_steps(values[name], sorted_steps, limits)
        seen.update(same)
        found[name] = bool(same)
    right_steps = _explained([number in seen for number in range(len(steps))], steps)
    layers = [step.name for step, right in zip(steps, right_steps, strict=True) if not right]
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
        if constant & set(node.input):
            if depends & set(node.output):
                return node
            constant |= set(node.output)
    return None


def _sorted(array: np.ndarray) -> np.ndarray:
    return np.sort(np.asarray(array, np.float64), axis=None)


def _equal_steps(
    array: np.ndarray, steps: Sequence[np.ndarray], limits: Sequence[float]
) -> list[int]:
    ordered = _sorted(array)
    return [
        number
        for number, (step, limit) in enumerate(zip(steps, limits, strict=True))
        if step.size == ordered.size and np.abs(ordered - step).max() <= limit
    ]


def _explained(found: Sequence[bool], steps: Sequence[Step]) -> list[bool]:
    """Take a step for right that was found, or all of whose users are right."""
    users: list[list[int]] = [[] for _ in steps]
    for number, step in enumerate(steps):
        for source in step.sources:
            users[source].append(number)
    right = list(found)
    for number in reversed(range(len(steps))):
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
        users = [other for other in model.graph.node if set(other.input) & set(node.output)]
        explained = all(right.get(name, True) for user in users for name in user.output)
        for name in set(node.output) & right.keys() - outputs:
            right[name] |= bool(users) and explained
    for node in model.graph.node:
        wrong = [name for name in node.output if not right.get(name, True)]
        if wrong and all(right.get(name, True) for name in node.input):
            return node
    return None


def _judged(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> set[str]:
    """Name what can be compared: float values that depend on the inputs."""
    depends = dependent(model)
    return {
        name
        for name, array in values.items()
        if name in depends and isinstance(array, np.ndarray)
        if array.dtype.kind == "f" and array.size > 1
    }


def dependent(model: onnx.ModelProto) -> set[str]:
    """Name the values that depend on the inputs, and the inputs."""
    depends = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if depends & set(node.input):
            depends |= set(node.output)
    return depends
