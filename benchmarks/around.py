"""What is around training: imports, DVC, the other stages, the proof."""

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

from benchmarks.measure import Row, Table, number, rounds, summary, timed
from checks.sandbox import ROOT, Sandbox, environment, run
from pipeline.params import load_params
from stages.preprocess import RAW, prepare

IMPORTS = {
    "Python alone": "pass",
    "numpy": "import numpy",
    "onnxruntime": "import onnxruntime",
    "stages.fetch": "import stages.fetch",
    "stages.preprocess": "import stages.preprocess",
    "stages.train": "import stages.train",
    "dvc's command line": "import dvc.cli.parser",
    "TensorFlow and Keras (engine.start)": "from fashion_mlp.network import engine; engine.start()",
}
EMPTY_STAGES = 5
# How DVC starts a stage; a stage that was started by hand notes its outputs' hashes itself.
AS_DVC = {"DVC_STAGE": "benchmark"}


def measure(count: int) -> list[Table]:
    """Measure everything, `count` rounds each."""
    with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as name:
        folder = Path(name)
        return [imports(count), *pipeline(folder, count), preprocess(folder, count), proof(count)]


def imports(count: int) -> Table:
    """Time a process that imports something and ends."""

    def process(code: str) -> Callable[[], float]:
        command = [sys.executable, "-c", code]
        return lambda: timed(lambda: subprocess.run(command, env=environment(), check=True))

    values = rounds({name: process(code) for name, code in IMPORTS.items()}, count)
    return Table("A process that imports and ends", "s", [Row(*item) for item in values.items()])


def pipeline(folder: Path, count: int) -> list[Table]:
    """Time `make repro` from nothing, and `dvc repro` with nothing to do."""
    project = Sandbox(folder / "cold", 10, 10)
    restore(project)
    project.set(train__epochs=1, fetch__sources=[{"folder": str(ROOT / RAW)}])
    project.commit()
    parts: dict[str, list[float]] = {}
    for _ in range(count):
        project.forget()
        for name, seconds in cold(project).items():
            parts.setdefault(name, []).append(seconds)
    rows = [Row(f"  {name}", values) for name, values in parts.items()]
    whole = [sum(values) for values in zip(*parts.values(), strict=True)]
    note = "make repro in a clone: data from a local folder, train.epochs 1, installed before"
    tables = [
        Table(
            "From nothing, with one epoch and no download",
            "s",
            [Row("make repro", whole, goal=20.0), *rows],
            [f"{note}; a stage's time is with DVC's hashing and caching of its outputs"],
        )
    ]
    empty = empty_project(folder / "empty")
    name = f"an empty DVC project of {EMPTY_STAGES} stages"
    values = rounds(
        {name: lambda: nothing_to_do(empty), "this one": lambda: nothing_to_do(project.folder)},
        count,
    )
    ours = Row("this one", values["this one"], name, 1.3)
    tables.append(Table("dvc repro with nothing to do", "s", [Row(name, values[name]), ours]))
    return tables


def restore(project: Sandbox) -> None:
    """Give a sandbox the parameters of this project."""
    shutil.copy2(ROOT / "params.yaml", project.folder / "params.yaml")


def cold(project: Sandbox) -> dict[str, float]:
    """Run `make repro` from nothing; return the seconds of each stage and of what comes before.

    Raises:
        RuntimeError: it failed.
    """
    parts, last, now = {}, time.perf_counter(), "before the first stage"
    process = project.start("make repro")
    said = []
    for line in process.stdout or ():
        said.append(line)
        if started := re.match(r"Running stage '(\w+)'", line):
            parts[now], last, now = time.perf_counter() - last, time.perf_counter(), started[1]
    if process.wait() != 0:
        raise RuntimeError(f"make repro failed:\n{''.join(said)}")
    parts[now] = time.perf_counter() - last
    return parts


