"""What surrounds training: imports, DVC, the other stages, the proof."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measure import Row, Table, compared, rounds, timed
from checks.sandbox import ROOT, Sandbox, environment, run
from fashion_mlp.paths import RAW
from pipeline.params import load_params
from stages.preprocess import prepare

IMPORTS = {
    "Python alone": "pass",
    "numpy": "import numpy",
    "onnxruntime": "import onnxruntime",
    "stages.fetch": "import stages.fetch",
    "stages.preprocess": "import stages.preprocess",
    "stages.train": "import stages.train",
    "the command line of DVC": "import dvc.cli.parser",
    "TensorFlow and Keras (engine.start)": "from fashion_mlp.network import engine; engine.start()",
}
EMPTY_STAGES = 5


def measure(count: int) -> list[Table]:
    """Measure everything, `count` rounds each."""
    with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as name:
        folder = Path(name)
        project = Sandbox(folder / "project", 10, 10)
        shutil.copy2(ROOT / "params.yaml", project.folder / "params.yaml")
        project.set(train__epochs=1, fetch__sources=[{"folder": str(ROOT / RAW)}])
        project.commit()
        return [
            imports(count),
            cold(project, count),
            no_op(project.folder, empty_project(folder / "empty"), count),
            preprocess(folder / "prepared", count),
            proof(count),
        ]


def imports(count: int) -> Table:
    """Time a process that imports something and ends."""

    def process(code: str) -> Callable[[], float]:
        command = [sys.executable, "-c", code]
        return lambda: timed(lambda: subprocess.run(command, env=environment(), check=True))

    values = rounds({name: process(code) for name, code in IMPORTS.items()}, count)
    rows = [Row(*item) for item in values.items()]
    return Table("imports", "A process that only imports", "s", rows)


def cold(project: Sandbox, count: int) -> Table:
    """Time `make repro` from nothing, in all and by stage."""
    parts: dict[str, list[float]] = {}
    for _ in range(count):
        project.forget()
        for name, seconds in stage_times(project).items():
            parts.setdefault(name, []).append(seconds)
    whole = [sum(values) for values in zip(*parts.values(), strict=True)]
    return Table(
        "cold",
        "From nothing, with one epoch and no download",
        "s",
        [Row("make repro", whole, goal=20.0), *(Row(*item) for item in parts.items())],
        [
            "make repro in a clone: data from a local folder, train.epochs 1, environment "
            "installed before",
            "a stage's time includes DVC's hashing and caching of its outputs",
        ],
    )


def stage_times(project: Sandbox) -> dict[str, float]:
    """Run `make repro`; return the seconds of each stage and of what comes before.

    Raises:
        RuntimeError: it failed.
    """
    parts, last, now = {}, time.perf_counter(), "before the first stage"
    process = project.start("make repro")
    output = []
    for line in process.stdout or ():
        output.append(line)
        if started := re.match(r"Running stage '(\w+)'", line):
            parts[now], last, now = time.perf_counter() - last, time.perf_counter(), started[1]
    if process.wait() != 0:
        raise RuntimeError(f"make repro failed:\n{''.join(output)}")
    parts[now] = time.perf_counter() - last
    return parts


def empty_project(folder: Path) -> Path:
    """Create and run a DVC project whose stages write a line and read the one before."""
    folder.mkdir()
    stages: dict[str, Any] = {
        f"stage{place}": {
            "cmd": f"echo {place} > {place}.txt",
            "deps": [f"{place - 1}.txt"] if place else [],
            "outs": [f"{place}.txt"],
        }
        for place in range(EMPTY_STAGES)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    dvc = f"{Path(sys.executable).parent}/dvc"
    run("git init --quiet", folder)
    run(f"{dvc} init --quiet", folder)
    shutil.copy2(ROOT / ".dvc/config", folder / ".dvc/config")
    run(f"{dvc} repro --quiet", folder)
    return folder


def no_op(ours: Path, empty: Path, count: int) -> Table:
    """Time a `dvc repro` that finds everything up to date, here and in an empty project."""

    def repro(folder: Path) -> None:
        command = ["dvc", "repro"]
        result = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True, check=True
        )
        if "up to date" not in result.stdout:
            raise RuntimeError(f"{folder}: expected nothing to do, got {result.stdout}")

    folders = {f"an empty DVC project of {EMPTY_STAGES} stages": empty, "this project": ours}
    for folder in folders.values():
        repro(folder)  # DVC hashes each file once and remembers it
    runs = {name: partial(timed, partial(repro, folder)) for name, folder in folders.items()}
    rows = compared(rounds(runs, count), {"this project": 1.3})
    return Table("no_op", "dvc repro with nothing to do", "s", rows)


def preprocess(folder: Path, count: int) -> Table:
    """Time preprocessing beside NumPy that reads, converts and writes the same bytes."""
    params = load_params()
    classes, shape = params.dataset.classes, params.dataset.image_shape
    (folder / "numpy").mkdir(parents=True)

    def bare() -> None:
        for source in ("train", "t10k"):
            pixels = np.fromfile(RAW / f"{source}-images-idx3-ubyte", np.uint8, offset=16)
            images = pixels.reshape(-1, params.dataset.pixels) / np.float32(255)
            np.save(folder / f"numpy/{source}_images.npy", images)
            labels = np.fromfile(RAW / f"{source}-labels-idx1-ubyte", np.uint8, offset=8)
            one_hot = np.eye(classes, dtype=np.float32)[labels]
            np.save(folder / f"numpy/{source}_labels.npy", one_hot)

    def ours() -> None:
        prepare(RAW, folder / "ours", params.fetch.files, shape, classes, 0)

    name = "prepare(), which checks SHA-256 too"
    runs = {"NumPy: read, convert, write": partial(timed, bare), name: partial(timed, ours)}
    rows = compared(rounds(runs, count), {name: 2.0})
    written = sum(file.stat().st_size for file in (folder / "ours").iterdir())
    note = f"{written / 1e6:.0f} MB written, to the page cache"
    return Table("preprocess", "Preprocessing", "s", rows, [note])


def proof(count: int) -> Table:
    """Time the proof on all images, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.proof"]
    found = []
    for _ in range(count):
        result = subprocess.run(
            command, env=environment(), check=True, capture_output=True, text=True
        )
        found.append([float(seconds) for seconds in result.stdout.split()[-2:]])
    gathered, proven = map(list, zip(*found, strict=True))
    rows = [
        Row("the whole proof", [sum(pair) for pair in found], goal=10.0),
        Row("float64 reference, bound, Keras' answers", gathered),
        Row("checks of the ONNX model and the uint8 model", proven),
    ]
    return Table("proof", "Export's proof over 70,000 images", "s", rows)
