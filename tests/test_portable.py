"""check-portable: what it trains with, and the emulated ARM that it trains on."""

import re
from pathlib import Path
from typing import Any

import pytest

from checks import arm64
from checks.portable import EVERYTHING, SETTINGS, differing, kept, trainings
from pipeline.params import Train

# They say how long and from where training goes, or promise no bits.
APART = {"seed", "epochs", "batch_size", "steps_per_execution", "precision", "device"}


@pytest.mark.usefixtures("engine")
def test_everything_has_each_optimizer_and_each_parameter_that_changes_the_arithmetic() -> None:
    from fashion_mlp.training.optimizer import optimizers

    found = trainings(everything=True)
    assert found["weights"] == {}
    used = [Train.model_validate(changes) for changes in found.values()]  # the schema takes them
    assert {one.optimizer.class_name for one in used} == set(optimizers())
    assert {
        key for changes in found.values() for key in changes
    } == Train.model_fields.keys() - APART
    assert {*EVERYTHING} <= SETTINGS.keys()


@pytest.mark.usefixtures("engine")
def test_only_what_is_not_promised_may_differ() -> None:
    expected = {"weights": "1", "augmented": "2", "Adam": "3"}
    assert kept(differing({"weights": "1", "augmented": "2"}, expected))
    assert not kept(differing({"weights": "1", "augmented": "2", "Adam": "4"}, expected))
    assert kept("Adafactor, Muon, SGD clipnorm=0.5")
    assert not kept("weights")
    assert not kept("Adafactor, RMSprop")


def test_an_emulated_processor_has_a_cpuinfo_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "root").mkdir()
    monkeypatch.setattr(arm64, "FOLDER", tmp_path)
    processor = arm64.PROCESSORS["Neoverse V1 (SVE)"]
    command = arm64.start(processor)
    assert command[command.index("-cpu") + 1] == processor.qemu
    text = (tmp_path / "root/proc/cpuinfo").read_text()
    assert re.findall(r"^processor\t: (\d)$", text, re.M) == ["0", "1"]
    assert text.count(f"CPU part\t: {processor.part}\n") == 2
    assert " sve " in re.findall(r"^Features\t: (.*)$", text, re.M)[0]
