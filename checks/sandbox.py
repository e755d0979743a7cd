"""A small copy of this project to break: its own folder, data, git and DVC, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.files import sha256
from pipeline.params import FILES

ROOT = Path(__file__).resolve().parent.parent
PIXELS = (28, 28)


def write_data(folder: Path, train: int, test: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Write four IDX files of made-up images: a bright row whose place tells the class, and noise.

    Returns:
        What `fetch.files` of params.yaml says of them: bytes and SHA-256 by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for name, count in zip(FILES, (train, train, test, test), strict=True):
        if "images" in name:
            labels = random.integers(0, 10, count, np.uint8)
            images = random.integers(0, 200, (count, *PIXELS), np.uint8)
            images[np.arange(count), labels * 2] = 255
            header = np.array([0x803, count, *PIXELS], ">u4").tobytes()
            (folder / name).write_bytes(header + images.tobytes())
        else:
            header = np.array([0x801, count], ">u4").tobytes()
            (folder / name).write_bytes(header + labels.tobytes())
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in FILES
    }


class Sandbox:
    """A copy of the working tree's tracked files, with made-up data and quick parameters."""

    def __init__(self, folder: Path, train: int, test: int, **changes: Any) -> None:
        """Copy and commit; `changes` are parameters by dotted key with `__` for the dot."""
        self.folder = folder / "project"
        self.source = folder / "source"
        names = run("git ls-files --cached --others --exclude-standard", ROOT).splitlines()
        for name in names:
            if (ROOT / name).is_file() and name != "dvc.lock":
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        self.set(
            fetch__files=write_data(self.source, train, test),
            fetch__sources=[{"folder": str(self.source)}],
            export__batch_sizes=[1000],
            evaluate__examples=[0, 3],
            **changes,
        )
        self.borrow_environment()
        run("git init --quiet --initial-branch main", self.folder)
        self.commit()

    def borrow_environment(self) -> None:
        """Give `make` this process' environment, as a folder of the sandbox' own.

        Only links in it lead out, so that nothing that removes the folder harms the real one.
        """
        folder = self.folder / ".venv"
        folder.mkdir()
        for entry in Path(sys.prefix).iterdir():
            (folder / entry.name).symlink_to(entry)
        (folder / ".installed").unlink(missing_ok=True)
        (folder / ".installed").touch()  # newer than requirements.lock

    def set(self, **changes: Any) -> None:
        """Change params.yaml: dotted keys with `__` for the dot."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *sections, last = key.split("__")
            section = params
            for name in sections:
                section = section[name]
            section[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True))

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
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Run a command to its end; return its exit status and its output."""
        process = self.start(command)
        output, _ = process.communicate()
        return process.returncode, output

    def good(self, command: str) -> str:
        """Run a command that must end well; return its output.

        Raises:
            RuntimeError: it did not; the text is what it printed.
        """
        status, output = self.run(command)
        if status != 0:
            raise RuntimeError(f"{command}: exit status {status}\n{output}")
        return output

    def forget(self) -> None:
        """Remove every result: outputs, DVC's lock and cache, restart points."""
        for name in ("data/raw", "data/prepared", "models", ".dvc/cache", ".dvc/tmp", ".run"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "dvc.lock").unlink(missing_ok=True)
        run("git checkout --quiet -- .", self.folder)

    def results(self) -> dict[str, str]:
        """Hash dvc.lock and every file that the pipeline writes, by path."""
        folders = ("data/raw", "data/prepared", "models", "metrics", "plots")
        paths = [path for name in folders for path in (self.folder / name).rglob("*")]
        paths.append(self.folder / "dvc.lock")
        return {
            str(path.relative_to(self.folder)): sha256(path)
            for path in sorted(paths)
            if path.is_file()
        }


def environment() -> Mapping[str, str]:
    """This process' environment, with its Python first on PATH and without make's variables."""
    hidden = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DVC_STAGE", "DVC_ROOT", "FASHION_MLP_ENGINE"}
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, folder: Path) -> str:
    """Run a command that must end well and return what it prints."""
    result = subprocess.run(
        command.split(), cwd=folder, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{command}: {result.stderr}")
    return result.stdout
