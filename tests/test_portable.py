"""check-portable: what it trains with."""

import sys
from pathlib import Path

import pytest

from checks import arm64
from checks.portable import EVERYTHING, SETTINGS, compare_whole, differing, kept, trainings
from pipeline.params import Train

# They say how long and from where training goes, or promise no bits.
APART = {"seed", "epochs", "batch_size", "steps_per_execution", "precision", "device", "workers"}


@pytest.mark.usefixtures("engine")
def test_everything_has_each_optimizer_and_each_parameter_that_changes_the_arithmetic() -> None:
    from fashion_mlp.training.optimizer import optimizers

    found = trainings(everything=True)
    assert found["weights"] == {}
    used = [Train.model_validate(changes) for changes in found.values()]  # the schema takes them
    assert {one.optimizer.class_name for one in used} == set(optimizers())
    changed = {key for changes in found.values() for key in changes}
    assert changed - APART == Train.model_fields.keys() - APART
    assert {*EVERYTHING} <= SETTINGS.keys()


@pytest.mark.usefixtures("engine")
def test_only_what_is_not_promised_may_differ() -> None:
    expected = {"weights": "1", "augmented": "2", "Adam": "3"}
    assert kept(differing({"weights": "1", "augmented": "2"}, expected))
    assert not kept(differing({"weights": "1", "augmented": "2", "Adam": "4"}, expected))
    assert kept("Adafactor, Muon, SGD clipnorm=0.5")
    assert not kept("weights")
    assert not kept("Adafactor, RMSprop")


def test_a_training_that_ends_early_is_a_failure_and_ends_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_its_end = tmp_path / "to_its_end"
    emulated = ["sh", "-c", f"echo hash; sleep 30; touch '{to_its_end}'"]
    monkeypatch.setattr(arm64, "prepare", lambda: None)
    monkeypatch.setattr(arm64, "start", lambda processor: emulated)
    monkeypatch.setattr(sys, "executable", "false")
    assert compare_whole("1") == 1
    assert not to_its_end.exists()
