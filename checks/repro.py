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
from typing import Any

import yaml

from checks.common import ABSENT, git, processor, table
from checks.hostile import FOLDER, run_make
from pipeline.guard import PIPELINE, read_stage
from pipeline.params import load_params
from tasks.runs import CLONE

COMPUTED = ("metrics/", "models/", "plots/")  # outputs whose bits depend on rounding
FOLLOWING = {".png": "picture", ".onnx": "model"}  # among them: they differ where a number does
SHOWN = 10  # differences printed for each file
REFUSED = "REFUSED"  # a verdict; others are accepted

Row = tuple[str, Any, Any, str]  # a value that differs: its name, committed, found, the verdict


def compare(
    committed: Mapping[str, Any], found: Mapping[str, Any], tolerances: Mapping[str, float]
) -> list[Row]:
    """List the values that differ. Floats may, by what `tolerances` say of a key or of `other`."""
    rows = []
    for key in sorted(committed.keys() | found.keys()):
        pair = committed.get(key, ABSENT), found.get(key, ABSENT)
        if pair[0] != pair[1]:
            allowed = tolerances.get(key, tolerances.get("other", 0.0))
            floats = all(isinstance(value, float) for value in pair)
            near = floats and abs(pair[0] - pair[1]) <= allowed
            rows.append((key, *pair, f"within {allowed:g}" if near else REFUSED))
    return rows


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
        values |= {f"{name}.{key}": stage.get(key) for key in ("cmd", "params")}
        files = [*stage.get("deps", []), *stage.get("outs", [])]
        kept = (file for file in files if not file["path"].startswith(COMPUTED))
        values |= {f"{name}.{file['path']}": file.get("md5") for file in kept}
    return values


READERS: dict[str, Callable[[bytes], dict[str, Any]]] = {".json": json.loads, ".csv": read_csv}


def differences(name: str, project: Path, tolerances: Mapping[str, float]) -> list[Row]:
    """List how a tracked file differs from HEAD; of dvc.lock, none if accepted hashes alone do."""
    computed, suffix = name.startswith(COMPUTED), Path(name).suffix
    try:
        before, now = git("show", f"HEAD:./{name}", folder=project), (project / name).read_bytes()
        if name == "dvc.lock":
            return compare(read_lock(before), read_lock(now), {})
        if computed and (reader := READERS.get(suffix)):
            return compare(reader(before), reader(now), tolerances)
    except (OSError, ValueError, AttributeError) as error:
        return [("", "", "", f"{REFUSED}: {error}")]
    verdict = FOLLOWING.get(suffix, REFUSED) if computed else REFUSED
    return [("content", f"{len(before):,} bytes", f"{len(now):,} bytes", verdict)]


def judge(project: Path, changed: list[str], tolerances: Mapping[str, float]) -> bool:
    """Print how each changed file differs; return whether all of it is accepted.

    `changed` are the tracked files that differ from HEAD, or are new.
    """
    found = {name: differences(name, project, tolerances) for name in changed}
    shown: list[tuple[object, ...]] = []
    for name, rows in found.items():
        shown += [(name, *row) for row in rows[:SHOWN]]
        if more := rows[SHOWN:]:
            refused = sum(row[-1] == REFUSED for row in more)
            shown.append((name, f"{len(more):,} more", "", "", f"{refused:,} {REFUSED}"))
    print(table(("file", "value", "committed", "found", "verdict"), shown))
    pictures = [name for name, rows in found.items() if rows and rows[0][-1] == "picture"]
    if pictures and not any(name.startswith("metrics/") for name in changed):
        print(f"check-repro: {REFUSED}: {', '.join(pictures)}: no metric differs")
        return False
    return not any(row[-1].startswith(REFUSED) for rows in found.values() for row in rows)


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
