"""Run the exported model in every runtime, on all test images, and hold each against Keras.

reads   models/fashion_mlp{,_uint8}.onnx, models/fashion_mlp.keras, data/prepared/test_images.npy,
        and the examples in this folder's folders
writes  consumers/conformance.json    what each runtime made of it, and this machine's speed

Each example is run as its reader would run it, and writes its probabilities to a file. Keras'
own come from `predict` on the .keras file. A runtime conforms if it names the same class for
every image and no probability is further than BAR from Keras'.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checks.repro import processor
from consumers.runtimes import APT_INSTALL, Runtime, maker_version, missing_tools, runtimes
from fashion_mlp.network import engine
from pipeline.console import run
from fashion_mlp.data.arrays import load_split, prepared_path
from pipeline.files import write_json
from pipeline.params import load_params

KERAS = Path("models/fashion_mlp.keras")
RESULTS = Path("consumers/conformance.json")
# Two float32 sums, of 784 and of 800 terms, added in another order: measured up to 4.3e-6 from
# Keras, which is itself up to 1.6e-6 from float64. What bf16 does is a thousand times as much.
BAR = 5e-6
BATCH_SIZE = 1000  # of Keras
TIMEOUT = 600  # seconds that a runtime may take
REASON = re.compile(r"[Ee]rror( \[\w+\])?: ")  # Python's, gcc's and Node's
SUMMARY = re.compile(r"^\S+ (?P<version>.+): (?P<images>\d+) images in (?P<seconds>[\d.]+) s$")


class Output(NamedTuple):
    """What a runtime gave: its version, float32 probabilities (n, classes), and seconds."""

    version: str
    probabilities: np.ndarray
    seconds: float


class Result(NamedTuple):
    """How a runtime compares with Keras."""

    version: str
    max_difference: float
    argmax_agreement: int
    images_per_second: int


def keras_probabilities(images: np.ndarray) -> np.ndarray:
    """Predict as a user of Keras does: float32 (n, pixels) -> float32 (n, classes)."""
    engine.start()

    from fashion_mlp.network.model import load_network

    network = load_network(KERAS)
    return np.asarray(network.predict(images, batch_size=BATCH_SIZE, verbose=0))


def execute(runtime: Runtime, images: Path, shape: tuple[int, int]) -> Output:
    """Build and run a runtime's example in a scratch folder, and read what it wrote.

    Args:
        runtime: whose tools are there.
        images: .npy file.
        shape: that the probabilities must have.

    Raises:
        RuntimeError: a command failed, took too long, or wrote something else.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        places = {"images": str(images), "out": f"{folder}/out.bin", "build": folder}
        for command in runtime.build:
            call([part.format_map(places) for part in command])
        said = call([part.format_map(places) for part in runtime.command])
        version, seconds = read_summary(said)
        out = Path(places["out"])
        expected_bytes = 4 * shape[0] * shape[1]
        if not out.exists() or out.stat().st_size != expected_bytes:
            found = out.stat().st_size if out.exists() else "no"
            raise RuntimeError(f"expected {expected_bytes:,} bytes of probabilities, got {found}")
        return Output(
            maker_version(runtime) + version, np.fromfile(out, "<f4").reshape(shape), seconds
        )


