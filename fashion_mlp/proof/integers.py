"""The proof that no sum in an ONNX graph can round, whatever the image.

Goes through the graph as it is in the file, node by node, and keeps for each value the range that
it lies in, over all images of bytes, and a power of two that it is a multiple of. A sum of products
is exact in any order if its positive terms alone, and its negative ones alone, stay within 2**24 of
these multiples: then no partial sum needs more than the 24 bits that float32 has. Every other
operation rounds once, as IEEE 754 says, or not at all. It is refused where a runtime may fuse it
into a sum (an addition behind a product of matrices) or with its neighbour (an addition behind a
product that rounds), so that it would round elsewhere. A scaling by a power of two between the two
is taken to keep them apart: no runtime that was tried merges all three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUTPUT = "logits"  # what the proof is about
LIMIT = 2**24  # float32 holds every integer up to this
SMALLEST, LARGEST = 2.0**-126, float(np.finfo(np.float32).max)


class Range(NamedTuple):
    """What a value can be: float64 arrays by column, or of one element."""

    low: np.ndarray
    high: np.ndarray
    step: float  # a power of two whose multiple it is; 0 if there is none
    fusible: bool = False  # out of a product that a runtime may fuse with the addition behind it


class Theorem(NamedTuple):
    """What holds for all images: how many sums can't round, and the largest of them, of 2**24."""

    sums: int
    largest: float


def prove_exact_sums(model: onnx.ModelProto) -> Theorem:
    """Prove that every runtime with float32 gives the same logits, for every image of bytes.

    Raises:
        ValueError: a sum that may round, or an operation that the proof does not know.
    """
    graph = model.graph
    if graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        raise ValueError(f"input {graph.input[0].name}: expected uint8")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if other := [
        name for name, array in constants.items() if array.dtype.str not in ("<f4", "<i8")
    ]:
        raise ValueError(f"initializer {other[0]}: expected float32 or int64")
    known = {name: _constant(array) for name, array in constants.items() if array.ndim < 2}
    known[graph.input[0].name] = Range(np.zeros(1), np.full(1, 255.0), 1.0)
    shares: list[np.ndarray] = []
    for node in graph.node:
        if OUTPUT in known:
            break
        try:
            if node.op_type == "MatMul":
                found = [_product(known[node.input[0]], constants[node.input[1]], shares)]
            else:
                rule = _growing if node.op_type in GROWING else RULES[node.op_type]
                found = rule(node, known, shares)
        except KeyError as error:
            raise ValueError(f"node {node.name} ({node.op_type}): no rule for {error}") from None
        except ValueError as error:
            raise ValueError(f"node {node.name} ({node.op_type}): {error}") from None
        for name, value in zip(node.output, found, strict=True):
            known[name] = _representable(name, value)
    if OUTPUT not in known or known[OUTPUT].fusible:
        raise ValueError(f"{OUTPUT}: not computed, or the result of a product that rounds")
    return Theorem(sum(map(len, shares)), float(max(map(np.max, shares), default=0.0)))


def _constant(array: np.ndarray) -> Range:
    values = np.atleast_1d(array.astype(np.float64))
    return Range(values, values, _step(values))


def _step(values: np.ndarray) -> float:
    """Find the largest power of two that all values are multiples of; float32 values."""
    mantissas, exponents = np.frexp(values[values != 0])
    integers = (mantissas * 2.0**53).astype(np.int64)
    lowest = (integers & -integers).astype(np.float64)
    return float(np.ldexp(lowest, exponents - 53).min(initial=LARGEST))


def _representable(name: str, value: Range) -> Range:
    """Check that a value is a normal float32 or 0, so that flushing small ones changes nothing."""
    if not max(np.abs(value.low).max(), np.abs(value.high).max()) <= LARGEST:
        raise ValueError(f"{name}: may leave float32's range")
    if 0 < value.step < SMALLEST:
        raise ValueError(f"{name}: may be below float32's smallest normal number")
    return value


def _product(value: Range, kernel: np.ndarray, shares: list[np.ndarray]) -> Range:
    """Multiply by a kernel (inputs, units)."""
    kernel = kernel.astype(np.float64)
    low, high = (np.broadcast_to(it, len(kernel)) for it in (value.low, value.high))
    positive, negative = np.maximum(kernel, 0.0), np.maximum(-kernel, 0.0)
    upwards = np.maximum(high, 0.0) @ positive + np.maximum(-low, 0.0) @ negative
    downwards = np.maximum(-low, 0.0) @ positive + np.maximum(high, 0.0) @ negative
    result = Range(-downwards, upwards, value.step * _step(kernel), fusible=True)
    shares.append(_share(result))
    return result


