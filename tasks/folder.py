"""Whether the pipeline can run in this folder: looked at before anything is installed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from tasks.processes import answer

OUTPUTS = ("data", "models", "metrics", "plots")
FOLDER = os.R_OK | os.W_OK | os.X_OK
UNUSABLE = ":{}"  # PATH is cut at colons; DVC's progress bar takes braces for its own


def look() -> None:
    """Look at the folder's name, its repository and its files.

    Raises:
        RuntimeError: DVC can't run here; the text says why and what to do.
        OSError: a folder or a file is not this user's to read or write.
    """
    look_at_name(Path.cwd())
    look_at_git()
    for path, needed in used():
        if path.is_symlink() and path.parts[0] in OUTPUTS:
            raise RuntimeError(
                f"{path} is a link, and DVC keeps outputs in this folder alone: remove it; what "
                f"may lie elsewhere are the data (FASHION_MNIST_DIR) and DVC's cache "
                f"(`dvc cache dir --local`)"
            )
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


def look_at_git() -> None:
    """Look whether this folder is the root of a git repository, which DVC needs.

    Raises:
        RuntimeError: it is not; the text has git's own reason.
    """
    try:
        prefix = answer(["git", "rev-parse", "--show-prefix"]).strip()
    except FileNotFoundError:
        raise RuntimeError("git is missing; on Debian or Ubuntu: apt-get install git") from None
    except RuntimeError as error:
        raise RuntimeError(f"{error}; `git clone` the project and work in that clone") from None
    if prefix:
        raise RuntimeError(
            f"this folder is {prefix} of another git repository; `git clone` the project elsewhere"
        )


def used() -> Iterator[tuple[Path, int]]:
    """Yield the folders and files that a run uses, and what it must be able to do with each."""
    yield Path(), FOLDER
    if Path("dvc.lock").is_file():
        yield Path("dvc.lock"), os.R_OK | os.W_OK
    for top in filter(os.path.isdir, (".dvc", ".run", *OUTPUTS)):
        yield Path(top), FOLDER
        for folder, folders, files in os.walk(top):
            yield from ((Path(folder, name), FOLDER) for name in folders)
            paths = [Path(folder, name) for name in files]
            yield from ((path, os.R_OK) for path in paths if not path.is_symlink())
