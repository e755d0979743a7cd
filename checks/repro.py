"""Prove that the committed results are reproducible: `make check-repro`.

Clones HEAD, runs `make` in the clone from nothing (environment, download, every stage) where all
that should not matter is as bad as can be (checks/hostile.py), and compares every tracked file,
dvc.lock with the hash of every output included. If bits differ, it lists what differs and by how
much. Accepted are floats in metrics and CSV files that lie within `gate.tolerances` of params.yaml,
models, and pictures if a metric differs as well; every other difference is refused. If all bits
are equal, the outputs are copied to this folder's DVC cache.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from dvc.utils.flatten import flatten

from checks.common import ABSENT, git, processor, table
from checks.hostile import FOLDER, run_make
from pipeline.guard import PIPELINE, read_stage
from pipeline.params import load_params
from tasks.runs import CLONE

COMPUTED = ("metrics/", "models/", "plots/")  # outputs whose bits depend on rounding
FOLLOWING = {".png": "picture", ".onnx": "model"}  # among them: they differ where a number does
SHOWN = 10  # differences printed for each file


class Difference(NamedTuple):
    """A value that is not reproduced, and how far a float may be off."""

    key: str
    committed: Any
    found: Any
    allowed: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether both are floats within the tolerance of each other."""
        values = (self.committed, self.found)
        if not all(isinstance(value, float) for value in values):
            return False
        return abs(self.committed - self.found) <= self.allowed


def compare(
    committed: Mapping[str, Any], found: Mapping[str, Any], tolerances: Mapping[str, float]
) -> list[Difference]:
    """List the leaves that differ between two nested mappings.

    Args:
        committed: as in git.
        found: as reproduced.
        tolerances: by key; `other` for those not listed.
    """
    before, after = flatten(committed), flatten(found)
    other = tolerances.get("other", 0.0)
    return [
        Difference(
            key,
            before.get(key, ABSENT),
            after.get(key, ABSENT),
            tolerances.get(key, other),
        )
        for key in sorted(before.keys() | after.keys())
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]


def read_csv(content: bytes) -> dict[str, Any]:
    """Read a table as cells by `column row 1`; floats are cells with a decimal point."""
    header, *lines = list(csv.reader(content.decode().splitlines())) or [[]]
    values: dict[str, Any] = {"header": header}
    for row, line in enumerate(lines, start=1):
        for name, cell in itertools.zip_longest(header, line, fillvalue=ABSENT):
            is_float = re.fullmatch(r"-?\d+\.\d*(e[-+]\d+)?", cell)
            values[f"{name} row {row}"] = float(cell) if is_float else cell
    return values


def read_lock(content: bytes) -> dict[str, Any]:
    """Read dvc.lock without what follows from outputs that depend on rounding."""
    values: dict[str, Any] = {}
    for name, stage in yaml.safe_load(content)["stages"].items():
        files = [*stage.get("deps", []), *stage.get("outs", [])]
        hashes = {f["path"]: f.get("md5") for f in files if not f["path"].startswith(COMPUTED)}
        values[name] = {"cmd": stage.get("cmd"), "params": stage.get("params"), **hashes}
    return values


READERS: dict[str, Callable[[bytes], dict[str, Any]]] = {".json": json.loads, ".csv": read_csv}


def compare_file(
    name: str, committed: bytes, found: bytes, tolerances: Mapping[str, float]
) -> list[Difference]:
    """List how a tracked file differs; for dvc.lock, empty if accepted hashes alone do.

    Raises:
        ValueError: not a file of its kind.
    """
    if name == "dvc.lock":
        return compare(read_lock(committed), read_lock(found), {})
    if name.startswith(COMPUTED) and (reader := READERS.get(Path(name).suffix)):
        return compare(reader(committed), reader(found), tolerances)
    return [Difference("content", f"{len(committed):,} bytes", f"{len(found):,} bytes")]