def empty_project(folder: Path) -> Path:
    """Make and run a DVC project of stages that write a line each, and read the one before."""
    folder.mkdir()
    stages: dict[str, Any] = {}
    for place in range(EMPTY_STAGES):
        stages[f"stage{place}"] = {
            "cmd": f"echo {place} > {place}.txt",
            "deps": [f"{place - 1}.txt"] if place else [],
            "outs": [f"{place}.txt"],
        }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc = f"{Path(sys.executable).parent}/dvc"
    for command in ("git init --quiet", f"{dvc} init --quiet"):
        run(command, folder)
    shutil.copy2(ROOT / ".dvc/config", folder / ".dvc/config")
    run(f"{dvc} repro --quiet", folder)
    return folder


def nothing_to_do(folder: Path) -> float:
    """Time a `dvc repro` that finds everything up to date.

    Raises:
        RuntimeError: it failed or ran a stage.
    """
    start = time.perf_counter()
    result = subprocess.run(
        ["dvc", "repro"], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if "up to date" not in result.stdout:
        raise RuntimeError(f"{folder}: expected nothing to do, got {result.stdout}{result.stderr}")
    return seconds


def preprocess(folder: Path, count: int) -> Table:
    """Time stage `preprocess` beside NumPy that reads, converts and writes the same bytes."""
    params = load_params()
    classes, shape = len(params.dataset.classes.en), params.dataset.image_shape
    bare_folder, ours_folder = folder / "bare", folder / "prepared"
    bare_folder.mkdir()

    def bare() -> None:
        for source in ("train", "t10k"):
            pixels = np.fromfile(RAW / f"{source}-images-idx3-ubyte", np.uint8, offset=16)
            images = pixels.reshape(-1, params.dataset.pixels) / np.float32(255)
            np.save(bare_folder / f"{source}_images.npy", images)
            labels = np.fromfile(RAW / f"{source}-labels-idx1-ubyte", np.uint8, offset=8)
            one_hot = np.eye(classes, dtype=np.float32)[labels]
            np.save(bare_folder / f"{source}_labels.npy", one_hot)

    def ours() -> None:
        prepare(RAW, ours_folder, params.fetch.files, shape, classes, 0)

    def stage() -> None:
        command = [sys.executable, "-m", "stages.preprocess"]
        subprocess.run(
            command, cwd=project, env={**environment(), **AS_DVC}, check=True, capture_output=True
        )

    copy = Sandbox(folder / "preprocess", 10, 10)
    restore(copy)
    project = copy.folder
    for file in params.fetch.files:
        (project / RAW).mkdir(exist_ok=True)
        shutil.copy2(RAW / file, project / RAW / file)
    works = {
        "NumPy: read, convert, write": bare,
        "prepare(), which checks SHA-256 too": ours,
        "the whole stage, a process": stage,
    }
    values = rounds({name: partial(timed, work) for name, work in works.items()}, count)
    name, checked, whole = works
    rows = [
        Row(name, values[name]),
        Row(checked, values[checked], name, 2.0),
        Row(whole, values[whole], name),
    ]
    return Table("Preprocessing", "s", rows, ["220 MB written; the page cache takes them"])


def proof(count: int) -> Table:
    """Time the proof on all images, in a process of its own."""
    gathered, proven = [], []
    for _ in range(count):
        result = subprocess.run(
            [sys.executable, "-m", "benchmarks.proof"],
            env=environment(),
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        first, second = map(float, result.stdout.split()[-2:])
        gathered.append(first)
        proven.append(second)
    both = [sum(pair) for pair in zip(gathered, proven, strict=True)]
    rows = [
        Row("the proof", both, goal=10.0),
        Row("  float64 reference, bound, Keras' answers", gathered),
        Row("  levels on the ONNX model, uint8 model", proven),
    ]
    rate = 70000 / summary(both).median
    return Table(
        "Export's proof over 70,000 images", "s", rows, [f"{number(rate)} images a second"]
    )
