"""Faults on a small pipeline, run by DVC; `make torture` tries many more."""

import os
import signal
import time
from pathlib import Path

import pytest

from checks.torture import SAME, Lab, damage


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("faults"), "test")


def test_make_resumes_after_everything_was_killed_in_training(lab: Lab) -> None:
    model = "models/fashion_mlp.keras"
    (lab.box.folder / ".dvc/cache" / lab.box.object(model)).unlink()
    (lab.box.folder / model).unlink()
    checkpoints = lab.box.folder / ".run"
    process = lab.box.start("make")
    while not [*checkpoints.glob("checkpoint*")]:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "train: resuming after epoch " in lab.box.good("make")
    assert not lab.differing()
    assert not [*checkpoints.glob("checkpoint*")]


@pytest.mark.parametrize(
    "name", ["models/fashion_mlp.onnx", "data/prepared/test_labels.npy", "models/test_data_set_0"]
)
@pytest.mark.parametrize("way", ["one bit flipped", "emptied, as after a power cut"])
def test_make_repairs_a_damaged_object_of_the_cache(name: str, way: str, lab: Lab) -> None:
    assert damage(Path(".dvc/cache", lab.box.object(name)), way, lab) == SAME


@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/tmp/rwlock", "metrics/export.json"])
def test_make_repairs_a_file_that_a_power_cut_has_emptied(name: str, lab: Lab) -> None:
    assert damage(Path(name), "emptied, as after a power cut", lab) == SAME


def test_other_bytes_are_noticed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lab.expected, "plots/history.csv", "another hash")
    assert lab.outcome() == "OTHER BYTES: plots/history.csv"
