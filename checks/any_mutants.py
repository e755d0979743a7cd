"""Ways to break any ONNX file that computes with numbers, one at a time: for `make check-prove`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from checks.mutants import Mutate, Mutation, Weights, one_bit, one_ulp, one_value, weights
from fashion_mlp.proof.locate import dependent

ACTIVATIONS = {"Relu": "Elu", "Tanh": "Sigmoid", "Sigmoid": "Tanh", "Elu": "Relu", "Max": "Min"}
OTHERS = {"Softmax": "LogSoftmax", "Add": "Sub", "Mul": "Add", "LeakyRelu": "Relu"}


def on_a_node(
    operators: Sequence[str], change: Callable[[onnx.GraphProto, onnx.NodeProto], object]
) -> Mutate:
    """Make a mutation of one node, of the operators given, that depends on the inputs."""

    def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> object:
        depends = dependent(model)
        nodes = [
            node
            for node in model.graph.node
            if node.op_type in operators and depends & set(node.output)
        ]
        if not nodes:
            return None
        return change(model.graph, nodes[rng.integers(len(nodes))])

    return mutate


def other_operator(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Put another operator of the same shape in a node's place."""
    node.op_type = (ACTIVATIONS | OTHERS)[node.op_type]
    kept = [it for it in node.attribute if it.name == "axis" and node.op_type == "LogSoftmax"]
    del node.attribute[:]
    node.attribute.extend(kept)


def left_out(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Take a node out and join what was around it."""
    for other in graph.node:
        for place, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[place] = node.input[0]
    if node.output[0] in {value.name for value in graph.output}:
        node.op_type = "Identity"
        del node.attribute[:], node.input[1:]
    else:
        graph.node.remove(node)


def other_attribute(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Change a number that a node has: a slope, an epsilon, an axis."""
    for attribute in node.attribute:
        if attribute.name in ("alpha", "epsilon"):
            attribute.f = attribute.f * 1.5
        elif attribute.name == "axis":
            attribute.i = 0
    if node.op_type == "AveragePool":
        node.op_type = "MaxPool"
    elif node.op_type == "MaxPool":
        node.op_type = "AveragePool"


def scaled_input(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Divide the first input of numbers by 256 where it should be 255."""
    names = [it.name for it in model.graph.input if it.type.tensor_type.elem_type == 1]
    if names:
        factor = numpy_helper.from_array(np.array(255 / 256, np.float32), "factor")
        model.graph.initializer.append(factor)
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name == names[0]:
                    node.input[place] = "scaled"
        model.graph.node.insert(0, helper.make_node("Mul", [names[0], "factor"], ["scaled"]))


def fixed_batch(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Allow one row alone."""
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1


def identity(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Put an Identity in front of a node: the same function."""
    name = node.input[0]
    node.input[0] = f"{name}_same"
    place = next(number for number, it in enumerate(graph.node) if it == node)
    graph.node.insert(place, helper.make_node("Identity", [name], [f"{name}_same"]))


def swapped_inputs(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Add in the other order: the same function."""
    first, second = node.input
    node.input[0], node.input[1] = second, first


def one_tensor(change: Callable[[np.ndarray], np.ndarray]) -> Mutate:
    """Make a mutation of one whole tensor, which is no single number."""

    def mutate(arrays: Weights, rng: np.random.Generator) -> None:
        names = [name for name, array in arrays.items() if array.ndim]
        if names:
            name = names[rng.integers(len(names))]
            arrays[name] = change(arrays[name])

    return weights(mutate)


def rows_swapped(array: np.ndarray) -> np.ndarray:
    """Swap the first and the last row."""
    swapped = array.copy()
    swapped[[0, -1]] = array[[-1, 0]]
    return swapped


def rounded(array: np.ndarray) -> np.ndarray:
    """Round to float16."""
    return array.astype(np.float16).astype(np.float32)


def kinds(other: onnx.ModelProto) -> list[Mutation]:
    """List the ways to break a file; `other` has other weights. The last three change no answer."""
    nodes = (*ACTIVATIONS, *OTHERS)
    unary = ("Relu", "Tanh", "Sigmoid", "Elu", "LeakyRelu", "Softmax", "Add", "Mul")
    axes = ("Softmax", "LeakyRelu", "Concat", "MaxPool", "AveragePool", "BatchNormalization")
    return [
        Mutation("one weight's sign", 8, one_value(lambda value, rng: -value)),
        Mutation("one weight zeroed", 6, one_value(lambda value, rng: np.float32(0))),
        Mutation("one weight moved by one ulp", 8, one_value(one_ulp)),
        Mutation("one bit of one weight", 8, one_value(one_bit)),
        Mutation("one tensor's first and last row swapped", 3, one_tensor(rows_swapped)),
        Mutation("one tensor x 255/256", 3, one_tensor(lambda it: it * np.float32(255 / 256))),
        Mutation("one tensor rounded to float16", 2, one_tensor(rounded)),
        Mutation("one operator replaced", 4, on_a_node(nodes, other_operator)),
        Mutation("one node left out", 4, on_a_node(unary, left_out)),
        Mutation("one axis, slope or kind of pooling changed", 2, on_a_node(axes, other_attribute)),
        Mutation("/256 for /255", 1, scaled_input),
        Mutation("a stale model", 1, lambda model, rng: model.CopyFrom(other)),
        Mutation("batch size fixed at 1, same function", 1, fixed_batch),
        Mutation("an Identity put in, same function", 1, on_a_node(("Add", "MatMul"), identity)),
        Mutation("Add the other way round, same function", 1, on_a_node(("Add",), swapped_inputs)),
    ]