def judge(project: Path, changed: list[str], tolerances: Mapping[str, float]) -> bool:
    """Print how each changed file differs; return whether all of it is accepted.

    Args:
        project: the reproduced project, in a git repository.
        changed: tracked files that differ from HEAD, or are new.
        tolerances: `gate.tolerances` of params.yaml.
    """
    rows: list[tuple[object, ...]] = []
    good, metric_differs, pictures = True, False, []
    for name in changed:
        try:
            before = git("show", f"HEAD:./{name}", folder=project)
            found = compare_file(name, before, (project / name).read_bytes(), tolerances)
        except (OSError, ValueError) as error:
            rows.append((name, "", "", "", f"REFUSED: {error}"))
            good = False
            continue
        if kind := FOLLOWING.get(Path(name).suffix, "") if name.startswith(COMPUTED) else "":
            pictures += [name] if kind == "picture" else []
            rows.append((name, *found[0][:3], kind))
            continue
        metric_differs = metric_differs or name.startswith("metrics/")
        good = good and all(item.accepted for item in found)
        for item in found[:SHOWN]:
            verdict = f"within {item.allowed:g}" if item.accepted else "REFUSED"
            rows.append((name, *item[:3], verdict))
        if more := found[SHOWN:]:
            refused = sum(not item.accepted for item in more)
            rows.append((name, f"{len(more):,} more", "", "", f"{refused:,} REFUSED"))
    print(table(("file", "value", "committed", "found", "verdict"), rows))
    if pictures and not metric_differs:
        print(f"check-repro: REFUSED: {', '.join(pictures)}: no metric differs")
        return False
    return good


def changed_files(project: Path) -> list[str]:
    """List the files below a folder that differ from HEAD or are new, relative to it."""
    prefix = git("rev-parse", "--show-prefix", folder=project).decode().strip()
    status = git("status", "--porcelain", "-z", "--no-renames", "--", ".", folder=project)
    entries = [entry for entry in os.fsdecode(status).split("\0") if entry]
    return [entry[3:].removeprefix(prefix) for entry in entries]


def copy_outputs(project: Path, root: Path) -> None:
    """Copy what was made to this folder, so that it need not be made again."""
    cache = project / ".dvc/cache/files"
    for path in filter(Path.is_file, cache.rglob("*")):
        target = root / path.relative_to(project)
        if not target.exists():  # a file of DVC's cache never changes
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    if cache.is_dir():
        subprocess.run(["dvc", "checkout", "--quiet"], cwd=root, check=False)
        print("check-repro: copied the outputs to this folder")


def forget(project: Path) -> None:
    """Remove the outputs that git tracks; DVC would skip the stages that wrote them."""
    pipeline = project / PIPELINE
    if pipeline.exists():
        for name in yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]:
            for out in getattr(read_stage(name, pipeline), "outs", []):
                (project / out).unlink(missing_ok=True)


def check(root: Path, scratch: Path) -> bool:
    """Clone, run `make`, compare; return whether the results are reproduced.

    Raises:
        ValueError: git or `make` fails; the text is one line.
    """
    if git("status", "--porcelain", folder=root):
        print("check-repro: note: uncommitted changes are not checked")
    head = git("rev-parse", "--short", "HEAD", folder=root).decode().strip()
    repository, prefix = (
        git("rev-parse", option, folder=root).decode().removesuffix("\n")
        for option in ("--show-toplevel", "--show-prefix")
    )
    clone = scratch / FOLDER
    print(f"check-repro: cloning {head} to {clone} and running make there", flush=True)
    git(*CLONE, "--no-hardlinks", repository, str(clone), folder=root)
    project = clone / prefix
    forget(project)
    if status := run_make(project, scratch):
        raise ValueError(f"make failed with exit status {status}")
    if changed := changed_files(project):
        print(f"check-repro: BITS DIFFER on this processor: {processor()}")
        good = judge(project, changed, load_params().gate.tolerances)
        print(f"check-repro: {'accepted' if good else 'refused'}: {len(changed)} files differ")
        return good
    tracked = git("ls-files", "-z", folder=project).count(b"\0")
    lock = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))
    outputs = sum(len(stage.get("outs", [])) for stage in lock["stages"].values())
    print(
        f"check-repro: all {tracked} tracked files and the hashes of all {outputs} outputs "
        f"are reproduced bit for bit on {processor()}"
    )
    copy_outputs(project, root)
    return True


def main() -> int:
    """Check; the exit status says whether the results are reproduced."""
    try:
        with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as scratch:
            return 0 if check(Path.cwd(), Path(scratch)) else 1
    except (ValueError, OSError) as error:
        print(f"check-repro: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
