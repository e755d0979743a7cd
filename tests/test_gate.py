"""The gate refuses what got worse; check-lock names stale stages and damaged outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from checks.common import leaves
from checks.gate import ABSENT, BETTER, judge
from checks.lock import stale
from tests.conftest import ROOT, paper_values


@pytest.mark.parametrize(
    ("key", "before", "now", "passes", "verdict"),
    [
        ("test_loss", 0.3, 0.36, False, "WORSE by more than 0.05"),
        ("test_loss", 0.3, 0.34, True, "worse, within 0.05"),
        ("test_loss", 0.3, 0.2, True, "better"),
        ("test_accuracy", 0.9, 0.8, False, "WORSE by more than 0.05"),
        ("test_accuracy", 0.9, 0.85, True, "worse, within 0.05"),
        ("test_accuracy", 0.9, 0.99, True, "better"),
        ("per_class.Bag.recall", 0.9, 0.1, False, "WORSE by more than 0.05"),
        ("expected_calibration_error", 0.0, 0.1, False, "WORSE by more than 0.05"),
        ("within_bound", 70000, 69999, False, "WORSE by more than 0.05"),
        ("within_bound", 70000, 70000, True, "same"),
        ("test_loss", 0.3, float("nan"), False, "NOT A NUMBER"),
        ("test_loss", 0.3, float("-inf"), False, "NOT A NUMBER"),
        ("test_loss", 0.3, None, False, "NOT A NUMBER"),
        ("test_loss", 0.3, "low", False, "NOT A NUMBER"),
        ("test_loss", 0.3, ABSENT, False, "MISSING"),
        ("test_loss", ABSENT, 0.3, True, "new"),
        ("train_examples.0.class", 9, 7, True, "changed"),
        ("latency", 3, 3, False, "UNKNOWN METRIC: add it to BETTER in checks/gate.py"),
    ],
)
def test_judge_knows_which_way_is_better(
    key: str, before: object, now: object, passes: bool, verdict: str
) -> None:
    assert judge(key, before, now, {"other": 0.05}) == (key, before, now, passes, verdict)


def test_every_metric_of_the_pipeline_is_known() -> None:
    files = [json.loads(path.read_bytes()) for path in (ROOT / "metrics").glob("*.json")]
    found = {key.rsplit(".", 1)[-1] for values in files for key, _ in leaves(values)}
    assert found
    assert found <= BETTER.keys()


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in a folder of a repository."""
    folder = tmp_path / "folder"
    (folder / "metrics").mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(paper_values()))
    (folder / "metrics/a.json").write_text('{"test_accuracy": 0.9, "deep": {"f1": 0.5}}')
    git(tmp_path, "init", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "state")
    return folder


def gate(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "checks.gate", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "REV": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_gate_passes_the_same_metrics(project: Path) -> None:
    result = gate(project)
    assert result.returncode == 0
    assert result.stdout.splitlines()[2] == "| test_accuracy | 0.9    | 0.9    | same      |"


@pytest.mark.parametrize(
    "metrics",
    [
        {"test_accuracy": 0.8, "deep": {"f1": 0.5}},
        {"test_accuracy": float("nan"), "deep": {"f1": 0.5}},
        {"test_accuracy": 0.9},
        {},
        {"test_accuracy": 0.9, "deep": {"f1": 0.5}, "latency": 1},
    ],
)
def test_gate_refuses_worse_missing_and_unknown_metrics(
    metrics: dict[str, object], project: Path
) -> None:
    (project / "metrics/a.json").write_text(json.dumps(metrics))
    result = gate(project, "HEAD")
    assert result.returncode == 1
    assert "gate: refused: " in result.stdout


def test_gate_refuses_if_the_file_is_gone(project: Path) -> None:
    (project / "metrics/a.json").unlink()
    assert "gate: refused: 2 of 2 metrics" in gate(project).stdout


@pytest.mark.parametrize("broken", ["{", "[1]", "\0"])
def test_gate_names_a_broken_file_in_one_line(broken: str, project: Path) -> None:
    (project / "metrics/a.json").write_text(broken)
    result = gate(project)
    assert result.returncode == 2
    assert result.stderr.startswith("gate: error: metrics/a.json: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("revision", ["v9", "HEAD; touch x", "$(touch x)", "--all", "-x"])
def test_gate_names_a_revision_that_does_not_exist(project: Path, revision: str) -> None:
    for result in (gate(project, revision), gate(project, REV=revision)):
        assert result.returncode == 2
        assert f"git has no revision {revision}; name one: " in result.stderr
    assert not (project / "x").exists()


def test_stale_lists_stages_that_would_run_or_come_from_the_run_cache() -> None:
    output = (
        "Stage 'fetch' didn't change, skipping\n"
        "Stage 'preprocess' is cached - skipping run, checking out outputs\n"
        "Running stage 'train':\n> python -m stages.train\n"
    )
    assert stale(output) == ["preprocess", "train"]
