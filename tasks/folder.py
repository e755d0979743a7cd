"""Whether the pipeline can run in this folder: looked at before anything is installed."""

from __future__ import annotations

import configparser
import errno
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from tasks.processes import VENV, answer

GIVEN = ("dvc.yaml", "params.yaml", ".dvc/config")  # what a clone has, and DVC can't do without
WRITTEN = (".dvc", ".run", "data", "models", "metrics", "plots")
READ = os.R_OK | os.X_OK  # of a folder
WRITE = READ | os.W_OK
OURS = "tests"  # a package in .venv installs one of this name, which nothing here imports
UNUSABLE = ":{}"  # PATH is cut at colons; DVC's progress bar takes braces for its own


def look() -> None:
    """Look at the folder's name, its repository and its files.

    Raises:
        RuntimeError: DVC can't run here; the text says why and what to do.
        OSError: a folder or a file is not this user's to read or write.
    """
    look_at_name(Path.cwd())
    tracked = look_at_git()
    folders = sorted({parent for path in tracked for parent in path.parents})
    for path in folders:
        look_at_folder(path)
    for name in GIVEN:
        look_at_given(Path(name))
    for path, needed in used(folders, tracked):
        if not os.access(path, needed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def look_at_name(path: Path) -> None:
    """Refuse a folder whose name some program here can't read.

    Raises:
        RuntimeError: says what is wrong with it.
    """
    found = [f"`{sign}`" for sign in UNUSABLE if sign in str(path)]
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        found.append("bytes that are not UTF-8")
    if found:
        raise RuntimeError(f"{str(path)!a} has {' and '.join(found)} in its name; rename it")


def look_at_modules() -> None:
    """Refuse a file that hides a module of Python's, or of a package, from what runs here.

    `python -m` looks in the current folder first: beside a random.py, NumPy imports that one.

    Raises:
        RuntimeError: names it.
    """
    folder = str(Path.cwd())
    libraries = [path for path in sys.path if path not in ("", folder)]
    libraries += map(str, VENV.glob("lib/python3*/site-packages"))
    for path in sorted(Path().iterdir()):
        name = path.name.split(".")[0]
        here, there = (PathFinder.find_spec(name, of) for of in ([folder], libraries))
        if here and here.has_location and there and there.has_location and name != OURS:
            raise RuntimeError(
                f"{path} hides {there.origin} from every program that runs in this folder; "
                f"rename it, or move it elsewhere"
            )


def look_at_given(path: Path) -> None:
    """Refuse to start without a file that a clone has; DVC's own words would be a traceback.

    Raises:
        RuntimeError: it is not there, or not of its kind.
    """
    fault = "" if path.is_file() else "no such file"
    try:
        if path.suffix != ".yaml" and not fault:
            configparser.RawConfigParser(strict=False).read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        fault = "DVC can't read it"
    if fault:
        raise RuntimeError(f"{path}: {fault}; `git checkout HEAD -- {path}` brings it back")


def look_at_git() -> list[Path]:
    """Look whether this folder is the root of a git repository, which DVC needs.

    Returns:
        The files that git tracks.

    Raises:
        RuntimeError: it is not; the text has git's own reason.
    """
    try:
        prefix = answer(["git", "rev-parse", "--show-prefix"]).strip()
        tracked = answer(["git", "ls-files", "-z"]).split("\0")
    except FileNotFoundError:
        raise RuntimeError("git is missing; on Debian or Ubuntu: apt-get install git") from None
    except RuntimeError as error:
        raise RuntimeError(f"{error}; `git clone` the project and work in that clone") from None
    if prefix:
        raise RuntimeError(
            f"this folder is {prefix} of another git repository; `git clone` the project elsewhere"
        )
    return [Path(name) for name in tracked if name]


def look_at_folder(path: Path) -> None:
    """Refuse a link or a file in place of a folder; DVC keeps no output where a link leads.

    Raises:
        RuntimeError: it is one.
    """
    if path.is_symlink() or path.is_file():
        raise RuntimeError(
            f"{path}: a link or a file in place of a folder: remove it; "
            f"`git checkout HEAD -- {path}` brings the folder back. What may lie elsewhere "
            f"are the data (FASHION_MNIST_DIR) and DVC's cache (`dvc cache dir --local`)"
        )


def used(folders: list[Path], tracked: list[Path]) -> Iterator[tuple[Path, int]]:
    """Yield the folders and files that a run uses, and what it must be able to do with each.

    Args:
        folders: those of the tracked files, outer ones first.
        tracked: files, which may have been removed.
    """
    yield Path(), WRITE
    yield from ((path, READ) for path in folders if path.is_dir())
    yield from ((path, os.R_OK) for path in tracked if os.access(path, os.F_OK))
    for top in filter(Path.is_dir, map(Path, WRITTEN)):
        yield top, WRITE
        for folder, inner, files in os.walk(top):
            yield from ((Path(folder, name), WRITE) for name in inner)
            paths = [Path(folder, name) for name in files]
            yield from ((path, os.R_OK) for path in paths if not path.is_symlink())
    if Path("dvc.lock").is_file():
        yield Path("dvc.lock"), os.R_OK | os.W_OK
