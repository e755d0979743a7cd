"""check-repro: a real repository with a `make` that changes some files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.repro import Difference, compare, read_csv, read_lock
from tests.conftest import ROOT, edited, paper_values

TOLERANCES = {"test_loss": 0.01, "other": 0.1}
PICTURE = b"\x89PNG\r\n\x1a\n\xff\xfe"  # not UTF-8


def lock(**hashes: str) -> dict[str, Any]:
    outs = [{"path": path.replace("__", "/"), "md5": md5} for path, md5 in hashes.items()]
    return {"stages": {"one": {"cmd": "ls", "outs": outs}, "two": {"deps": outs}}}


@pytest.mark.parametrize(
    ("key", "found", "accepted"),
    [
        ("test_loss", 0.509, True),
        ("test_loss", 0.52, False),
        ("else", 0.59, True),
        ("else", 0.61, False),
        ("test_loss", float("nan"), False),
        ("test_loss", "0.5", False),
        ("test_loss", 1, False),
        ("test_loss", None, False),
    ],
)
def test_compare_accepts_floats_within_their_tolerance(
    key: str, found: Any, accepted: bool
) -> None:
    (difference,) = compare({"a": {"b": 1}, key: 0.5}, {"a": {"b": 1}, key: found}, TOLERANCES)
    assert difference.accepted is accepted


def test_compare_never_accepts_a_count() -> None:
    (difference,) = compare({"images": 70000}, {"images": 69999}, {"other": 5.0})
    assert not difference.accepted


def test_compare_names_what_is_missing_and_what_is_new() -> None:
    assert compare({"a": {"b": 0.5}}, {"c": 0.5}, TOLERANCES) == [
        Difference("a.b", 0.5, "absent", 0.1),
        Difference("c", "absent", 0.5, 0.1),
    ]


def test_read_csv_tells_floats_from_labels() -> None:
    assert read_csv(b"label,loss\n1.,0.25\nBag,7\n") == {
        "header": [["label", "loss"]],
        "label row 1": 1.0,
        "loss row 1": 0.25,
        "label row 2": "Bag",
        "loss row 2": "7",
    }


def test_read_lock_leaves_out_what_depends_on_rounding() -> None:
    found = read_lock(yaml.safe_dump(lock(data__raw="1", models__m="2")).encode())
    assert found["one"] == {"cmd": "ls", "params": None, "data/raw": "1"}


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A project: all of a git repository, or the folder of it that is given."""
    folder: Path = tmp_path / "repository" / getattr(request, "param", "")
    for name in ("metrics", "plots"):
        (folder / name).mkdir(parents=True)
    tolerances = {"train_loss": 0.005, "other": 0.05}
    (folder / "params.yaml").write_text(
        yaml.safe_dump(edited(paper_values(), {"gate.tolerances": tolerances}))
    )
    (folder / "metrics/train.json").write_text('{\n  "train_loss": 0.5\n}\n')
    (folder / "plots/history.csv").write_text("epoch,loss\n1,0.25\n")
    (folder / "plots/history.png").write_bytes(PICTURE)
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock(data__raw="1", models__m="2")))
    git(tmp_path / "repository", "init", "--quiet")
    return folder


def check(project: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run the check on a project whose `make` runs a command."""
    (project / "Makefile").write_text(f"repro:\n\t@{command}\n")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "test")
    return run(project)


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "checks.repro"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("project", ["", "folder with a space"], indirect=True)
def test_check_says_that_all_is_reproduced(project: Path) -> None:
    result = check(project, "true")
    assert result.returncode == 0, result.stderr
    assert (
        "all 6 tracked files and the hashes of all 2 outputs are reproduced bit for bit on "
        in result.stdout
    )


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sed -i s/0.5/0.504/ metrics/train.json", "| 0.504   | within 0.005 |"),
        ("sed -i s/0.25/0.26/ plots/history.csv", "| 0.26    | within 0.05 |"),
        ("sed -i s/0.5/0.504/ metrics/train.json; echo >> plots/history.png", "| picture      |"),
    ],
)
def test_check_accepts_what_is_within_the_tolerances(
    project: Path, command: str, expected: str
) -> None:
    result = check(project, f"{command}; sed -i \"s/md5: '2'/md5: '3'/\" dvc.lock")
    assert "BITS DIFFER on this processor" in result.stdout
    assert expected in result.stdout
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sed -i s/0.5/0.6/ metrics/train.json", "| 0.6     | REFUSED   |"),
        ("sed -i s/train_loss/loss/ metrics/train.json", "| absent  | REFUSED   |"),
        ("sed -i s/0.5/NaN/ metrics/train.json", "| nan     | REFUSED   |"),
        ("echo cut > metrics/train.json", "REFUSED: Expecting value"),
        ("rm metrics/train.json", "REFUSED: [Errno 2] No such file"),
        ("sed -i s/0.25/0.35/ plots/history.csv", "loss row 1 | 0.25        | 0.35    | REFUSED"),
        ("sed -i s/^1,/2,/ plots/history.csv", "epoch row 1 | 1           | 2       | REFUSED"),
        ("echo >> plots/history.png", "REFUSED: plots/history.png: no metric differs"),
        ("echo >> params.yaml", "| params.yaml | content | "),
        ("touch new", "REFUSED: git show: fatal: path "),
        ("sed -i \"s/md5: '1'/md5: '3'/\" dvc.lock", "| one.data/raw | 1           | 3 "),
        ("sed -i 's/cmd: ls/cmd: rm/' dvc.lock", "one.cmd"),
    ],
)
def test_check_refuses_anything_else(project: Path, command: str, expected: str) -> None:
    result = check(project, command)
    assert expected in result.stdout
    assert "check-repro: refused: 1 files differ" in result.stdout
    assert result.returncode == 1


def test_check_says_that_make_failed_and_what_it_does_not_check(project: Path) -> None:
    check(project, "exit 3")
    (project / "metrics/train.json").write_text("{}")
    result = run(project)
    assert result.returncode == 2
    assert result.stderr == (
        "make: *** [Makefile:2: repro] Error 3\n"
        "check-repro: error: make failed with exit status 2\n"
    )
    assert "note: uncommitted changes are not checked" in result.stdout


@pytest.mark.parametrize("module", ["checks.repro", "checks.gate"])
def test_without_a_repository_git_gives_the_reason_in_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(paper_values()))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GIT_CEILING_DIRECTORIES": "/"}
    command = [sys.executable, "-m", module]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "fatal: not a git repository" in result.stderr
    assert result.stderr.endswith("; get the project by `git clone`\n")
    assert len(result.stderr.splitlines()) == 1
