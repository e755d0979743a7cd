"""Faults on a whole small pipeline, run by DVC; checks/torture.py has many more."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.sandbox import Sandbox
from checks.torture import OPTIMIZERS, cached, damage_cache, optimizer
from pipeline.params import check_params
from tests.conftest import edited, real_values


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("faults")
    sandbox = Sandbox(folder, 400, 100, train__epochs=40, train__hidden_units=8)
    sandbox.good("make")
    yield sandbox


def test_make_goes_on_after_dvc_was_killed_in_training(box: Sandbox) -> None:
    undisturbed = box.results()
    cached(box, "models/fashion_mlp.keras").unlink()
    (box.folder / "models/fashion_mlp.keras").unlink()
    process = box.start("make")
    while not (box.folder / ".run/train.npz").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "train: going on after epoch " in box.good("make")
    assert box.results() == undisturbed
    assert not (box.folder / ".run/train.npz").exists()


def test_make_heals_a_damaged_cache_file_that_dvc_installs(box: Sandbox) -> None:
    undisturbed = box.results()
    name = "data/prepared/test_labels.npy"
    content = bytearray((box.folder / name).read_bytes())
    content[-1] ^= 1
    damage_cache(box, name, bytes(content))
    (box.folder / name).unlink()
    (box.folder / "metrics/evaluate.json").unlink()
    output = box.good("make")
    assert f"evaluate: error: {name}: damaged" in output
    assert box.results() == undisturbed


def test_make_mends_what_a_kill_cut_off_of_dvc_itself(box: Sandbox) -> None:
    undisturbed = box.results()
    lock: Path = box.folder / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:1000] + b"\n  - {")
    (box.folder / ".dvc/tmp/rwlock").write_text('{"write": {')
    box.good("make")
    assert box.results() == undisturbed


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torture_trains_with_parameters_that_are_taken(name: str) -> None:
    check_params(edited(real_values(), {"train.optimizer": optimizer(name)}))
