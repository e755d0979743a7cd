"""An ONNX file beside a Keras model: which input and output is which, and the file's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx

from fashion_mlp.proof.double import Run, run_in_double
from fashion_mlp.proof.runtime import onnxruntime_run

if TYPE_CHECKING:
    from fashion_mlp.proof.known import Known


class Beside:
    """An ONNX file beside a Keras model: inputs and outputs in pairs, by name or in their order.

    What onnxruntime answers is computed once. All but `model` may raise ValueError. A file for
    batches of one size is run in such batches.
    """

    def __init__(self, known: Known, model: onnx.ModelProto) -> None:
        self.known, self.model = known, model
        self.feeds = feeds_of(known, model)  # Keras' inputs, by the file's names
        self._names = [value.name for value in model.graph.output]
        for value in model.graph.output:
            tensor = value.type.WhichOneof("value") in (None, "tensor_type")
            if not tensor or value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
                kind = "texts" if tensor else value.type.WhichOneof("value")
                raise ValueError(f"output {value.name}: expected numbers, got {kind}")
        self.outputs = in_order(self._names, known.output_names)  # the file's, in Keras' order
        if len(self.outputs) != len(known.double):
            raise ValueError(
                f"outputs: expected {len(known.double)} as in Keras, got {self._names}"
            )
        self.rows = rows_of(model)

    @cached_property
    def _runtime(self) -> Run:
        run = onnxruntime_run(self.model)
        return lambda feeds: dict(zip(self._names, run(feeds), strict=True))

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run onnxruntime: inputs by name -> outputs in Keras' order."""
        found = in_batches(self._runtime, feeds, self.rows)
        return [found[name] for name in self.outputs]

    @cached_property
    def answers(self) -> list[np.ndarray]:
        """What onnxruntime answers to Keras' inputs."""
        return [found for _, found in paired(self.known.double, self.run(self.feeds))]


def feeds_of(known: Known, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Pair the model's inputs with Keras': by name, or else in their order.

    Raises:
        ValueError: other inputs than Keras'.
    """
    inputs = inputs_of(model)
    if len(inputs) != len(known.inputs):
        raise ValueError(f"inputs: expected {len(known.inputs)} as in Keras, got {[*inputs]}")
    feeds = dict(zip(in_order([*inputs], known.names), known.inputs, strict=True))
    for name, array in feeds.items():
        it = inputs[name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(it.elem_type) if it.elem_type else None
        row = tuple(axis.dim_value or None for axis in it.shape.dim[1:])
        if dtype != array.dtype or not fits(array, row):
            raise ValueError(
                f"input {name}: Keras takes rows of {array.dtype} {array.shape[1:]}, "
                f"the file of {dtype} {row}"
            )
    return feeds


def fits(array: np.ndarray, row: Sequence[int | None]) -> bool:
    """Tell whether an array has rows of a shape; None in it is any size."""
    return len(row) == array.ndim - 1 and all(
        wanted in (None, size) for wanted, size in zip(row, array.shape[1:], strict=True)
    )


def inputs_of(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Give the types of the inputs that a model must be given, by name."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {it.name: it.type.tensor_type for it in model.graph.input if it.name not in constants}


def rows_of(model: onnx.ModelProto) -> int:
    """Tell how many rows a model takes at a time; 0: as many as one likes."""
    first = [axis for it in inputs_of(model).values() for axis in it.shape.dim[:1]]
    return max((axis.dim_value for axis in first), default=0)


def in_double(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], every: bool = False
) -> dict[str, np.ndarray]:
    """Run a model in float64, see `run_in_double`, in batches that it takes."""
    return in_batches(run_in_double(model, every), feeds, rows_of(model))


def in_batches(run: Run, feeds: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Run a model in batches of so many rows, the last one filled up; 0: all at once."""
    if not rows:
        return run(feeds)
    count = len(next(iter(feeds.values())))
    parts = [
        run({name: array[np.arange(first, first + rows) % count] for name, array in feeds.items()})
        for first in range(0, count, rows)
    ]
    return {
        name: np.concatenate([np.atleast_1d(part[name]) for part in parts])[:count]
        for name in parts[0]
    }


def in_order(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Take Keras' names, perhaps with `:0`, out of a file's, in Keras' order; else leave them."""
    plain = {name.split(":")[0]: name for name in names}
    return [plain[name] for name in wanted] if wanted and plain.keys() >= {*wanted} else [*names]


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
