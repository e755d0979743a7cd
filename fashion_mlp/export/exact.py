"""The exact ONNX graph: every float32 runtime gives the same bits, as no sum of products can round.

What the products of a kernel in parts give is put together by powers of two and a fixed chain of
additions. Each rounds once, as IEEE 754 says, so it is alike everywhere, but for one trap: runtimes
fuse an addition right behind a product of matrices into it, and add it first. So only additions
that can't round stand there. exp differs from runtime to runtime: sigmoid and tanh are read from a
table, and the class comes from the logits. proof/integers.py proves it for the file as it is
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fashion_mlp.export.quantize import BYTE, TABLE_END, TABLE_STEP, Quantized, sigmoid_table


class _Graph:
    """Nodes and constants, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        self.constants[name] = np.asarray(value, dtype)
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        node = helper.make_node(operator, inputs, [output], name=output, **attributes)
        self.nodes.append(node)
        return output

    def columns(self, value: str, number: int, count: int) -> str:
        """Take one of a matrix's equal groups of columns. Split is read by fewer runtimes."""
        ends = [
            self.constant(f"column_{end}", [end], np.int64)
            for end in (number * count, (number + 1) * count, 1)
        ]
        return self.node("Slice", [value, *ends], f"{value}_part_{number}")


def exact_graph(layers: Sequence[Quantized], opset: int, ir_version: int) -> onnx.ModelProto:
    """Write the model: image uint8 [N, pixels] -> logits, class, probabilities.

    logits: float32 [N, classes], the same bits everywhere. class: int64 [N], the first of the
    largest logits. probabilities: float32 [N, classes], their softmax: the only thing that may
    round.
    """
    graph = _Graph()
    values = [graph.node("Cast", ["image"], "pixels", to=TensorProto.FLOAT)]
    for number, layer in enumerate(layers, start=1):
        name = f"dense_{number}"
        result = "logits" if layer is layers[-1] else f"{name}_add"
        bias = graph.constant(f"{name}_bias", layer.bias)
        total = graph.node("Add", [_sum(graph, name, values, layer), bias], result)
        if layer is not layers[-1]:
            values = _bytes(graph, name, _activated(graph, name, total, layer), layer.size)
    graph.node("ArgMax", ["logits"], "class", axis=1, keepdims=0)
    graph.node("Softmax", ["logits"], "probabilities", axis=1)
    pixels = len(layers[0].kernel)
    classes: list[str | int | None] = ["N", len(layers[-1].bias)]
    info = helper.make_tensor_value_info
    outputs = [
        info("logits", TensorProto.FLOAT, classes),
        info("class", TensorProto.INT64, ["N"]),
        info("probabilities", TensorProto.FLOAT, classes),
    ]
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "fashion_mlp_exact",
            [info("image", TensorProto.UINT8, ["N", pixels])],
            outputs,
            [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
        ),
        producer_name="fashion-mlp",
        ir_version=ir_version,
        opset_imports=[helper.make_opsetid("", opset)],
    )


def _sum(graph: _Graph, name: str, values: Sequence[str], layer: Quantized) -> str:
    """Multiply by the kernel: `values` are the inputs, or their bytes, the highest first."""
    kernel = graph.constant(f"{name}_kernel", layer.kernel)
    if not layer.parts:
        return graph.node("MatMul", [values[0], kernel], f"{name}_matmul")
    scaled = []
    for number, value in enumerate(values):
        product = graph.node("MatMul", [value, kernel], f"{name}_matmul_{number}")
        factor = graph.constant(f"{name}_factor_{number}", 2.0**-layer.shift / BYTE**number)
        scaled.append(graph.node("Mul", [product, factor], f"{name}_scaled_{number}"))
    while len(scaled) > 1:  # from the lowest byte up
        low, high = scaled.pop(), scaled.pop()
        scaled.append(graph.node("Add", [low, high], f"{name}_bytes_{len(scaled)}"))
    units = len(layer.bias)
    total = graph.columns(scaled[0], 0, units)
    for number in range(1, layer.parts):
        part = graph.columns(scaled[0], number, units)
        base = graph.constant(f"{name}_base_{number}", 2.0 ** (layer.bits * number))
        raised = graph.node("Mul", [part, base], f"{name}_raised_{number}")
        total = graph.node("Add", [total, raised], f"{name}_sum_{number}")
    return total


def _activated(graph: _Graph, name: str, total: str, layer: Quantized) -> str:
    """Apply the activation: values in 0…256."""
    if layer.activation == "relu":
        return graph.node("Relu", [total], f"{name}_relu")
    steps = TABLE_END / TABLE_STEP
    slope = graph.constant(f"{name}_slope", layer.slope / np.float32(TABLE_STEP))
    first, last = (graph.constant(key, it) for key, it in (("first", -steps), ("last", steps - 1)))
    value = graph.node("Mul", [total, slope], f"{name}_argument")
    value = graph.node("Max", [value, first], f"{name}_at_least")
    value = graph.node("Min", [value, last], f"{name}_at_most")
    value = graph.node("Floor", [value], f"{name}_floor")
    value = graph.node("Sub", [value, first], f"{name}_place")
    value = graph.node("Cast", [value], f"{name}_index", to=TensorProto.INT64)
    table = graph.constant("sigmoid", sigmoid_table())
    return graph.node("Gather", [table, value], f"{name}_{layer.activation}")


def _bytes(graph: _Graph, name: str, value: str, size: int) -> list[str]:
    """Cut values in 0…256 into bytes, the highest first, rounding down what is behind the last."""
    found: list[str] = []
    for number in range(size):
        if number:
            rest = graph.node("Sub", [value, found[-1]], f"{name}_rest_{number}")
            value = graph.node("Mul", [rest, graph.constant("byte", BYTE)], f"{name}_up_{number}")
        found.append(graph.node("Floor", [value], f"{name}_byte_{number}"))
    return found