def call(command: list[str]) -> str:
    """Run a command and return what it prints; where it fails, raise the line that says why."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next(filter(REASON.search, lines), lines[-1] if lines else "")
        raise RuntimeError(f"{' '.join(command[:2])}: exit {done.returncode}: {reason.strip()}")
    return done.stdout


def read_summary(said: str) -> tuple[str, float]:
    """Take version and seconds from an example's last line, which the page writes as JSON."""
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if match := SUMMARY.match(last):
        return match["version"], float(match["seconds"])
    try:
        summary = json.loads(last)
        _, *browser = summary["runtime"].partition(" in ")
        return summary["version"] + "".join(browser), float(summary["seconds"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RuntimeError(f"its last line does not say version and seconds: {last!r}") from None


def compare(expected: np.ndarray, output: Output) -> Result:
    """Measure how far a runtime is from Keras, rounded to two digits.

    Args:
        expected: float32 (n, classes).
        output: of the runtime.
    """
    difference = np.abs(output.probabilities.astype(np.float64) - expected).max()
    same = output.probabilities.argmax(axis=1) == expected.argmax(axis=1)
    return Result(
        output.version,
        float(f"{difference:.1e}"),
        int(same.sum()),
        int(float(f"{len(expected) / max(output.seconds, 1e-9):.2g}")),
    )


def first_fault(expected: np.ndarray, found: np.ndarray, names: Sequence[str]) -> str | None:
    """Say which image a runtime gets wrong first: another class, or further than BAR.

    Args:
        expected: float32 (n, classes).
        found: the same shape.
        names: of the classes.

    Returns:
        None where there is none.
    """
    distance = np.abs(found.astype(np.float64) - expected)
    good = (distance <= BAR).all(axis=1)  # so that NaN is not good
    good &= found.argmax(axis=1) == expected.argmax(axis=1)
    if good.all():
        return None
    image = int(np.argmin(good))
    by = int(np.where(np.isnan(distance[image]), np.inf, distance[image]).argmax())
    wanted, got = names[expected[image].argmax()], names[found[image].argmax()]
    return (
        f"image {image}: expected {wanted}, {names[by]} at {expected[image, by]:.7f}; "
        f"got {got}, {names[by]} at {found[image, by]:.7f}; allowed {BAR:.0e} apart; "
        f"{int((~good).sum()):,} of {len(good):,} images differ"
    )


def table(results: dict[str, Result], images: int) -> str:
    """Lay out the results as a Markdown table, aligned so that it reads well in a terminal."""
    head = ["runtime", "version", "largest Δp", "same class", "images/s", "install"]
    rows = [
        [
            runtime.name,
            result.version,
            f"{result.max_difference:.1e}",
            f"{result.argmax_agreement:,} of {images:,}",
            f"{result.images_per_second:,}",
            f"`{runtime.install}`",
        ]
        for runtime in runtimes()
        if (result := results.get(runtime.key))
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)


def write_results(results: dict[str, Result], images: int, path: Path = RESULTS) -> bool:
    """Write the metrics, unless the file has the same ones already but for the speed.

    So another run leaves no change in git; the speeds are of the machine that the file names.

    Args:
        results: by the runtimes' keys.
        images: how many were classified.
        path: of the file.

    Returns:
        Whether it was written.
    """
    values: dict[str, Any] = {
        "images": images,
        "bar": BAR,
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "runtimes": {key: result._asdict() for key, result in results.items()},
    }
    if path.exists() and without_speed(json.loads(path.read_text("utf-8"))) == without_speed(
        values
    ):
        return False
    write_json(path, values)
    return True


def without_speed(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what another run on another machine would measure otherwise."""
    runtimes = {
        key: {name: value for name, value in result.items() if name != "images_per_second"}
        for key, result in values["runtimes"].items()
    }
    return values | {"machine": None, "runtimes": runtimes}


def check_all(expected: np.ndarray, files: dict[bool, Path], names: Sequence[str]) -> list[str]:
    """Run every runtime, print the table, and list what does not conform.

    Args:
        expected: Keras' probabilities, float32 (n, classes).
        files: the images; of bytes where the key is True.
        names: of the classes.
    """
    results, faults, missing = {}, [], set()
    for runtime in runtimes():
        if lacking := missing_tools(runtime):
            missing.update(lacking)
            faults.append(f"{runtime.name}: not run; missing: {', '.join(lacking)}")
            continue
        print(f"conformance: {runtime.name} ...", flush=True)
        try:
            output = execute(runtime, files[runtime.takes_bytes], expected.shape)
        except RuntimeError as error:
            faults.append(f"{runtime.name}: {error}")
            continue
        results[runtime.key] = compare(expected, output)
        fault = first_fault(expected, output.probabilities, names) if runtime.held else None
        faults += [f"{runtime.name}: {fault}"] if fault else []
    print(f"\n{table(results, len(expected))}\n")
    print(f"images/s: one pass on this machine, {processor()}, {os.cpu_count()} cores")
    if missing:
        faults.append(f"{', '.join(sorted(missing))}: to be had as root by {APT_INSTALL}")
    elif not faults:
        written = write_results(results, len(expected))
        print(f"conformance: {RESULTS} {'written' if written else 'stands, but for the speed'}")
    return faults


def main() -> None:
    params = load_params()
    names = params.dataset.classes.en
    images = np.asarray(load_split("test", params.dataset.pixels, len(names)).images)
    print(f"conformance: Keras, {len(images):,} images: what the others are held against")
    expected = keras_probabilities(images)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        as_bytes = Path(folder) / "test_images_uint8.npy"
        np.save(as_bytes, np.rint(images * 255).astype(np.uint8))
        faults = check_all(
            expected, {False: prepared_path("test", "images"), True: as_bytes}, names
        )
    if faults:
        raise RuntimeError("\n  ".join(["not every runtime conforms:", *faults]))
    print("conformance: every runtime agrees with Keras on all images")


if __name__ == "__main__":
    run(main)
