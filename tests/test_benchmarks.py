"""How `make bench` measures, compares and writes; and that training takes more data than memory."""

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import results, training
from benchmarks.baselines import one_epoch
from benchmarks.measure import Row, Table
from pipeline.environment import ROOT
from pipeline.params import Train
from tests.processes import run


def test_fastest_trains_as_the_preset_of_that_name() -> None:
    preset = yaml.safe_load((ROOT / "presets/fastest.yaml").read_text(encoding="utf-8"))
    config = {"learning_rate": one_epoch.RATE, "momentum": one_epoch.MOMENTUM}
    assert preset["train"] == {
        "epochs": 1, "optimizer": {"class_name": "SGD", "config": config},
        "learning_rate_schedule": "cosine", "standardize": True,
    }  # fmt: skip
    paper = Train()
    assert (paper.batch_size, paper.hidden_units) == (one_epoch.BATCH, [one_epoch.HIDDEN])


def test_publish_writes_what_a_document_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    # The second round was twice as slow for both: ratios are taken within a round.
    rows = [Row("bound", [1.0, 2.0]), Row("ours", [2.0, 5.0], "bound", 3.0)]
    results.publish({"cores": 2}, [Table("key", "t", "s", rows, ['a "note"'])])
    assert results.described() == "cores 2"
    _, _, bound, ours, *notes = results.table("key").splitlines()
    assert [cell.strip() for cell in ours.split("|")[1:-1]] == [
        *("ours", "3.50 (2.00 to 5.00)", "2.25 (2.00 to 2.50)", "3: met")
    ]
    assert bound.startswith("| bound |")
    assert notes == ["", '- a "note"']


def prepared(folder: Path, images: int = 2000) -> Path:
    """Write a training set of the paper's sizes, whose classes are easy to tell apart."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, images)
    pixels = random.random((images, 784), np.float32) / 4
    pixels[np.arange(images), labels * 70] = 1
    (folder / "data/prepared").mkdir(parents=True)
    np.save(folder / "data/prepared/train_images.npy", pixels)
    np.save(folder / "data/prepared/train_labels.npy", np.eye(10, dtype=np.float32)[labels])
    return folder


@pytest.mark.parametrize("baseline", ["by_hand", "stage_train float32"])
def test_baseline_trains_an_epoch_a_turn(
    baseline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared(tmp_path))  # without params.yaml: none depends on it
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # two that wait for each other may take minutes
    trained = training.Baseline(sys.executable, *baseline.split())
    losses = []
    for _ in range(20):
        assert trained.epoch() > 0
        losses.append(trained.last["loss"])
    described = trained.end()
    assert trained.process.returncode == 0
    # All of them start at chance and learn equally fast: 0.20 to 0.22 when this was written.
    assert losses[0] == pytest.approx(math.log(10), abs=0.1)
    assert losses[0] - losses[-1] == pytest.approx(0.21, abs=0.02)
    assert f", loss {losses[-1]:.4f}" in described


def test_a_baseline_whose_library_is_missing_is_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    products = {name: training.BASELINES[name] for name in training.PRODUCTS}
    missing = ("no/such/python", "pytorch_loop")
    monkeypatch.setattr(training, "BASELINES", products | {"PyTorch": missing})
    monkeypatch.setattr(training, "OTHER", "no/such/python")
    steady, first = training.measure(1, 2)
    assert [row.name for row in first.rows] == list(training.PRODUCTS)
    *values, lower_bound = (row.values for row in steady.rows)
    assert list(map(min, *values)) == lower_bound
    assert len(lower_bound) == 2
    assert steady.notes[1].startswith("PyTorch: left out: [Errno 2]")


def test_bench_names_what_is_missing(tmp_path: Path) -> None:
    result = run(tmp_path, sys.executable, "-m", "benchmarks")
    assert result.returncode == 1
    missing = "data/prepared/train_images.npy"
    assert result.stderr == f"bench: {missing} is missing; `make` makes it\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA")
def test_train_reads_images_that_do_not_fit_into_memory_from_their_file(tmp_path: Path) -> None:
    limit = 1_000_000_000
    code = f"""
import numpy as np
from fashion_mlp.data.arrays import Split
from fashion_mlp.network import engine
from pipeline.params import Train
from tests.processes import run
engine.start()
from fashion_mlp.training.loop import fit
count = {limit} // 3136 + 10_000
path = "images.npy"
np.lib.format.open_memmap(path, "w+", np.float32, (count, 784))  # a sparse file of zeros
labels = np.zeros((count, 10), np.float32)
labels[:, 0] = 1
split = Split(np.load(path, mmap_mode="r"), labels)
assert split.images.nbytes > {limit}
params = Train(epochs=1, hidden_units=[], batch_size=10_000, steps_per_execution=1)
none = Split(split.images[:0], labels[:0])
print(fit(params, split, none, (28, 28))[1]["accuracy"])
"""

    def set_limits() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        # The limit counts what is reserved and never used, too: stacks of threads, malloc's arenas.
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))

    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True,
        preexec_fn=set_limits, env=os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "2"},
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] == "[1.0]"
