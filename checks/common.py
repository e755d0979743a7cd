"""Code shared by the checks."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from tabulate import tabulate

ABSENT = "absent"  # what tables show for a value that is not there


def processor() -> str:
    """Name this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> str:
    """Name what a result depends on: processor, cores and versions."""
    names = ("dvc", "tensorflow", "keras", "onnx", "onnxruntime")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def git(*arguments: str, folder: Path, **variables: str) -> bytes:
    """Run a git command in a folder, with variables set, and return what it prints.

    Raises:
        ValueError: git fails; the text is one line with git's own reason.
    """
    # English, as `find_revision` and tests look for words of it.
    environment = {**os.environ, "LC_ALL": "C", **variables}
    result = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, check=False
    )
    if result.returncode != 0:
        reason = " ".join(result.stderr.decode(errors="replace").split())
        hint = "; get the project by `git clone`" if "not a git repository" in reason else ""
        raise ValueError(f"git {arguments[0]}: {reason or 'no reason given'}{hint}")
    return result.stdout


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format rows as a Markdown table; numbers are printed as they are given."""
    text = [[str(cell) for cell in row] for row in rows]
    return tabulate(text, headers, tablefmt="github", disable_numparse=True)
