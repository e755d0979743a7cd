"""Run the exported model in every runtime, on all test images, and compare each with Keras.

reads   models/fashion_mlp{,_uint8}.onnx, models/fashion_mlp.keras, models/labels.json,
        data/prepared/test_images.npy, and the examples in this folder's folders
writes  consumers/conformance.json    each runtime's version and largest difference

Each example is run as its reader would run it, and writes its probabilities to a file. Keras'
own come from `predict` on the .keras file. A runtime conforms if it names the same class for
every image and no probability is further than TOLERANCE from Keras'.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from consumers.runtimes import BIN, LABELS, MODELS, RUNTIMES, Runtime, locked_version
from fashion_mlp.data.arrays import MAX_PIXEL, prepared_path
from fashion_mlp.formats import write_json
from fashion_mlp.network import engine
from fashion_mlp.paths import MODEL
from pipeline.console import run

RESULTS = Path("consumers/conformance.json")
# Two float32 sums, of 784 and of 800 terms, added in another order: measured up to 4.3e-6 from
# Keras, which is itself up to 1.6e-6 from float64. bf16 is off by a thousand times as much.
TOLERANCE = 5e-6
BATCH_SIZE = 1000  # of Keras
TIMEOUT = 600  # seconds that a command may take
REASON = re.compile(r"[Ee]rror( \[\w+\])?: ")  # Python's, gcc's and Node's
SUMMARY = re.compile(r"^\S+ (?P<version>.+): \d+ images in (?P<seconds>[\d.]+) s$")


class Output(NamedTuple):
    """What a runtime returned: its version, float32 probabilities (n, classes), and seconds."""

    version: str
    probabilities: np.ndarray
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


def commands(
    runtime: Runtime, images: Path, pixels: int, classes: int, folder: Path
) -> list[list[str]]:
    """Make the commands of an example: those that build it, then the one that runs it.

    Args:
        runtime: whose example.
        images: .npy file.
        pixels: of an image.
        classes: of the model.
        folder: gets what is built, and the probabilities in out.bin.
    """
    paths = {"python": sys.executable, "bin": BIN, "root": Path.cwd(), "build": folder}
    sizes = {"pixels": pixels, "classes": classes}
    places = {**paths, **sizes, "model": MODELS[runtime.uint8], "labels": LABELS}
    made = [
        [part.format_map(places) for part in command.split()]
        for command in (*runtime.build, runtime.command)
    ]
    made[-1] += [str(images), "--probabilities", str(folder / "out.bin")]
    return made


def execute(runtime: Runtime, images: Path, pixels: int, shape: tuple[int, int]) -> Output:
    """Build and run a runtime's example in a scratch folder, and read what it wrote.

    Args:
        runtime: whose tools are there.
        images: .npy file.
        pixels: of an image.
        shape: that the probabilities must have.

    Raises:
        RuntimeError: a command failed, took too long, or wrote something else.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        printed = [
            call(command) for command in commands(runtime, images, pixels, shape[1], Path(folder))
        ]
        last = printed[-1].strip().splitlines()[-1:]
        if not (summary := SUMMARY.match("".join(last))):
            raise RuntimeError(f"expected version and seconds in the last line, got {last}")
        out = Path(folder) / "out.bin"
        size, expected = out.stat().st_size if out.exists() else 0, 4 * shape[0] * shape[1]
        if size != expected:
            raise RuntimeError(f"expected {expected:,} bytes of probabilities, got {size:,}")
        generator = f"{locked_version(runtime.generator)}, " if runtime.generator else ""
        probabilities = np.fromfile(out, "<f4").reshape(shape)
        return Output(generator + summary["version"], probabilities, float(summary["seconds"]))


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


def compare(expected: np.ndarray, output: Output) -> Result:
    """Measure how far a runtime is from Keras, rounded to two digits.

    Args:
        expected: float32 (n, classes).
        output: of the runtime.
    """
    difference = np.abs(output.probabilities.astype(np.float64) - expected).max()
    same = output.probabilities.argmax(axis=1) == expected.argmax(axis=1)
    return Result(output.version, float(f"{difference:.1e}"), int(same.sum()))


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


def table(path: Path = RESULTS) -> str:
    """Lay out the results as a Markdown table; README.md and consumers/README.md show it."""
    results = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            runtime.name,
            (result := Result(**results["runtimes"][runtime.key])).version,
            f"{result.max_difference:.1e}",
            f"{result.argmax_agreement:,} of {results['images']:,}",
            f"`{runtime.install}`",
        )
        for runtime in RUNTIMES
    ]
    header = ("runtime", "version", "largest Δp", "same class", "install")
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def check_all(
    expected: np.ndarray, files: Mapping[bool, Path], pixels: int, names: Sequence[str]
) -> tuple[dict[str, Result], list[str]]:
    """Run every runtime.

    Args:
        expected: Keras' probabilities, float32 (n, classes).
        files: the images; uint8 where the key is True.
        pixels: of an image.
        names: of the classes.

    Returns:
        The results by key, and a line for each runtime that was not run or does not conform.
    """
    results, faults = {}, []
    for runtime in RUNTIMES:
        print(f"conformance: {runtime.name} ...", end=" ", flush=True)
        try:
            output = execute(runtime, files[runtime.uint8], pixels, expected.shape)
        except RuntimeError as error:
            print("failed")
            faults.append(f"{runtime.name}: {error}")
            continue
        result = results[runtime.key] = compare(expected, output)
        print(
            f"{result.version}: {result.max_difference:.1e} from Keras, "
            f"{len(expected) / max(output.seconds, 1e-9):,.0f} images/s"
        )
        if runtime.enforced and (fault := first_fault(expected, output.probabilities, names)):
            faults.append(f"{runtime.name}: {fault}")
    return results, faults


def main() -> None:
    for path in (MODEL, *MODELS.values(), LABELS):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file; `make` writes it")
    names = json.loads(LABELS.read_text(encoding="utf-8"))["class_names"]["en"]
    images = np.load(prepared_path("test", "images"), allow_pickle=False)
    print(f"conformance: Keras, {len(images):,} images")
    expected = keras_probabilities(images)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        as_bytes = Path(folder) / "test_images_uint8.npy"
        np.save(as_bytes, np.rint(images * MAX_PIXEL).astype(np.uint8))
        files = {False: prepared_path("test", "images"), True: as_bytes}
        results, faults = check_all(expected, files, images.shape[1], names)
    if faults:
        raise RuntimeError("\n  ".join(["not every runtime conforms:", *faults]))
    runtimes = {key: result._asdict() for key, result in results.items()}
    write_json(RESULTS, {"images": len(images), "tolerance": TOLERANCE, "runtimes": runtimes})
    print(f"\n{table()}\n")
    print(f"conformance: every runtime agrees with Keras on all images; {RESULTS} written")


if __name__ == "__main__":
    run(main, clean_environment=False)  # runtimes find their programs by it
