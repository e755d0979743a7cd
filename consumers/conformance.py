"""Run the exported models in every runtime, on all test images.

reads   models/*.onnx, models/fashion_mlp.keras, models/labels.json,
        data/prepared/test_images.npy, and the examples in this folder's folders
writes  consumers/conformance.json    what each runtime gave

Each example is run as its reader would run it, and writes an output of the model to a file. For the
float32 and uint8 files that is `probabilities`: a runtime conforms if it names Keras' class for
every image and no probability is further than TOLERANCE from Keras'. For the exact file: `logits`,
which must be the same bits in all runtimes, and `class`, the first of the largest, also in a tie.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from checks import common
from consumers.runtimes import (
    BIN,
    LABELS,
    MODELS,
    RUNTIMES,
    Runtime,
    graph_hash,
    locked_version,
)
from fashion_mlp.data.arrays import MAX_PIXEL, prepared_path
from fashion_mlp.export.exact import exact_graph
from fashion_mlp.export.quantize import quantize
from fashion_mlp.formats import write_json
from fashion_mlp.network import engine
from fashion_mlp.paths import MODEL
from pipeline.console import run

RESULTS = Path("consumers/conformance.json")
# Two float32 sums, of 784 and of 800 terms, added in another order: measured up to 4.3e-6 from
# Keras, which is itself up to 1.6e-6 from float64. bf16 is off by a thousand times as much.
TOLERANCE = 5e-6
BATCH_SIZE = 1000  # of Keras
FEW = 500  # images for which the exact file's `class` is compared
TIMEOUT = 600  # seconds that a command may take
REASON = re.compile(r"[Ee]rror( \[\w+\])?: ")  # Python's, gcc's and Node's
SUMMARY = re.compile(r"^\S+ (?P<version>.+): \d+ images in (?P<seconds>[\d.]+) s$")


class Job(NamedTuple):
    """What a runtime is asked for."""

    model: Path  # with labels.json beside it
    images: Path  # .npy file
    pixels: int
    classes: int


class Output(NamedTuple):
    """What a runtime returned: its version, the bytes of an output, and seconds."""

    version: str
    content: bytes
    seconds: float


class Result(NamedTuple):
    """How a runtime compares with Keras."""

    version: str
    max_difference: float
    argmax_agreement: int


def keras_probabilities(images: np.ndarray) -> np.ndarray:
    """Predict as a user of Keras does: float32 (n, pixels) -> float32 (n, classes)."""
    engine.start()

    from fashion_mlp.network.model import load_network

    return np.asarray(load_network(MODEL).predict(images, batch_size=BATCH_SIZE, verbose=0))


def commands(runtime: Runtime, job: Job, output: str, folder: Path) -> list[list[str]]:
    """Make the commands of an example: those that build it, then the one that runs it.

    `folder` gets what is built, and the output in out.bin.
    """
    paths = {"python": sys.executable, "bin": BIN, "root": Path.cwd(), "build": folder}
    sizes = {"pixels": job.pixels, "classes": job.classes}
    places = {**paths, **sizes, "model": job.model, "labels": job.model.with_name("labels.json")}
    made = [
        [part.format_map(places) for part in command.split()]
        for command in (*runtime.build, runtime.command)
    ]
    made[-1] += [str(job.images), "--output", output, "--save", str(folder / "out.bin")]
    return made


def execute(runtime: Runtime, job: Job, output: str) -> Output:
    """Build and run a runtime's example in a scratch folder, and read what it wrote.

    Raises:
        RuntimeError: a command failed or took too long, or wrote no version.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        printed = [call(command) for command in commands(runtime, job, output, Path(folder))]
        last = printed[-1].strip().splitlines()[-1:]
        if not (summary := SUMMARY.match("".join(last))):
            raise RuntimeError(f"expected version and seconds in the last line, got {last}")
        generator = f"{locked_version(runtime.generator)}, " if runtime.generator else ""
        out = Path(folder) / "out.bin"
        content = out.read_bytes() if out.exists() else b""
        return Output(generator + summary["version"], content, float(summary["seconds"]))


