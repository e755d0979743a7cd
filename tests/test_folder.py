"""A folder that the pipeline can't run in is refused in one line, before anything is installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.environment import ROOT
from tasks.folder import look_at_modules

NOBODY = 65534
FILES = ("dvc.yaml", "params.yaml", "data/raw/.gitignore", "stages/fetch.py")


@pytest.fixture
def project() -> Iterator[Path]:
    """The Makefile's program in a repository that belongs to a user who is not root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "project"
        shutil.copytree(ROOT / "tasks", folder / "tasks")
        for path in (".dvc/config", *FILES):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
        git = ["git", "-c", "user.name=x", "-c", "user.email=x", "-C", str(folder)]
        for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"]):
            subprocess.run([*git, *command], check=True)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", folder], check=True)
        yield folder
        subprocess.run(["chmod", "-R", "u+rwX", name], check=True)


def make(folder: Path) -> str:
    """Run what `make` runs, as no more than that user; no Python is there to install by."""
    other: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    result = subprocess.run(
        ["sh", "tasks/start.sh", "repro"],
        cwd=folder,
        env=os.environ | {"PYTHON": "python3", "HOME": str(folder), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=False,
        **(other if os.geteuid() == 0 else {}),
    )
    assert result.returncode == 1
    assert not (folder / ".run").exists()  # nothing has begun
    (line,) = result.stderr.splitlines()
    return line


DENIED = "Permission denied; make it yours and writable, or work in a clone of your own"
LINK = "a link or a file in place of a folder: remove it; `git checkout HEAD -- {name}` brings"
NO_FILE = "no such file; `git checkout HEAD -- {name}` brings it back"
# By what a shell does to a file or a folder.
FAULTS = {
    ("data/raw", "rm -r data/raw; ln -s /dev/shm data/raw"): LINK,
    ("data", "rm -r data; ln -s /nowhere data"): LINK,
    (".dvc", "rm -r .dvc; touch .dvc"): LINK,
    ("dvc.yaml", "rm dvc.yaml"): NO_FILE,
    ("params.yaml", "rm params.yaml; mkdir params.yaml"): NO_FILE,
    (
        ".dvc/config",
        "echo garbage > .dvc/config",
    ): "DVC can't read it; `git checkout HEAD -- {name}`",
    ("data/raw", "chmod 555 data/raw"): DENIED,
    ("stages", "chmod 000 stages"): DENIED,
    ("params.yaml", "chmod 000 params.yaml"): DENIED,
    (".git/index", ": > .git/index"): "index file smaller than expected; `git clone` the project",
}


@pytest.mark.parametrize(("name", "command"), FAULTS)
def test_a_fault_of_the_folder_is_named_with_its_remedy(
    name: str, command: str, project: Path
) -> None:
    subprocess.run(command, shell=True, cwd=project, check=True)
    line = make(project)
    assert f"{name}: " + FAULTS[name, command].format(name=name) in line


@pytest.mark.parametrize("name", ["random.py", "json/__init__.py", "types.so"])
def test_a_file_that_hides_a_module_is_named_and_another_is_not(name: str, project: Path) -> None:
    for other in ("analysis.py", "numpy/notes.txt"):
        (project / other).parent.mkdir(exist_ok=True)
        (project / other).touch()
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("raise SystemExit('a foreign module was imported')")
    assert make(project).startswith(f"make: {name.split('/')[0]} hides ")


def test_no_name_here_hides_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    look_at_modules()


@pytest.mark.parametrize("name", ["a:b", "a{b}", b"a\xffb"])
def test_a_name_that_some_program_cannot_read_is_refused(name: str | bytes, project: Path) -> None:
    renamed = project.rename(project.with_name(os.fsdecode(name)))
    assert make(renamed).endswith(" in its name; rename it")


def test_another_users_repository_is_refused_with_gits_reason(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own; chown needs root
    line = make(project)
    assert "fatal: detected dubious ownership in repository at" in line
    assert line.endswith("; `git clone` the project and work in that clone")
