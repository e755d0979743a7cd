"""gate, check-repro and check-lock: in a real repository, with a `make` that changes some files."""

import json
import os
import pwd
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from checks import gate, repro
from checks.common import ABSENT
from checks.lock import stale
from checks.sandbox import edited
from pipeline.environment import ROOT
from tests.conftest import paper_values
from tests.processes import git

PICTURE = b"\x89PNG\r\n\x1a\n\xff\xfe"  # not UTF-8
METRICS = {"train_loss": 0.5, "images": 3, "test_accuracy": 0.75}
LOCK = {
    "stages": {
        "one": {"cmd": "ls", "outs": [{"path": "data/raw", "md5": "1"}]},
        "two": {"cmd": "ls", "outs": [{"path": "models/m", "md5": "2"}]},
    }
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a folder of a repository, the current folder."""
    folder = tmp_path / "repository/folder with a space"
    for name in ("metrics", "plots"):
        (folder / name).mkdir(parents=True)
    tolerances = {"train_loss": 0.005, "other": 0.05}
    values = edited(paper_values(), {"gate.tolerances": tolerances})
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "metrics/train.json").write_text(json.dumps(METRICS, indent=1))
    (folder / "plots/history.csv").write_text("epoch,loss,class\n1,0.25,Bag\n")
    (folder / "plots/history.png").write_bytes(PICTURE)
    (folder / "dvc.lock").write_text(yaml.safe_dump(LOCK))
    git(folder.parent, "init", "--initial-branch", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--message", "state")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["check"])
    return folder


@pytest.mark.parametrize(
    ("key", "before", "now", "passes", "verdict"),
    [
        ("test_loss", 0.3, 0.36, False, "WORSE by more than 0.05"),
        ("test_loss", 0.3, 0.34, True, "worse, within 0.05"),
        ("test_loss", 0.3, 0.2, True, "better"),
        ("test_accuracy", 0.9, 0.8, False, "WORSE by more than 0.05"),
        ("test_calibration_error", 0.0, 0.1, False, "WORSE by more than 0.05"),
        ("within_bound", 70000, 69999, False, "WORSE by more than 0.05"),
        ("test_loss", 0.3, float("nan"), False, "NOT A NUMBER"),
        ("test_loss", 0.3, None, False, "NOT A NUMBER"),
        ("test_loss", 0.3, "low", False, "NOT A NUMBER"),
        ("test_loss", 0.3, ABSENT, False, "MISSING"),
        ("test_loss", ABSENT, 0.3, True, "new"),
        ("argmax_certified", 9, 7, True, "changed"),
        ("latency", 3, 3, False, "UNKNOWN METRIC: add it to BETTER in checks/gate.py"),
    ],
)
def test_judge_knows_which_way_is_better(
    key: str, before: object, now: object, passes: bool, verdict: str
) -> None:
    assert gate.judge(key, before, now, {"other": 0.05}) == (passes, verdict)


def test_every_metric_of_the_pipeline_is_known() -> None:
    for path in (ROOT / "metrics").glob("*.json"):
        for key, value in json.loads(path.read_bytes()).items():
            assert gate.judge(key, value, value, {}) == (True, "same")


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (json.dumps(METRICS), 0, "| train_loss    | 0.5    | 0.5    | same      |"),
        (json.dumps(METRICS | {"train_loss": 0.6}), 1, "gate: refused: 1 of 3 metrics"),
        (json.dumps(METRICS | {"latency": 1}), 1, "gate: refused: 1 of 4 metrics"),
        ("{}", 1, "gate: refused: 3 of 3 metrics"),
        (None, 1, "gate: refused: 3 of 3 metrics"),
        ("{", 2, "gate: error: metrics/train.json: not JSON"),
        ("[1]", 2, "gate: error: metrics/train.json: expected an object"),
    ],
)
def test_gate_compares_with_the_main_branch(
    content: str | None, status: int, says: str, project: Path, capsys: Any
) -> None:
    path = project / "metrics/train.json"
    path.unlink() if content is None else path.write_text(content)
    assert gate.main() == status
    printed = capsys.readouterr()
    assert says in printed.out + printed.err
    assert printed.err.count("\n") == (status == 2)


def test_gate_refuses_a_metric_that_stands_in_two_files(project: Path, capsys: Any) -> None:
    (project / "metrics/kept.json").write_text(json.dumps({"train_loss": 0.1}))
    assert gate.main() == 2
    assert "metrics/train.json: train_loss stands in another file too" in capsys.readouterr().err


@pytest.mark.parametrize("revision", ["v9", "HEAD; touch x", "$(touch x)", "--all"])
def test_gate_names_a_revision_that_does_not_exist(
    project: Path, revision: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["gate", revision])
    assert gate.main() == 2
    assert f"git has no revision {revision}; name one: " in capsys.readouterr().err
    assert not (project / "x").exists()


def check_repro(project: Path, command: str, capfd: Any) -> tuple[int, str]:
    """Run the check on a project whose `make` runs a command."""
    (project / "Makefile").write_text(f"repro:\n\t@{command}\n")
    git(project, "add", "--all")
    git(project, "commit", "--message", "test")
    status = repro.main()
    printed = capfd.readouterr()
    return status, printed.out + printed.err


LOSS, OTHER_MODEL = "metrics/train.json", "sed -i.bak \"s/md5: '2'/md5: '3'/\" dvc.lock"


@pytest.mark.parametrize(
    ("command", "accepted", "says"),
    [
        (f"sed -i.bak s/0.5/0.504/ {LOSS}", True, "| 0.504   | within 0.005 |"),
        ("sed -i.bak s/0.25/0.26/ plots/history.csv", True, "| 0.26    | within 0.05 |"),
        (f"sed -i.bak s/0.75/0.79/ {LOSS}; echo >> plots/history.png", True, "| picture "),
        (f"sed -i.bak s/0.5/0.6/ {LOSS}", False, "| 0.6     | REFUSED   |"),
        (f"sed -i.bak s/0.5/NaN/ {LOSS}", False, "| nan     | REFUSED   |"),
        (f"sed -i.bak s/train_loss/loss/ {LOSS}", False, "| absent  | REFUSED   |"),
        (f"sed -i.bak s/3/4/ {LOSS}", False, "| images  | 3           | 4 "),
        (f"echo [1] > {LOSS}", False, "REFUSED: 'list' object"),
        (f"rm {LOSS}", False, "REFUSED: [Errno 2] No such file"),
        ("sed -i.bak s/Bag/Coat/ plots/history.csv", False, "class row 1 | Bag         | Coat "),
        ("echo >> plots/history.png", False, "REFUSED: plots/history.png: no metric differs"),
        ("echo >> params.yaml", False, "| params.yaml | content | "),
        ("touch new", False, "REFUSED: git show: fatal: path "),
        (
            "sed -i.bak \"s/md5: '1'/md5: '3'/\" dvc.lock",
            False,
            "| one.data/raw | 1           | 3 ",
        ),
        ("sed -i.bak 's/cmd: ls/cmd: rm/' dvc.lock", False, "one.cmd"),
    ],
)
def test_check_repro_accepts_what_is_within_the_tolerances_alone(
    command: str, accepted: bool, says: str, project: Path, capfd: Any
) -> None:
    command = f"{command}; {OTHER_MODEL}; rm -f *.bak */*.bak"
    status, printed = check_repro(project, command, capfd)
    assert "BITS DIFFER on this processor" in printed
    assert says in printed
    assert f"check-repro: {'accepted' if accepted else 'refused'}: " in printed
    assert status == (0 if accepted else 1)


def test_check_repro_runs_in_a_hostile_place_and_not_as_root(project: Path, capfd: Any) -> None:
    says = "user $$(id -u), $$KERAS_MAX_EPOCHS epoch, shell $$SHELL, in $$(pwd)"
    _, printed = check_repro(project, f'echo "{says}"', capfd)
    user = os.geteuid() or pwd.getpwnam("nobody").pw_uid
    assert f"user {user}, 1 epoch, shell /nowhere, in /" in printed
    assert "/папка с пробелом/folder with a space\n" in printed


def test_check_repro_makes_the_outputs_that_git_tracks_anew(project: Path, capfd: Any) -> None:
    stage = {"cmd": "true", "metrics": [{LOSS: {"cache": False}}]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    status, printed = check_repro(project, "true", capfd)
    assert (status, "REFUSED: [Errno 2] No such file" in printed) == (1, True)


def test_check_repro_says_that_all_is_reproduced_or_that_make_failed(
    project: Path, capfd: Any
) -> None:
    status, printed = check_repro(project, "true", capfd)
    same = "all 6 tracked files and the hashes of all 2 outputs are reproduced bit for bit on "
    assert (status, same in printed) == (0, True)
    check_repro(project, "exit 3", capfd)
    (project / LOSS).write_text("{}")
    assert repro.main() == 2
    printed = "".join(capfd.readouterr())
    assert "check-repro: error: make failed with exit status 2\n" in printed
    assert "note: uncommitted changes are not checked" in printed


@pytest.mark.parametrize("check", [gate, repro], ids=["gate", "repro"])
def test_without_a_repository_git_gives_the_reason_in_one_line(
    check: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (project.parent / ".git").rename(project / "other")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/")
    assert check.main() == 2
    printed = capsys.readouterr().err
    assert "fatal: not a git repository" in printed
    assert printed.endswith("; get the project by `git clone`\n")
    assert printed.count("\n") == 1


def test_stale_lists_stages_that_would_run_or_come_from_the_run_cache() -> None:
    output = (
        "Stage 'fetch' didn't change, skipping\n"
        "Stage 'preprocess' is cached - skipping run, checking out outputs\n"
        "Running stage 'train':\n> python -m stages.train\n"
    )
    assert stale(output) == ["preprocess", "train"]
