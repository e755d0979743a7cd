"""Prove that the committed results come out again: `make check-repro`.

Clones HEAD into an empty folder, runs `make` there from nothing (environment, download,
training, export), and compares every tracked file; dvc.lock among them, and so the hash of
every output. Where the bits differ, it says loudly which files do and by how much, and accepts
metrics within `gate.tolerances` of params.yaml, and nothing else. Where they agree, the outputs
are taken over into this folder, so that they need not be made once more.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.params import load_params

# Files whose bits depend on arithmetic. Any other tracked file must come out again as it was.
COMPUTED = ("dvc.lock", "metrics/", "plots/")


class Difference(NamedTuple):
    """A value that did not come out again."""

    key: str
    committed: Any
    found: Any
    allowed: float

    @property
    def accepted(self) -> bool:
        """Whether both are numbers with a fraction, within the tolerance of each other."""
        values = (self.committed, self.found)
        if not all(isinstance(value, float) for value in values):
            return False
        return abs(self.committed - self.found) <= self.allowed

    def __str__(self) -> str:
        verdict = f"within {self.allowed:g}" if self.accepted else f"NOT within {self.allowed:g}"
        return f"{self.key}: committed {self.committed}, found {self.found}: {verdict}"


def leaves(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by their dotted key."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, values


def compare(
    committed: Mapping[str, Any], found: Mapping[str, Any], tolerances: Mapping[str, float]
) -> list[Difference]:
    """List the values that differ between two metrics files.

    Args:
        committed: as it lies in git.
        found: as it came out.
        tolerances: by key; `other` for those not named, 0 where that is not given either.
    """
    before, after = dict(leaves(committed)), dict(leaves(found))
    return [
        Difference(
            key,
            before.get(key, "nothing"),
            after.get(key, "nothing"),
            tolerances.get(key, tolerances.get("other", 0.0)),
        )
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def compare_data(committed: Mapping[str, Any], found: Mapping[str, Any]) -> list[Difference]:
    """List the outputs below data/ whose hash differs between two dvc.lock files.

    No arithmetic with rounding has touched those, so no tolerance holds for them.
    """

    def hashes(lock: Mapping[str, Any]) -> dict[str, str]:
        return {
            output["path"]: output["md5"]
            for stage in lock["stages"].values()
            for output in stage.get("outs", [])
            if output["path"].startswith("data/")
        }

    return compare(hashes(committed), hashes(found), {})


def run(command: list[str], folder: Path, check: bool = True) -> str:
    """Run a git command and return what it prints."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=check)
    return result.stdout


def make(clone: Path) -> None:
    """Run `make` as a newcomer would, without this environment's settings."""
    hidden = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    subprocess.run(["make"], cwd=clone, env=environment, check=True)


def judge(clone: Path, changed: list[str], tolerances: Mapping[str, float]) -> bool:
    """Say how each changed file differs, and whether all of that is acceptable."""
    print(f"check-repro: BITS DIFFER on this processor: {processor()}")
    good = True
    for name in changed:
        print(f"check-repro:   {name}")
        if not name.startswith(COMPUTED):
            good = False
            continue
        before, after = run(["git", "show", f"HEAD:{name}"], clone), (clone / name).read_text()
        if name == "dvc.lock":
            differences = compare_data(yaml.safe_load(before), yaml.safe_load(after))
        elif name.endswith(".json"):
            differences = compare(json.loads(before), json.loads(after), tolerances)
        else:
            differences = []
        for difference in differences:
            print(f"check-repro:     {difference}")
        good = good and all(difference.accepted for difference in differences)
    return good


def bring_outputs(clone: Path, root: Path) -> None:
    """Take over what was made and verified, so that it need not be made here once more."""
    cache = Path(".dvc/cache/files")
    if not (clone / cache).is_dir():
        return
    shutil.copytree(clone / cache, root / cache, dirs_exist_ok=True, copy_function=copy_new)
    subprocess.run(["dvc", "checkout", "--quiet"], cwd=root, check=False)
    print("check-repro: its outputs are in this folder now, too")


def copy_new(source: str, target: str) -> None:
    """Copy a file that is not there yet; what DVC's cache holds never changes."""
    if not Path(target).exists():
        shutil.copy2(source, target)


def processor() -> str:
    """Name this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> int:
    """Clone, run, compare; the exit status says whether the results may stand."""
    root = Path(__file__).resolve().parent.parent
    if run(["git", "status", "--porcelain"], root):
        print("check-repro: note: changes that are not committed are not checked")
    head = run(["git", "rev-parse", "--short", "HEAD"], root).strip()
    with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as folder:
        clone = Path(folder) / "fashion-mlp"
        print(f"check-repro: cloning {head} to {clone} and running make there", flush=True)
        run(["git", "clone", "--quiet", "--no-hardlinks", str(root), str(clone)], root)
        try:
            make(clone)
        except subprocess.CalledProcessError as error:
            print(f"check-repro: make failed with exit status {error.returncode}", file=sys.stderr)
            return 1
        status = run(["git", "status", "--porcelain"], clone)
        changed = [line[3:] for line in status.splitlines()]
        tracked = len(run(["git", "ls-files"], clone).splitlines())
        lock = yaml.safe_load((clone / "dvc.lock").read_text())
        outputs = sum(len(stage.get("outs", [])) for stage in lock["stages"].values())
        if not changed:
            print(
                f"check-repro: all {tracked} tracked files and the hashes of all {outputs} outputs "
                f"came out again, bit for bit, on {processor()}"
            )
            bring_outputs(clone, root)
            return 0
        if judge(clone, changed, load_params().gate.tolerances):
            print("check-repro: accepted: all of it lies within gate.tolerances of params.yaml")
            return 0
        print("check-repro: refused: more than gate.tolerances of params.yaml allow")
        return 1


if __name__ == "__main__":
    sys.exit(main())
