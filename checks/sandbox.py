"""A small copy of this project to break: its own folder, data, git repository and DVC cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.files import sha256
from pipeline.params import FILES, Train
from tasks.environment import mark

ROOT = Path(__file__).resolve().parent.parent
LONGEST_SECONDS = 300.0  # a command that takes longer hangs
RESULTS = ("data/raw", "data/prepared", "models", "metrics", "plots", "dvc.lock")
# Of an outer `make`, stage or engine.
HIDDEN = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DVC_STAGE", "DVC_ROOT", "FASHION_MLP_ENGINE"}


def write_data(
    folder: Path, train: int, test: int, shape: tuple[int, int], classes: int
) -> dict[str, dict[str, Any]]:
    """Write four IDX files of generated images: noise, and one bright pixel that tells the class.

    Returns:
        What `fetch.files` of params.yaml says of them: bytes and SHA-256 by name.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for count in (train, test):
        labels = random.integers(0, classes, count, np.uint8)
        images = random.integers(0, 200, (count, *shape), np.uint8)
        images.reshape(count, -1)[np.arange(count), labels] = 255
        arrays += [images, labels]
    for name, array in zip(FILES, arrays, strict=True):
        header = np.array([0x800 + array.ndim, *array.shape], ">u4")
        (folder / name).write_bytes(header.tobytes() + array.tobytes())
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in FILES
    }


class Sandbox:
    """A copy of the working tree's tracked files, with generated data and quick parameters."""

    def __init__(self, folder: Path, train: int, test: int, **changes: Any) -> None:
        """Copy and commit.

        Args:
            folder: where the copy goes.
            train: images in the training set.
            test: images in the test set.
            changes: for `set`; all else is the paper's training and this project's params.yaml.
        """
        self._prepare(folder)
        names = run("git ls-files --cached --others --exclude-standard -z", ROOT).split("\0")
        for name in names:
            if (ROOT / name).is_file() and name != "dvc.lock":
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        dataset = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["dataset"]
        data, shape = folder / "source", tuple(dataset["image_shape"])
        self.set(
            fetch__files=write_data(data, train, test, shape, dataset["classes"]),
            fetch__sources=[{"folder": str(data)}],
            preprocess__validation_images=0,
            train=Train().model_dump(mode="json"),
            export__batch_sizes=[1000],
            evaluate__examples=[0, 3],
        )
        self.set(**changes)
        self._borrow_environment()
        run("git init --quiet --initial-branch main", self.folder)
        self.commit()

    def _prepare(self, folder: Path) -> None:
        self.folder = folder / "project"
        # DVC's state, of this copy alone.
        self.environment = environment() | {"DVC_SITE_CACHE_DIR": str(folder / "site")}

    def clone(self, folder: Path) -> Sandbox:
        """Clone the repository as another machine would: without outputs, cache and state."""
        other = Sandbox.__new__(Sandbox)
        other._prepare(folder)
        run(f"git clone --quiet --no-hardlinks {self.folder} {other.folder}", ROOT)
        other._borrow_environment()
        return other

    def _borrow_environment(self) -> None:
        """Give `make` this process' environment, as a folder of links to it."""
        folder = self.folder / ".venv"
        folder.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name != ".installed":
                (folder / entry.name).symlink_to(entry)
        mark(folder, self.folder / "requirements.lock")

    def set(self, **changes: Any) -> None:
        """Change params.yaml: dotted keys with `__` for the dot."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            *sections, last = key.split("__")
            section = params
            for name in sections:
                section = section[name]
            section[last] = value
        text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")

    def commit(self) -> None:
        """Commit all that git does not ignore."""
        author = "-c user.name=sandbox -c user.email=sandbox@localhost"
        run("git add --all", self.folder)
        run(f"git {author} commit --quiet --allow-empty --message state", self.folder)

    def start(self, command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in a process group of its own; its output comes as one stream."""
        return subprocess.Popen(
            command.split(),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            **options,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; return its exit status, -9 if it had to be killed, and its output."""
        process = self.start(command)
        try:
            output, _ = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        return process.returncode, output

    def good(self, command: str) -> str:
        """Run a command that must succeed; return its output.

        Raises:
            RuntimeError: it failed; the text is what it printed.
        """
        status, output = self.run(command)
        if status != 0:
            raise RuntimeError(f"{command}: exit status {status}\n{output}")
        return output

    def forget(self) -> None:
        """Remove every result: outputs, dvc.lock, DVC's cache and state, checkpoints."""
        gone = (".dvc/cache", ".dvc/tmp", ".run", "data/raw", "data/prepared", "models", "dvc.lock")
        for name in gone:
            remove(self.folder / name)
        remove(Path(self.environment["DVC_SITE_CACHE_DIR"]))
        run("git checkout --quiet -- .", self.folder)

    def outputs(self) -> dict[str, str]:
        """Read from dvc.lock the MD5 of each output, by path."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8"))
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        return {out["path"]: out["md5"] for out in outs}

    def object(self, name: str) -> str:
        """Name the object that an output is in DVC's cache and remotes: `files/md5/5f/a0c3…`."""
        md5 = self.outputs()[name]
        return f"files/md5/{md5[:2]}/{md5[2:]}"

    def results(self) -> dict[str, str]:
        """Hash dvc.lock and every file that the pipeline writes, by path."""
        found = [path for name in RESULTS for path in files(self.folder / name)]
        return {str(path.relative_to(self.folder)): sha256(path) for path in found}


def environment() -> dict[str, str]:
    """This process' environment, with its Python first on PATH and without `HIDDEN`."""
    kept = {key: value for key, value in os.environ.items() if key not in HIDDEN}
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


def run(command: str, folder: Path) -> str:
    """Run a command that must succeed and return what it prints."""
    result = subprocess.run(
        command.split(), cwd=folder, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{command}: {result.stderr}")
    return result.stdout
