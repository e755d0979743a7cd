"""The gate: what gets worse is refused, whatever the direction."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from checks.gate import verdict
from checks.lock import stale
from checks.repro import Difference

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("key", "before", "now", "expected"),
    [
        ("test_loss", 0.3, 0.36, (False, "WORSE")),
        ("test_loss", 0.3, 0.34, (True, "worse, within tolerance")),
        ("test_loss", 0.3, 0.2, (True, "better")),
        ("test_accuracy", 0.9, 0.8, (False, "WORSE")),
        ("test_accuracy", 0.9, 0.85, (True, "worse, within tolerance")),
        ("test_accuracy", 0.9, 0.99, (True, "better")),
        ("per_class.Bag.recall", 0.9, 0.1, (False, "WORSE")),
        ("expected_calibration_error", 0.0, 0.1, (False, "WORSE")),
        ("within_bound", 70000, 69999, (False, "WORSE")),
        ("test_loss", 0.3, float("nan"), (False, "NOT A NUMBER")),
        ("test_loss", 0.3, float("-inf"), (False, "NOT A NUMBER")),
        ("test_loss", 0.3, None, (False, "NOT A NUMBER")),
        ("test_loss", 0.3, "low", (False, "NOT A NUMBER")),
        ("test_loss", 0.3, "nothing", (False, "MISSING")),
        ("test_loss", "nothing", 0.3, (True, "new")),
        ("train_examples.0.class", 9, 7, (True, "changed")),
    ],
)
def test_verdict_knows_the_direction(
    key: str, before: object, now: object, expected: tuple[bool, str]
) -> None:
    assert verdict(Difference(key, before, now, 0.05)) == expected


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/a.json").write_text('{"test_accuracy": 0.9, "deep": {"f1": 0.5}}')
    git(tmp_path, "init", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "state")
    return tmp_path


def gate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "checks.gate", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_gate_lets_the_same_metrics_pass(project: Path) -> None:
    result = gate(project)
    assert result.returncode == 0
    assert result.stdout.splitlines()[2] == "| test_accuracy | 0.9  | 0.9  | same    |"


@pytest.mark.parametrize(
    "metrics",
    [
        {"test_accuracy": 0.8, "deep": {"f1": 0.5}},
        {"test_accuracy": float("nan"), "deep": {"f1": 0.5}},
        {"test_accuracy": 0.9},
        {},
    ],
)
def test_gate_refuses_what_got_worse_or_lost(metrics: dict[str, object], project: Path) -> None:
    (project / "metrics/a.json").write_text(json.dumps(metrics))
    result = gate(project, "HEAD")
    assert result.returncode == 1
    assert "gate: refused: " in result.stdout


def test_gate_refuses_where_the_file_is_gone(project: Path) -> None:
    (project / "metrics/a.json").unlink()
    assert "gate: refused: 2 of 2 metrics" in gate(project).stdout


@pytest.mark.parametrize("broken", ["{", "[1]"])
def test_gate_names_a_broken_file_in_one_line(broken: str, project: Path) -> None:
    (project / "metrics/a.json").write_text(broken)
    result = gate(project)
    assert result.returncode == 2
    assert result.stderr.startswith("gate: error: metrics/a.json: ")
    assert len(result.stderr.splitlines()) == 1


def test_gate_names_a_revision_that_is_not_there(project: Path) -> None:
    assert "git has no revision v9" in gate(project, "v9").stderr


def test_stale_lists_stages_that_would_run_or_come_from_the_run_cache() -> None:
    output = (
        "Stage 'fetch' didn't change, skipping\n"
        "Stage 'preprocess' is cached - skipping run, checking out outputs\n"
        "Running stage 'train':\n> python -m stages.train\n"
    )
    assert stale(output) == ["preprocess", "train"]
