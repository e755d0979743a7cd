"""An ONNX model in float64: the same graph and weights, without float32's rounding.

Two models that compute the same function differ by some 1e-15 there, and by 1e-6 in float32: what
is left of a difference is a fault, not rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fashion_mlp.proof.findings import CannotRunError

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Attributes that name an element type: of Cast, EyeLike and the random operators.
TYPES = ("to", "dtype", "stash_type")


def as_double(array: np.ndarray) -> np.ndarray:
    """Widen floats to float64; leave integers."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model with every float32 in it made a float64: weights, inputs, outputs, casts."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graphs = [wide.graph, *_subgraphs(wide.graph.node)]
    for function in wide.functions:
        graphs += _subgraphs(function.node)
        _widen_nodes(function.node)
    for graph in graphs:
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in FLOATS:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        _widen_nodes(graph.node)
    return wide


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
                yield from _subgraphs(attribute.g.node)


def _widen_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in TYPES and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
            elif attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                array = np.array(helper.get_attribute_value(attribute), np.float64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(array)))


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in FLOATS:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def run_in_double(model: onnx.ModelProto, every: bool = False) -> Run:
    """Make a function that runs a model in float64; it widens what it is given.

    By onnxruntime where it has all the operators for float64; else by onnx's reference, which
    computes the same some hundred times slower.

    `every` also gives what each node computes.

    Raises:
        CannotRunError: neither takes the model; from the function: it can't be run.
    """
    wide = widened(model)
    if every:
        known = {value.name for value in wide.graph.output}
        computed = {name for node in wide.graph.node for name in node.output if name}
        wide.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in sorted(computed - known)
        )
    names = [value.name for value in wide.graph.output]
    try:
        session = onnxruntime.InferenceSession(
            wide.SerializeToString(), quiet(), providers=["CPUExecutionProvider"]
        )
    except Exception:  # no common class below Exception; the reference says what is wrong
        by_reference = run_by_reference(wide)
        return lambda feeds: by_reference({key: as_double(it) for key, it in feeds.items()})

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: as_double(array) for name, array in feeds.items()}
        try:
            return dict(zip(names, session.run(names, given), strict=True))
        except Exception:  # an LSTM says only when it is run that it has no float64
            return run_by_reference(wide)(given)

    return run


def run_by_reference(model: onnx.ModelProto) -> Run:
    """Make a function that runs a model as it is by onnx's reference evaluator.

    Raises:
        CannotRunError: it does not take the model, or computes it wrong.
    """
    loops = {node.op_type for node in model.graph.node} & {"Loop", "Scan"}
    if loops:  # measured with onnx 1.23: other results than onnxruntime's, which are Keras'
        raise CannotRunError(f"onnx's reference computes {', '.join(sorted(loops))} wrong")
    try:
        evaluator = ReferenceEvaluator(model, new_ops=[GlobalMaxPool])
    except Exception as error:  # NotImplementedError, RuntimeError, KeyError, …
        raise CannotRunError(
            f"onnx's reference does not take the model: {one_line(error)}"
        ) from None
    names = [value.name for value in model.graph.output]

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            with np.errstate(all="ignore"):
                return dict(zip(names, evaluator.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise CannotRunError(f"the model can't be run: {one_line(error)}") from None

    return run


class GlobalMaxPool(OpRun):
    """Maximum over all axes of space; onnx's own (1.23) takes two of them alone."""

    def _run(self, values: np.ndarray) -> tuple[np.ndarray]:
        return (values.max(axis=tuple(range(2, values.ndim)), keepdims=True),)


def quiet() -> onnxruntime.SessionOptions:
    """Make options for onnxruntime: errors are raised; nothing else is of interest."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def one_line(error: Exception, most: int = 200) -> str:
    """Give the first characters of an error, on one line and without colours."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    return " ".join(plain.split())[:most] or type(error).__name__
