"""The exported model in onnxruntime beside its bare matrix products, and predict.py on a photo."""

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

from benchmarks.measure import Row, Table, compared, rounds, timed
from checks.sandbox import ROOT, environment
from pipeline.params import load_params

MODEL = "models/fashion_mlp.onnx"
BATCHES = (1, 32, 1000)  # images a call
SECONDS = 0.2  # of calls for one value
PLAIN = "onnxruntime, as in consumers/python"
GOAL = 1.25

Call = Callable[[], object]


def measure(count: int) -> list[Table]:
    """Measure all batch sizes and the command, `count` rounds each."""
    images = np.load("data/prepared/test_images.npy", mmap_mode="r", allow_pickle=False)
    shape = load_params().dataset.image_shape
    pixels = (255 - 255 * images[0].reshape(shape)).astype(np.uint8)  # dark on white, as photos are
    return [*(batch(np.array(images[:size]), count) for size in BATCHES), photo(pixels, count)]


def batch(images: np.ndarray, count: int) -> Table:
    """Time a call with float32 images (n, pixels), under several settings."""
    levels = onnxruntime.GraphOptimizationLevel
    calls = {
        "lower bound: the matrix products, NumPy": products(images),
        PLAIN: session_call(images),
        "onnxruntime, no graph optimization": session_call(images, level=levels.ORT_DISABLE_ALL),
        "onnxruntime, basic graph optimization": session_call(
            images, level=levels.ORT_ENABLE_BASIC
        ),
        "onnxruntime, one thread": session_call(images, threads=1),
        "onnxruntime, IO binding": bound_call(images),
    }
    values = rounds({name: partial(microseconds, call) for name, call in calls.items()}, count)
    title = f"Inference, {len(images):,} image{'s' if len(images) > 1 else ''} a call"
    return Table(f"inference_{len(images)}", title, "µs", compared(values, {PLAIN: GOAL}))


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
    """`run` on memory that is bound in advance, so that no call allocates its output."""
    model = session()
    binding = model.io_binding()
    answers = np.empty((len(images), model.get_outputs()[0].shape[1]), np.float32)
    for bind, name, array in (
        (binding.bind_input, "image", images),
        (binding.bind_output, "probabilities", answers),
    ):
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    kept = (images, answers)  # as long as the call

    def call() -> object:
        model.run_with_iobinding(binding)
        return kept

    return call


def photo(pixels: np.ndarray, count: int) -> Table:
    """Time consumers/python/predict.py from its start to its answer; pixels uint8 (h, w)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        Image.fromarray(pixels).resize((1200, 1600), Image.Resampling.BICUBIC).save(path)
        command = [sys.executable, str(ROOT / "consumers/python/predict.py"), str(path)]

        def answer() -> object:
            return subprocess.run(command, env=environment(), check=True, capture_output=True)

        name = "predict.py, one photo of 1,200 × 1,600 pixels"
        values = rounds({name: partial(timed, answer)}, count)
    rows = [Row(name, values[name], goal=0.5)]
    return Table("predict", "From the start of the command to its answer", "s", rows)