def _share(value: Range) -> np.ndarray:
    """Measure sums against what float32 holds exactly: the share of 2**24, at most 1."""
    if value.step == 0:
        raise ValueError("a sum of values that are multiples of nothing")
    share: np.ndarray = np.maximum(-value.low, value.high) / (LIMIT * value.step)
    if not (share <= 1).all():
        unit = int(share.argmax())
        raise ValueError(f"unit {unit}: a sum can reach {share[unit]:.4g} of 2**24 and round")
    return share


def _add(node: onnx.NodeProto, known: Mapping[str, Range], shares: list[np.ndarray]) -> list[Range]:
    left, right = (known[name] for name in node.input)
    if not left.fusible and not right.fusible:
        return [_rounded(left.low + right.low, left.high + right.high, min(left.step, right.step))]
    # It may be the first term of the sum: then it counts like one more product.
    low = np.minimum(left.low, 0) + np.minimum(right.low, 0)
    high = np.maximum(left.high, 0) + np.maximum(right.high, 0)
    result = Range(low, high, min(left.step, right.step), fusible=True)
    shares.append(_share(result))
    return [result]


def _subtract(node: onnx.NodeProto, known: Mapping[str, Range], _: object) -> list[Range]:
    left, right = (known[name] for name in node.input)
    if left.fusible or right.fusible:
        raise ValueError("a subtraction right behind a product may be fused with it")
    if known.get(f"floor of {node.input[0]}") is right:  # what is behind the point: exact
        return [Range(np.zeros(1), np.ones(1), left.step)]
    step = min(left.step, right.step)
    return [_rounded(left.low - right.high, left.high - right.low, step)]


def _rounded(low: np.ndarray, high: np.ndarray, step: float) -> Range:
    """Widen a range by one rounding; a multiple of a power of two stays one."""
    return Range(low - np.abs(low) * 2.0**-23, high + np.abs(high) * 2.0**-23, step)


def _multiply(node: onnx.NodeProto, known: Mapping[str, Range], _: object) -> list[Range]:
    value, factor = (known[name] for name in node.input)
    if (factor.low != factor.high).any() or (factor.low < 0).any():
        raise ValueError("expected a constant factor, not negative")
    one = len(factor.low) == 1 and _step(factor.low) == factor.low[0]
    step = value.step * factor.step
    smallest = np.min(factor.low, where=factor.low > 0, initial=np.inf)
    if value.step * smallest < SMALLEST:
        raise ValueError("may be below float32's smallest normal number")
    low, high = value.low * factor.low, value.high * factor.low
    return [Range(low, high, step) if one else _rounded(low, high, 0.0)._replace(fusible=True)]


def _cast(node: onnx.NodeProto, known: Mapping[str, Range], _: object) -> list[Range]:
    value, to = known[node.input[0]], helper.get_node_attr_value(node, "to")
    if to != TensorProto.FLOAT and (to != TensorProto.INT64 or value.step < 1):
        raise ValueError("expected a cast to float32, or of integers to int64")
    return [value]  # fusible as before: runtimes drop a cast that changes nothing


def _floor(node: onnx.NodeProto, known: dict[str, Range], _: object) -> list[Range]:
    value = known[node.input[0]]
    result = Range(np.floor(value.low), np.floor(value.high), max(value.step, 1.0))
    known[f"floor of {node.input[0]}"] = result
    return [result]


def _gather(node: onnx.NodeProto, known: Mapping[str, Range], _: object) -> list[Range]:
    table, index = (known[name] for name in node.input)
    if index.step < 1 or index.low.min() < 0 or index.high.max() >= len(table.low):
        raise ValueError("the index may leave the table")
    return [Range(table.low.min(keepdims=True), table.low.max(keepdims=True), table.step)]


def _slice(node: onnx.NodeProto, known: Mapping[str, Range], _: object) -> list[Range]:
    value, *rest = (known[name] for name in node.input)
    start, end, axis = (int(it.low[0]) for it in rest)
    if axis != 1 or not 0 <= start < end <= len(value.low):
        raise ValueError("expected columns that are there")
    return [value._replace(low=value.low[start:end], high=value.high[start:end])]


def _growing(node: onnx.NodeProto, known: Mapping[str, Range], _: object) -> list[Range]:
    """Apply a function that grows with each argument and rounds nothing."""
    values, function = [known[name] for name in node.input], GROWING[node.op_type]
    low, high = (
        function(*ends) for ends in zip(*((it.low, it.high) for it in values), strict=True)
    )
    return [Range(low, high, min(value.step for value in values))]


GROWING: dict[str, Callable[..., np.ndarray]] = {
    "Relu": lambda value: np.maximum(value, 0.0),
    "Max": np.maximum,
    "Min": np.minimum,
}
RULES: dict[str, Callable[..., list[Range]]] = {
    "Add": _add,
    "Cast": _cast,
    "Sub": _subtract,
    "Mul": _multiply,
    "Floor": _floor,
    "Gather": _gather,
    "Slice": _slice,
}
