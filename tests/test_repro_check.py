import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.repro import Difference, compare, compare_data, leaves
from tests.conftest import ROOT

TOLERANCES = {"test_loss": 0.01, "other": 0.1}


def lock(**hashes: str) -> dict[str, Any]:
    outs = [{"path": path.replace("__", "/"), "md5": md5} for path, md5 in hashes.items()]
    return {"stages": {"one": {"outs": outs[:1]}, "two": {"outs": outs[1:]}, "three": {}}}


def test_leaves_have_dotted_keys() -> None:
    assert list(leaves({"a": {"b": 1, "c": {"d": 2}}, "e": 3})) == [
        ("a.b", 1),
        ("a.c.d", 2),
        ("e", 3),
    ]


def test_compare_of_the_same_is_nothing() -> None:
    assert compare({"a": {"b": 0.5}}, {"a": {"b": 0.5}}, {}) == []


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
def test_compare_accepts_numbers_within_their_tolerance(
    key: str, found: Any, accepted: bool
) -> None:
    (difference,) = compare({key: 0.5}, {key: found}, TOLERANCES)
    assert difference.accepted is accepted


def test_compare_never_accepts_a_count_that_differs() -> None:
    (difference,) = compare({"images": 70000}, {"images": 69999}, {"other": 5.0})
    assert not difference.accepted


def test_compare_names_what_is_missing_and_what_is_new() -> None:
    assert compare({"a": 0.5}, {"b": 0.5}, TOLERANCES) == [
        Difference("a", 0.5, "nothing", 0.1),
        Difference("b", "nothing", 0.5, 0.1),
    ]


def test_difference_says_what_differs_and_the_verdict() -> None:
    assert str(Difference("a.b", 0.5, 0.6, 0.2)) == "a.b: committed 0.5, found 0.6: within 0.2"
    assert str(Difference("a", 1, 2, 0.2)) == "a: committed 1, found 2: NOT within 0.2"


def test_compare_data_looks_at_data_alone_and_allows_nothing() -> None:
    before = lock(data__raw="1", models__m="2")
    assert compare_data(before, lock(data__raw="1", models__m="3")) == []
    (difference,) = compare_data(before, lock(data__raw="4", models__m="2"))
    assert (difference.key, difference.accepted) == ("data/raw", False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with the check in it and a `make` that changes nothing."""
    folder = tmp_path / "repository"
    for name in ("checks/__init__.py", "checks/repro.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(
        ROOT / "fashion_mlp", folder / "fashion_mlp", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "metrics").mkdir()
    (folder / "metrics/train.json").write_text('{\n  "train_loss": 0.5\n}\n')
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock(data__raw="1", models__m="2")))
    write_make(folder, "true")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    commit(folder)
    return folder


def write_make(folder: Path, command: str) -> None:
    (folder / "Makefile").write_text(f"repro:\n\t@{command}\n")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    git(folder, *identity, "commit", "--all", "--quiet", "--message", "test")


def check(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run the check on a repository whose `make` runs a command."""
    write_make(folder, command)
    commit(folder) if command != "true" else None
    return subprocess.run(
        [sys.executable, "-m", "checks.repro"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_main_says_that_all_came_out_again(repository: Path) -> None:
    result = check(repository, "true")
    assert result.returncode == 0, result.stderr
    said = "tracked files and the hashes of all 2 outputs came out again, bit for bit, on "
    assert said in result.stdout


def test_main_accepts_metrics_within_the_tolerance_loudly(repository: Path) -> None:
    result = check(repository, "sed -i s/0.5/0.504/ metrics/train.json")
    assert result.returncode == 0
    assert "BITS DIFFER on this processor" in result.stdout
    assert "train_loss: committed 0.5, found 0.504: within 0.005" in result.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sed -i s/0.5/0.6/ metrics/train.json", "found 0.6: NOT within 0.005"),
        ("sed -i s/train_loss/loss/ metrics/train.json", "found nothing: NOT within"),
        ("sed -i s/0.5/NaN/ metrics/train.json", "found nan: NOT within"),
        ("echo >> params.yaml", "params.yaml"),
        ("touch new", "new"),
        ("sed -i \"s/md5: '1'/md5: '3'/\" dvc.lock", "data/raw: committed 1, found 3: NOT"),
    ],
)
def test_main_refuses_anything_else(repository: Path, command: str, said: str) -> None:
    result = check(repository, command)
    assert result.returncode == 1
    assert said in result.stdout
    assert "refused: more than gate.tolerances of params.yaml allow" in result.stdout


def test_main_says_that_make_failed(repository: Path) -> None:
    result = check(repository, "exit 3")
    assert result.returncode == 1
    assert "check-repro: make failed with exit status 2" in result.stderr


def test_main_notes_what_it_does_not_check(repository: Path) -> None:
    (repository / "metrics/train.json").write_text(json.dumps({"train_loss": 9.0}))
    result = check(repository, "true")
    assert result.returncode == 0
    assert "note: changes that are not committed are not checked" in result.stdout
