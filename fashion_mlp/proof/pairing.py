"""An ONNX file beside a Keras model: which input and output is which, and the file's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx

from fashion_mlp.proof.runtime import onnxruntime_run

if TYPE_CHECKING:
    from fashion_mlp.proof.known import Known


class Beside:
    """An ONNX file beside a Keras model: inputs and outputs in pairs, by name or in their order.

    What onnxruntime answers is computed once. All but `model` may raise ValueError.
    """

    def __init__(self, known: Known, model: onnx.ModelProto) -> None:
        self.known, self.model = known, model
        self.feeds = feeds_of(known, model)  # Keras' inputs, by the file's names
        names = [value.name for value in model.graph.output]
        self.outputs = in_order(names, known.output_names)  # the file's names, in Keras' order
        self._places = [names.index(name) for name in self.outputs]

    @cached_property
    def _runtime(self) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
        return onnxruntime_run(self.model)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run onnxruntime: inputs by name -> outputs in Keras' order."""
        found = self._runtime(feeds)
        return [found[place] for place in self._places]

    @cached_property
    def answers(self) -> list[np.ndarray]:
        """What onnxruntime answers to Keras' inputs."""
        return [found for _, found in paired(self.known.double, self.run(self.feeds))]


def feeds_of(known: Known, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Pair the model's inputs with Keras': by name, or else in their order.

    Raises:
        ValueError: other inputs than Keras'.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {it.name: it.type.tensor_type for it in model.graph.input if it.name not in constants}
    if len(inputs) != len(known.inputs):
        raise ValueError(f"inputs: expected {len(known.inputs)} as in Keras, got {[*inputs]}")
    feeds = dict(zip(in_order([*inputs], known.names), known.inputs, strict=True))
    for name, array in feeds.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].elem_type)
        if dtype != array.dtype:
            raise ValueError(f"input {name}: Keras takes {array.dtype}, the file {dtype}")
    return feeds


def in_order(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Put a file's names in Keras' order if they are Keras', perhaps with `:0`; else leave them."""
    plain = {name.split(":")[0]: name for name in names}
    return [plain[name] for name in wanted] if plain.keys() == set(wanted) else [*names]


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
