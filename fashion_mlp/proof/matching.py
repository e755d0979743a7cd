"""Which of Keras' weights an ONNX file has, bit for bit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from fashion_mlp.proof.double import FLOATS
from fashion_mlp.proof.findings import DIFFERS, HELD, LIMITED, Finding

MOST = 0.5  # of a weight's values: with fewer, it was computed anew; with more, values were changed


class Match(NamedTuple):
    """What became of one of Keras' weights."""

    name: str
    how: str  # whole, rearranged, dropped, changed, folded
    missing: int  # values that the file has not
    size: int
    tensor: str  # of the file: the one that holds it, or comes nearest; may be empty


def tensors_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """List the float constants of a model in float64, those in its subgraphs too, by name."""
    return {
        name: numpy_helper.to_array(tensor).astype(np.float64)
        for name, tensor in _tensors(model.graph)
        if tensor.data_type in (*FLOATS, TensorProto.DOUBLE)
    }


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield node.output[0], attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from _tensors(attribute.g)


def match_weights(weights: Mapping[str, np.ndarray], model: onnx.ModelProto) -> list[Match]:
    """Look for each of Keras' weights in a model.

    A weight is *whole* if one tensor is it, reshaped or with its axes in another order;
    *rearranged* if one tensor, or several that are left over, have its bit patterns in another
    order; *dropped* if it is all zeros and not there; *changed* if some of its values are not
    there; *folded* if most are not: a converter computed with it.
    """
    arrays = tensors_of(model)
    tensors = {name: _bits(array) for name, array in arrays.items()}
    found: dict[str, Match] = {}
    used = set()
    for name, array in weights.items():
        for other, bits in tensors.items():
            if bits.size == array.size and np.array_equal(bits, _bits(array)):
                same = any(np.array_equal(it, arrays[other].ravel()) for it in layouts(array))
                how = "whole" if same else "rearranged"
                if name not in found or how == "whole":
                    found[name] = Match(name, how, 0, array.size, other)
                used.add(other)
    left = {name: bits for name, bits in tensors.items() if name not in used}
    pool = Counter(itertools.chain.from_iterable(bits.tolist() for bits in left.values()))
    for name, array in weights.items():
        if name not in found:
            found[name] = _in_parts(name, array, pool, left)
    return [found[name] for name in weights]


def find_weights(weights: Mapping[str, np.ndarray], model: onnx.ModelProto) -> Finding:
    """Say what became of all of Keras' weights, see `match_weights`."""
    matches = match_weights(weights, model)
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
        says = f"{counts}: only the inputs judge {names}, which the file has not as they are"
        return Finding(LIMITED, says, data)
    return Finding(HELD, f"{counts}, bit for bit" if matches else "none", data)


def _bits(array: np.ndarray) -> np.ndarray:
    """Sort the bit patterns of values, widened to float64, which loses none; minus zero is zero."""
    return np.sort((array.astype(np.float64) + 0.0).view(np.uint64), axis=None)


def layouts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Give an array's values with its axes in every order, flat."""
    return (array.transpose(axes).ravel() for axes in itertools.permutations(range(array.ndim)))


def _in_parts(
    name: str, array: np.ndarray, pool: Counter[int], left: Mapping[str, np.ndarray]
) -> Match:
    wanted = Counter(_bits(array[array != 0]).tolist())
    if not wanted:
        return Match(name, "dropped", 0, array.size, "")
    absent = wanted - pool
    missing, nearest = absent.total(), _nearest(wanted, left.items())
    if not missing:
        pool.subtract(wanted)
        return Match(name, "rearranged", 0, array.size, nearest)
    changed = missing <= MOST * wanted.total()
    return Match(name, "changed" if changed else "folded", missing, array.size, nearest)


def _nearest(wanted: Counter[int], left: Iterable[tuple[str, np.ndarray]]) -> str:
    """Name the tensor that has most of the values."""
    shared = {name: (wanted & Counter(bits.tolist())).total() for name, bits in left}
    best = max(shared, key=lambda name: shared[name], default="")
    return best if best and shared[best] else ""
