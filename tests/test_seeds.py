"""The summary over seeds, of experiments in a real repository."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from report import seeds
from tests.processes import git, record


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A commit with two experiments."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "base")
    for seed, accuracy in ((1, 0.5), (2, 0.75)):
        (tmp_path / "metrics").mkdir()
        for name, key in zip(seeds.FILES, ("train_loss", "test_accuracy"), strict=True):
            (tmp_path / name).write_text(json.dumps({key: accuracy}))
        record(tmp_path, f"quick-seed{seed}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_main_prints_mean_and_standard_deviation(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["seeds", "quick", "2"])
    assert seeds.main() == 0
    _, _, *rows, last = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    # sd by hand: both lie 0.125 from the mean; sqrt(2 * 0.125**2 / (2 - 1)) = 0.1768
    assert cells[1] == ["test_accuracy", "0.6250", "0.1768", "0.5000", "0.7500", "2"]
    assert last.startswith("seeds: preset quick, seeds 1 to 2, on ")


def test_main_names_an_experiment_that_is_not_there(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["seeds", "quick", "3"])
    assert seeds.main() == 1
    assert " has no whole experiment quick-seed3 (" in capsys.readouterr().err


def test_one_seed_has_no_standard_deviation() -> None:
    assert seeds.summary([{"a": 0.5}]) == [("a", "0.5000", "–", "0.5000", "0.5000", 1)]
