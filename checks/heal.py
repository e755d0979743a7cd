"""Remove what is damaged, so that DVC makes it again: `make heal`, and `make` after a failure.

DVC takes a file of its cache for good by its name and its mode, not by its content: a damaged
one stays for ever, and running the stage again does not replace it. Here the content counts: what
does not have the MD5 that dvc.lock records goes, in the cache and in the workspace. What a
`kill -9` of DVC itself may have cut off in mid-write goes too: its rwlock, and dvc.lock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from pipeline.guard import LOCK, alone, md5

RWLOCK = Path(".dvc/tmp/rwlock")


class Damage(NamedTuple):
    """A file or a folder that has to go, and why."""

    path: Path
    reason: str


def left_locks() -> Iterator[Damage]:
    """Find DVC's rwlock where all that hold it were killed."""
    if RWLOCK.exists():
        holders = re.findall(r'"pid": (\d+)', RWLOCK.read_text(encoding="utf-8"))
        if holders and not any(is_dvc(int(pid)) for pid in set(holders)):
            yield Damage(RWLOCK, "what held it was killed")


def cut_off() -> Iterator[Damage]:
    """Find files of DVC's own that a kill has cut off in mid-write."""
    if RWLOCK.exists():
        try:
            json.loads(RWLOCK.read_text(encoding="utf-8"))
        except ValueError:
            yield Damage(RWLOCK, "cut off")
    if LOCK.exists():
        try:
            outputs_of()
        except (ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError):
            yield Damage(LOCK, "cut off; DVC writes it again, from its cache where that has all")


def is_dvc(pid: int) -> bool:
    """Whether a process lives and is DVC.

    DVC itself takes a killed process that nobody has reaped yet for alive, and another process
    that got its number as well.
    """
    command = ["ps", "-o", "stat=,args=", "-p", str(pid)]
    line = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return "dvc" in line and not line.lstrip().startswith("Z")


def outputs_of(lock: Path = LOCK) -> dict[str, str]:
    """Read the MD5 of each output that dvc.lock records, by path."""
    if not lock.exists():
        return {}
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def damaged(cache: Path) -> Iterator[Damage]:
    """Find cached and present outputs whose content is not what dvc.lock records.

    Args:
        cache: DVC's cache folder.
    """
    for name, number in outputs_of().items():
        cached = cache / "files" / "md5" / number[:2] / number[2:]
        present = Path(name)
        if number.endswith(".dir"):
            yield from damaged_folder(cached, present, cache)
            continue
        if not cached.is_file():
            continue  # metrics and the like are in git, not in the cache: DVC sees for itself
        for path in (cached, present):
            if path.is_file() and md5(path) != number:
                yield Damage(path, f"expected MD5 {number}, got {md5(path)}")


def damaged_folder(listing: Path, present: Path, cache: Path) -> Iterator[Damage]:
    """Find what is damaged of a folder, by the cached listing of its files."""
    if not listing.is_file():
        return
    if md5(listing) != listing.parent.name + listing.name.removesuffix(".dir"):
        yield Damage(listing, "a listing whose MD5 is not its name")
        return
    for entry in json.loads(listing.read_text(encoding="utf-8")):
        cached = cache / "files" / "md5" / entry["md5"][:2] / entry["md5"][2:]
        for path in (cached, present / entry["relpath"]):
            if path.is_file() and md5(path) != entry["md5"]:
                yield Damage(path, f"expected MD5 {entry['md5']}, got {md5(path)}")


def remove(damage: Damage) -> None:
    """Remove it, saying so."""
    if damage.path.is_dir():
        shutil.rmtree(damage.path)
    else:
        damage.path.unlink(missing_ok=True)
    print(f"heal: removed {damage.path}: {damage.reason}")


def cache_folder() -> Path:
    """Ask DVC where its cache is."""
    command = ["dvc", "cache", "dir"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return Path(os.path.relpath(answer.stdout.strip()))


def main() -> int:
    """Remove what is damaged; 0 where there was any, 1 where all is whole.

    `--locks` looks at no more than locks that a killed DVC left.
    """
    for damage in left_locks():
        remove(damage)
    if "--locks" in sys.argv:
        return 0
    found = list(cut_off())
    for damage in found:
        remove(damage)
    with alone("heal"):
        for damage in damaged(cache_folder()):
            remove(damage)
            found.append(damage)
    if not found and "--quiet" not in sys.argv:
        print(f"heal: all {len(outputs_of())} outputs of dvc.lock are whole, here and in the cache")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