def read(content: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read raw numbers.

    Raises:
        RuntimeError: not so many.
    """
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(content) != expected:
        raise RuntimeError(f"expected {expected:,} bytes, got {len(content):,}")
    return np.frombuffer(content, dtype).reshape(shape)


def call(command: list[str]) -> str:
    """Run a command and return what it prints; where it fails, raise the line that says why."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except FileNotFoundError:
        raise RuntimeError(f"no {command[0]}; `make conformance-tools` installs it") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next(filter(REASON.search, lines), lines[-1] if lines else "")
        raise RuntimeError(f"{' '.join(command[:2])}: exit {done.returncode}: {reason.strip()}")
    return done.stdout


def compare(expected: np.ndarray, version: str, found: np.ndarray) -> Result:
    """Measure how far a runtime is from Keras, rounded to two digits.

    Args:
        expected: Keras' probabilities, float32 (n, classes).
        version: of the runtime.
        found: its probabilities.
    """
    difference = np.abs(found.astype(np.float64) - expected).max()
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    return Result(version, float(f"{difference:.1e}"), int(same.sum()))


def first_fault(expected: np.ndarray, found: np.ndarray, names: Sequence[str]) -> str | None:
    """Say which image a runtime gets wrong first: another class, or further than TOLERANCE.

    Args:
        expected: float32 (n, classes).
        found: the same shape.
        names: of the classes.

    Returns:
        None where there is none.
    """
    distance = np.abs(found.astype(np.float64) - expected)
    good = (distance <= TOLERANCE).all(axis=1)  # so that NaN is not good
    good &= found.argmax(axis=1) == expected.argmax(axis=1)
    if good.all():
        return None
    image = int(np.argmin(good))
    furthest = int(np.where(np.isnan(distance[image]), np.inf, distance[image]).argmax())
    wanted, got = (
        f"{names[row.argmax()]}, {names[furthest]} at {row[furthest]:.7f}"
        for row in (expected[image], found[image])
    )
    return (
        f"image {image}: expected {wanted}; got {got}; allowed difference {TOLERANCE:.0e}; "
        f"{int((~good).sum()):,} of {len(good):,} images differ"
    )


def exact_logits(runtime: Runtime, job: Job, few: Sequence[Job], count: int) -> tuple[Output, str]:
    """Run the exact file, and check the classes that it names.

    `few` are the file with the first FEW images, and the model of `tied_job`.

    Returns:
        The logits, and their SHA-256.

    Raises:
        RuntimeError: `class` is not the first of the largest logits, or a command failed.
    """
    output = execute(runtime, job, "logits")
    logits = read(output.content, "<f4", (count, job.classes))
    rows = logits[:FEW]
    expected = rows.argmax(axis=1), np.full(len(rows), job.classes - 2)
    for classes, one in zip(expected, few, strict=True):
        found = read(execute(runtime, one, "class").content, "<i8", classes.shape)
        if len(wrong := np.flatnonzero(found != classes)):
            raise RuntimeError(
                f"{one.images.name}, image {wrong[0]}: expected class {classes[wrong[0]]}, the "
                f"first of the largest logits, got {found[wrong[0]]}"
            )
    return output, hashlib.sha256(output.content).hexdigest()


def tied_job(folder: Path, job: Job) -> Job:
    """Write a model with the last two logits the largest and equal, for the images of `job`."""
    from fashion_mlp.network.model import Layer

    bias = np.zeros(job.classes, np.float32)
    bias[-2:] = 1
    layer = Layer(np.zeros((job.pixels, job.classes), np.float32), bias, "softmax")
    model = exact_graph(quantize([layer], (1, job.pixels)), opset=13, ir_version=8)
    model.metadata_props.extend(onnx.load(job.model).metadata_props)
    onnx.save(model, folder / job.model.name)
    shutil.copy(LABELS, folder / "labels.json")
    return job._replace(model=folder / job.model.name)


def table() -> str:
    """Lay out how far from Keras each runtime is; README.md and consumers/README.md show it."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [
        (
            runtime.name + (", uint8 file" if file == "uint8" else ""),
            (result := Result(**results[file][runtime.key])).version,
            f"{result.max_difference:.1e}",
            f"{result.argmax_agreement:,} of {results['images']:,}",
            f"`{runtime.install}`",
        )
        for file in ("float32", "uint8")
        for runtime in RUNTIMES
        if file in runtime.files
    ]
    header = ("runtime", "version", "largest Δp", "same class", "install")
    return common.table(header, rows)


def exact_table() -> str:
    """Lay out the SHA-256 of the exact file's logits; consumers/README.md shows it."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))["exact"]
    rows = [
        (runtime.name, results[runtime.key]["version"], results[runtime.key]["sha256"][:16])
        for runtime in RUNTIMES
        if "exact" in runtime.files
    ]
    return common.table(("runtime", "version", "SHA-256 of the logits"), rows)


def check_file(
    file: str, job: Job, expected: np.ndarray, names: Sequence[str], few: Sequence[Job]
) -> tuple[dict[str, Any], list[str]]:
    """Run a model in every runtime that reads it.

    Args:
        file: of MODELS.
        job: the model, and all test images.
        expected: Keras' probabilities, float32 (n, classes).
        names: of the classes.
        few: for the exact file, see `exact_logits`.

    Returns:
        The results by key, and a line for each runtime that was not run or does not conform.
    """
    results: dict[str, Any] = {}
    faults = []
    for runtime in (one for one in RUNTIMES if file in one.files):
        print(f"conformance: {file}: {runtime.name} ...", end=" ", flush=True)
        try:
            if file == "exact":
                output, digest = exact_logits(runtime, job, few, len(expected))
                result: Any = {"version": output.version, "sha256": digest}
                says, known = digest[:16], next(iter(results.values()), result)["sha256"]
                fault = None if digest == known else f"expected the logits {known[:16]}, got {says}"
            else:
                output = execute(runtime, job, "probabilities")
                found = read(output.content, "<f4", expected.shape)
                result = compare(expected, output.version, found)._asdict()
                says = f"{result['max_difference']:.1e} from Keras"
                fault = first_fault(expected, found, names)
        except RuntimeError as error:
            print("failed")
            faults.append(f"{file}: {runtime.name}: {error}")
            continue
        results[runtime.key] = result
        speed = len(expected) / max(output.seconds, 1e-9)
        print(f"{output.version}: {says}, {speed:,.0f} images/s")
        if runtime.enforced and fault:
            faults.append(f"{file}: {runtime.name}: {fault}")
    return results, faults


def main() -> None:
    for path in (MODEL, *MODELS.values(), LABELS):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file; `make` writes it")
    names = next(iter(json.loads(LABELS.read_text(encoding="utf-8"))["class_names"].values()))
    images = np.load(prepared_path("test", "images"), allow_pickle=False)
    print(f"conformance: Keras, {len(images):,} images")
    expected = keras_probabilities(images)
    results: dict[str, Any] = {"images": len(images), "tolerance": TOLERANCE}
    results["models"] = {file: graph_hash(path) for file, path in MODELS.items()}
    faults = []
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        as_bytes = Path(folder) / "test_images_uint8.npy"
        np.save(as_bytes, np.rint(images * MAX_PIXEL).astype(np.uint8))
        np.save(
            first := as_bytes.with_name("first.npy"), np.load(as_bytes, allow_pickle=False)[:FEW]
        )
        sizes = (images.shape[1], len(names))
        exact = Job(MODELS["exact"], first, *sizes)
        few = (exact, tied_job(Path(folder), exact))
        for file, model in MODELS.items():
            given = prepared_path("test", "images") if file == "float32" else as_bytes
            job = Job(model, given, *sizes)
            results[file], found = check_file(file, job, expected, names, few)
            faults += found
    if faults:
        raise RuntimeError("\n  ".join(["not every runtime conforms:", *faults]))
    write_json(RESULTS, results)
    print(f"\n{table()}\n\n{exact_table()}\n")
    print(f"conformance: every runtime conforms on all images; {RESULTS} written")


if __name__ == "__main__":
    run(main, clean_environment=False)  # runtimes find their programs by it
