"""An ONNX file in onnxruntime, and its answers, which the levels of the proof share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime

from fashion_mlp.data.arrays import BATCH_SIZE
from fashion_mlp.proof.double import one_line, quiet
from fashion_mlp.proof.evidence import Predict, batched
from fashion_mlp.proof.findings import CannotRunError

# Makes one scaled product of the uint8 model's Div and a MatMul whose Add it dropped (one unit,
# bias 0): other bits than those of the plain model.
DISABLED = ("MatMulScaleFusion",)


def onnxruntime_run(
    model: onnx.ModelProto, disabled: Sequence[str] = DISABLED
) -> Callable[[Mapping[str, Any]], list[np.ndarray]]:
    """Make a function that runs a model by onnxruntime: inputs by name -> outputs in order.

    Raises:
        CannotRunError: onnxruntime does not take the model; from the function: it can't run it.
    """
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            quiet(),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(disabled),
        )
    except Exception as error:  # its own exceptions have no common class below Exception
        raise CannotRunError(f"onnxruntime does not take the model: {one_line(error)}") from None

    def run(feeds: Mapping[str, Any]) -> list[np.ndarray]:
        try:
            return session.run(None, dict(feeds))
        except Exception as error:
            raise CannotRunError(f"onnxruntime can't run the model: {one_line(error)}") from None

    return run


def onnxruntime_predict(model: onnx.ModelProto) -> Predict:
    """Make a function of images and a batch size that runs a model with one input by onnxruntime.

    Raises:
        CannotRunError: as `onnxruntime_run`.
    """
    run, name = onnxruntime_run(model), model.graph.input[0].name
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return batched(lambda batch: run({name: batch})[0], classes)


class Candidate:
    """An ONNX model to be proven, with onnxruntime's answers: each is computed once, if asked for.

    The model must not change any more; `expected` is what it must be, and `proven` the model, if
    there is one, whose very bits it must give.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        expected: onnx.ModelProto,
        proven: Candidate | None = None,
    ) -> None:
        self.model, self.expected, self.proven = model, expected, proven
        self._answers: dict[tuple[str, int], np.ndarray] = {}

    @cached_property
    def predict(self) -> Predict:
        """Run onnxruntime with this model, see `onnxruntime_predict`."""
        return onnxruntime_predict(self.model)

    def answers(
        self, images: Mapping[str, np.ndarray], split: str, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """Give the first output for a split's images: float32 (n, classes).

        For a split, `images` must be the same ones at every call.

        Raises:
            CannotRunError: onnxruntime does not take the model, or can't run it.
        """
        key = (split, batch_size)
        if key not in self._answers:
            self._answers[key] = self.predict(images[split], batch_size)
        return self._answers[key]
