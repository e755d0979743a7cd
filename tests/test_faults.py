"""Faults on a small copy of the pipeline, run by DVC; `make torture` tries many more."""

import os
import signal
import time

import pytest

from checks.lab import SAME, Lab
from checks.sandbox import remove
from checks.torture import WAYS


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("faults"), "test")


def test_make_resumes_after_everything_was_killed_in_training(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setitem(lab.expected, "plots/history.csv", "another hash")
    assert lab.differing() == ["plots/history.csv"]


def test_make_repairs_what_a_power_cut_and_bad_memory_left(lab: Lab) -> None:
    """Each is damaged in the cache, and gone from the folder, so that DVC puts the damage there."""
    names = {
        "models/fashion_mlp.onnx": "one bit flipped",
        "data/prepared/test_labels.npy": "emptied, as after a power cut",
        "models/test_data_set_0": "one bit flipped",
    }
    for name, way in names.items():
        WAYS[way](lab.box.folder / ".dvc/cache" / lab.box.object(name))
        remove(lab.box.folder / name)
    for name in ("metrics/export.json", ".dvc/tmp/rwlock"):
        WAYS["emptied, as after a power cut"](lab.box.folder / name)
    assert lab.outcome() == SAME
