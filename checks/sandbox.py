"""A small project to break: its own folder, data, git repository and DVC cache."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from checks.small_data import make_data
from pipeline.environment import ROOT
from pipeline.files import sha256
from pipeline.params import Train
from pipeline.records import LOCK
from tasks.environment import mark
from tasks.processes import answer
from tasks.repair import object_of, outputs_of

LONGEST_SECONDS = 300.0  # a command that takes longer hangs
RESULTS = ("data/raw", "data/prepared", "models", "metrics", "plots", "dvc.lock")
# Of an outer `make`, as all that begins with MAKE is, or of a stage or engine.
HIDDEN = {"MFLAGS", "DVC_STAGE", "DVC_ROOT", "FASHION_MLP_ENGINE", "XLA_FLAGS"}


def edited(values: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of nested values with changes by dotted key."""
    values = copy.deepcopy(values)
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node[last] = value
    return values


class Project:
    """A project in a folder of its own, with this process' environment, and commands run in it."""

    def __init__(self, folder: Path) -> None:
        """Say where it will be: in folder/project, with DVC's state beside it."""
        self.folder = folder / "project"
        self.environment = environment() | {"DVC_SITE_CACHE_DIR": str(folder / "site")}

    def borrow_environment(self) -> None:
        """Make .venv of links alone, so that nothing that clears it harms the real one."""
        folder = self.folder / ".venv"
        folder.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name != ".installed":
                (folder / entry.name).symlink_to(entry)
        mark(folder, self.folder / "requirements.lock")

    def set(self, **changes: Any) -> None:
        """Change params.yaml: dotted keys with `__` for the dot."""
        path = self.folder / "params.yaml"
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        params = edited(yaml.safe_load(path.read_text(encoding="utf-8")), dotted)
        text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")

    def commit(self) -> None:
        """Commit all that git does not ignore."""
        author = "-c user.name=sandbox -c user.email=sandbox@localhost"
        self.good("git add --all")
        self.good(f"git {author} commit --quiet --allow-empty --message state")

    def clone(self, folder: Path) -> Project:
        """Clone the repository as another machine would: without outputs, cache and state."""
        other = Project(folder)
        answer(["git", "clone", "--quiet", "--no-hardlinks", str(self.folder), str(other.folder)])
        other.borrow_environment()
        return other

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own; its output comes as one stream.

        A command of one part is cut at spaces.
        """
        return subprocess.Popen(
            command if len(command) > 1 else command[0].split(),
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """Run a command; return its exit status, -9 if it had to be killed, and its output."""
        process = self.start(*command, **environment)
        try:
            output, _ = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        return process.returncode, output

    def good(self, *command: str, **environment: str) -> str:
        """Run a command that must succeed; return its output.

        Raises:
            RuntimeError: it failed; the text is what it printed.
        """
        status, output = self.run(*command, **environment)
        if status != 0:
            raise RuntimeError(f"{' '.join(command)}: exit status {status}\n{output}")
        return output

    def outputs(self) -> dict[str, str]:
        """Read from dvc.lock the MD5 of each output, by path."""
        return outputs_of(self.folder / LOCK)

    def object(self, name: str) -> str:
        """Name the object that an output is in DVC's cache and remotes: `files/md5/5f/a0c3…`."""
        return str(object_of(self.outputs()[name], Path()))

    def results(self) -> dict[str, str]:
        """Hash dvc.lock and every file that the pipeline writes, by path."""
        found = [path for name in RESULTS for path in files(self.folder / name)]
        return {str(path.relative_to(self.folder)): sha256(path) for path in found}


class Sandbox(Project):
    """A copy of the working tree's tracked files, with generated data and quick parameters."""

    def __init__(self, folder: Path, train: int, test: int, **changes: Any) -> None:
        """Copy and commit.

        `changes` are for `set`; all else is the paper's training and this project's params.yaml.
        """
        super().__init__(folder)
        listed = answer(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], ROOT
        )
        for name in listed.split("\0"):
            if (ROOT / name).is_file() and name != "dvc.lock":
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        dataset = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["dataset"]
        data = make_data(train, test, dataset["image_shape"], dataset["classes"])
        self.set(
            fetch__files=data.entries,
            fetch__sources=[{"folder": str(data.write(folder / "source"))}],
            preprocess__validation_images=0,
            train=Train().model_dump(mode="json"),
            export__batch_sizes=[1000],
            evaluate__examples=[0, 3],
        )
        self.set(**changes)
        self.borrow_environment()
        self.good("git init --quiet --initial-branch main")
        self.commit()

    def forget(self) -> None:
        """Remove every result: outputs, dvc.lock, DVC's cache and state, checkpoints."""
        gone = (".dvc/cache", ".dvc/tmp", ".run", "data/raw", "data/prepared", "models", "dvc.lock")
        for name in gone:
            remove(self.folder / name)
        remove(Path(self.environment["DVC_SITE_CACHE_DIR"]))
        self.good("git checkout --quiet -- .")


def environment() -> dict[str, str]:
    """This process' environment, with its Python first on PATH and without `HIDDEN`."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in HIDDEN and not key.startswith("MAKE")
    }
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def files(path: Path) -> list[Path]:
    """List the files below a folder, or the one file that a path names."""
    return sorted(item for item in (path, *path.rglob("*")) if item.is_file())


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
