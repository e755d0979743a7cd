"""The exported model in onnxruntime beside the bare matrix products, and the command for photos."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from PIL import Image

from benchmarks.measure import Row, Table, rounds, timed
from checks.sandbox import ROOT, environment

MODEL = Path("models/fashion_mlp.onnx")
BATCHES = (1, 32, 1000)  # images a call
SECONDS = 0.2  # of calls for one value
FLOOR = "NumPy: both matrix products"
PLAIN = "onnxruntime as consumers/python runs it"
GOAL = 1.25

Call = Callable[[], object]


def measure(count: int) -> list[Table]:
    """Measure all batch sizes and the command, `count` rounds each."""
    images = np.load("data/prepared/test_images.npy", mmap_mode="r", allow_pickle=False)
    return [*(batch(np.array(images[:size]), count) for size in BATCHES), photo(images[0], count)]


def batch(images: np.ndarray, count: int) -> Table:
    """Time a call with so many images, float32 (n, pixels), under each setting."""
    calls = {FLOOR: products(images), PLAIN: session_call(images)}
    levels = onnxruntime.GraphOptimizationLevel
    calls["  no graph optimization"] = session_call(images, level=levels.ORT_DISABLE_ALL)
    calls["  basic graph optimization"] = session_call(images, level=levels.ORT_ENABLE_BASIC)
    calls["  intra_op_num_threads 1"] = session_call(images, threads=1)
    calls["  IO binding"] = bound_call(images)
    runs = {name: partial(microseconds, call) for name, call in calls.items()}
    values = rounds(runs, count)
    rows = [Row(name, values[name], FLOOR, GOAL if name == PLAIN else None) for name in calls]
    what = "image" if len(images) == 1 else "images"
    return Table(f"Inference, {len(images):,} {what} a call", "µs a call", rows)


def microseconds(call: Call) -> float:
    """Call for `SECONDS` after one call that is not counted; return the microseconds of one."""
    first = timed(call)
    times = max(3, int(SECONDS / max(timed(call), first / 10, 1e-6)))
    return 1e6 * timed(lambda: [call() for _ in range(times)]) / times


def products(images: np.ndarray) -> Call:
    """The floor: what inference must multiply, into buffers that are there already."""
    weights = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(MODEL).graph.initializer
    }
    kernel_1, kernel_2 = weights["hidden_kernel"], weights["probabilities_kernel"]
    hidden = np.empty((len(images), kernel_1.shape[1]), np.float32)
    logits = np.empty((len(images), kernel_2.shape[1]), np.float32)

    def call() -> None:
        np.matmul(images, kernel_1, out=hidden)
        np.matmul(hidden, kernel_2, out=logits)

    return call


def session(level: object = None, threads: int = 0) -> onnxruntime.InferenceSession:
    """Load the model; by default as consumers/python/classify.py does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if level is not None:
        options.graph_optimization_level = level
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


def session_call(images: np.ndarray, level: object = None, threads: int = 0) -> Call:
    """`run` of a session, as a consumer writes it."""
    run = session(level, threads).run
    return lambda: run(["probabilities"], {"image": images})


def bound_call(images: np.ndarray) -> Call:
    """`run` on memory that was bound before, so that no call allocates its answer."""
    model = session()
    binding = model.io_binding()
    answers = np.empty((len(images), 10), np.float32)
    for bind, name, array in (
        (binding.bind_input, "image", images),
        (binding.bind_output, "probabilities", answers),
    ):
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    kept = images  # as long as the call

    def call() -> object:
        model.run_with_iobinding(binding)
        return kept, answers

    return call


def photo(image: np.ndarray, count: int) -> Table:
    """Time consumers/python/predict.py from its start to its answer for one photo."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        pixels = (255 - 255 * image.reshape(28, 28)).astype(np.uint8)
        Image.fromarray(pixels).resize((1200, 1600), Image.Resampling.BICUBIC).save(path)
        command = [sys.executable, str(ROOT / "consumers/python/predict.py"), str(path)]

        def answer() -> object:
            return subprocess.run(command, env=environment(), check=True, capture_output=True)

        values = rounds({"predict.py, one photo of 1,200 × 1,600": lambda: timed(answer)}, count)
    rows = [Row(name, seconds, goal=0.5) for name, seconds in values.items()]
    return Table("From the start of the command to its answer", "s", rows)
