"""The exported model in onnxruntime beside its bare matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from benchmarks.measure import Row, Table, rounds, timed

MODEL = "models/fashion_mlp.onnx"
EXACT_MODEL = "models/fashion_mlp_exact.onnx"
BATCHES = (1, 1000)  # images a call
SECONDS = 0.2  # of calls for one value
LOWER_BOUND = "lower bound: the matrix products, NumPy"
PLAIN = "onnxruntime, as in consumers/python"
EXACT = "onnxruntime, the exact file"
GOAL = 1.25

Call = Callable[[], object]


def measure(count: int) -> list[Table]:
    """Measure all batch sizes, `count` rounds each."""
    images = np.load("data/prepared/test_images.npy", mmap_mode="r", allow_pickle=False)
    return [batch(np.array(images[:size]), count) for size in BATCHES]


def batch(images: np.ndarray, count: int) -> Table:
    """Time a call with float32 images (n, pixels)."""
    session, exact = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (MODEL, EXACT_MODEL)
    )
    pixels = np.rint(images * 255).astype(np.uint8)
    calls = {
        LOWER_BOUND: products(images),
        PLAIN: lambda: session.run(["probabilities"], {"image": images}),
        EXACT: lambda: exact.run(["class", "probabilities"], {"image": pixels}),
    }
    values = rounds({name: partial(microseconds, call) for name, call in calls.items()}, count)
    rows = [
        Row(LOWER_BOUND, values[LOWER_BOUND]),
        Row(PLAIN, values[PLAIN], LOWER_BOUND, GOAL),
        Row(EXACT, values[EXACT], PLAIN),
    ]
    title = f"Inference, {len(images):,} image{'s' if len(images) > 1 else ''} a call"
    return Table(f"inference_{len(images)}", title, "µs", rows)


def microseconds(call: Call) -> float:
    """Call for `SECONDS` after two calls that warm up; return the microseconds of one."""
    first = timed(call)
    times = max(3, int(SECONDS / max(timed(call), first / 10, 1e-6)))
    return 1e6 * timed(lambda: [call() for _ in range(times)]) / times


def products(images: np.ndarray) -> Call:
    """The matrix products of inference, into buffers that are allocated before."""
    weights = onnx.load(MODEL).graph.initializer
    kernels = [numpy_helper.to_array(one) for one in weights if one.name.endswith("kernel")]
    outputs = [np.empty((len(images), kernel.shape[1]), np.float32) for kernel in kernels]

    def call() -> None:
        values = images
        for kernel, output in zip(kernels, outputs, strict=True):
            values = np.matmul(values, kernel, out=output)

    return call
