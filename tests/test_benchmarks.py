"""How `make bench` measures and shows; no test here asserts a time."""

import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import measure, scale, training
from benchmarks.measure import Row, Table
from tests.conftest import ROOT

MACHINE = {"processor": "a processor", "cores_used": 2, "date": "2026-01-01"}


def test_ratio_is_taken_within_a_round() -> None:
    # The second round was twice as slow for both: the ratio stays what it was.
    table = Table("t", "s", [Row("floor", [1.0, 2.0, 1.0]), Row("ours", [1.5, 3.0, 1.6], "floor")])
    assert table.ratio(table.rows[0]) is None
    assert table.ratio(table.rows[1]) == measure.Summary(1.5, 1.5, 1.6, 3)


def test_rounds_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAUSE", 0.0)
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = measure.rounds({"a": lambda: run("a"), "b": lambda: run("b")}, 3)
    assert order == ["a", "b"] * 3
    assert values == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_text_says_whether_a_goal_is_reached() -> None:
    rows = [
        Row("floor", [2.0, 2.0]),
        Row("good", [2.0, 2.4], "floor", 1.1),
        Row("bad", [2.4, 2.4], "floor", 1.1),
        Row("slow", [3.0, 5.0], goal=3.5),
    ]
    _, _, floor, good, bad, slow, note = measure.text(Table("t", "s", rows, ["a note"])).split("\n")
    assert floor.split() == ["floor", "2.00", "2.00", "2.00", "2"]
    assert good.split()[-6:] == ["1.10", "(1.00", "to", "1.20)", "within", "1.1"]
    assert bad.endswith("1.20 (1.20 to 1.20)  NOT within 1.1")
    assert slow.endswith("NOT within 3.5")
    assert note == "  a note"


def test_publish_writes_every_value_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    table = Table("t", "s", [Row("floor", [1.0, 2.0]), Row("  ours", [2.0, 5.0], "floor", 3.0)])
    measure.publish("results", MACHINE, [table])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["machine"] == MACHINE
    assert found["tables"][0]["rows"][1] == {
        **{"name": "ours", "median": 3.5, "low": 2.0, "high": 5.0, "n": 2, "against": "floor"},
        **{"ratio": {"median": 2.25, "low": 2.0, "high": 2.5, "n": 2}, "goal": 3.0},
        "values": [2.0, 5.0],
    }
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def prepared(folder: Path) -> Path:
    """Write a training set of the paper's sizes, whose classes are easy to tell apart."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 2000)
    images = random.random((2000, 784), np.float32) / 4
    images[np.arange(2000), labels * 70] = 1
    (folder / "data/prepared").mkdir(parents=True)
    np.save(folder / "data/prepared/train_images.npy", images)
    np.save(folder / "data/prepared/train_labels.npy", np.eye(10, dtype=np.float32)[labels])
    return folder


@pytest.mark.parametrize("peer", ["by_hand", "scikit", "keras_fit 1", "stage_train float32"])
def test_peer_trains_an_epoch_a_turn(
    peer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared(tmp_path))
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    trained = training.Peer(sys.executable, *peer.split())
    losses = []
    for _ in range(20):
        assert trained.epoch() > 0
        losses.append(trained.last["loss"])
    trained.end()
    assert trained.process.returncode == 0
    # All of them start at chance and learn at one pace: 0.20 to 0.22 when this was written.
    assert losses[0] == pytest.approx(math.log(10), abs=0.1)
    assert losses[0] - losses[-1] == pytest.approx(0.21, abs=0.02)
    assert "loss" in training.describe(trained)


def test_peer_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no data are
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(RuntimeError, match=r"train_images\.npy"):
        training.Peer(sys.executable, "floor", "numpy")


def test_a_peer_whose_library_is_missing_is_left_out_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    floors = {
        name: (sys.executable, "floor", library)
        for name, library in zip(training.PRODUCTS, ("numpy", "xla"), strict=True)
    }
    missing = ("no/such/python", "pytorch_loop")
    monkeypatch.setattr(training, "PEERS", floors | {"PyTorch": missing})
    monkeypatch.setattr(training, "FOREIGN", "no/such/python")
    steady, first = training.measure(1, 2)
    assert [row.name for row in first.rows] == list(training.PRODUCTS)
    numpy, xla, floor = (row.values for row in steady.rows)
    assert list(map(min, numpy, xla)) == floor
    assert len(floor) == 2
    assert steady.notes[-1].startswith("PyTorch: left out: [Errno 2]")


def test_write_copies_repeats_with_noise(tmp_path: Path) -> None:
    source, target = tmp_path / "train-images", tmp_path / "copies"
    pixels = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2) * 20
    source.write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, *pixels.shape) + pixels.tobytes())
    scale.write_copies(source, target, 3, np.random.default_rng(0))
    content = target.read_bytes()
    assert content[:16] == struct.pack(">BBBB3I", 0, 0, 8, 3, 9, 2, 2)
    first, *copies = np.frombuffer(content[16:], np.uint8).reshape(3, 3, 2, 2).astype(int)
    assert (first == pixels).all()
    for copy in copies:
        assert 0 < abs(copy - pixels).max() <= scale.NOISE


@pytest.mark.parametrize(("power", "expected"), [(1.0, 1.0), (1.2, 1.214)])
def test_growth_tells_linear_from_more(power: float, expected: float) -> None:
    factors = [1.0, 2.0, 5.0, 10.0]
    seconds = {
        (stage, factor): [3.0 + factor**power] for stage in scale.STAGES for factor in factors
    }
    table = scale.growth("", seconds, factors)
    judged = [row for row in table.rows if row.goal]
    assert [row.goal for row in judged] == [1.1] * 3
    for row in judged:
        ratio = table.ratio(row)
        assert ratio and ratio.median == pytest.approx(expected, abs=0.005)


def test_machine_names_all_packages() -> None:
    on = measure.machine()
    assert {"processor", "cores", *measure.PACKAGES} <= set(on)


def test_bench_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "benchmarks"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    missing = "data/prepared/train_images.npy"
    assert result.stderr == f"bench: {missing} is not there; `make` makes it\n"


def test_the_peers_lock_has_hashes_and_the_pipelines_numpy() -> None:
    ours, peers = (
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("requirements.lock", "benchmarks/requirements.lock")
    )
    entries = re.split(r"\n(?=\w)", peers)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert re.findall("^numpy==.*$", ours, re.M) == re.findall("^numpy==.*$", peers, re.M)
