"""Remove what is damaged, so that DVC makes it again: `make heal`, and `make` after a failure.

DVC trusts a file of its cache by name and mode, not by content: a damaged one stays for ever, and
running the stage again does not replace it. Here the content counts: what does not have the MD5
that dvc.lock records goes, in the cache and in the workspace. So does what a `kill -9` or a power
cut may have left of DVC's own files: locks, dvc.lock, the run cache, the databases of its state.

Runs inside .venv.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from pipeline.files import md5
from pipeline.guard import ALONE, CHECKPOINT, PIPELINE, alone, read_stage
from pipeline.params import PARAMS_FILE
from pipeline.records import BY_HAND, LOCK
from tasks.processes import DATABASES, STATE, answer, explain
from tasks.runs import REPAIRED, RWLOCK, VERIFIED, signature

KERAS = STATE / "keras/keras.json"  # KERAS_HOME, in pipeline/environment.py
RWLOCKS = (RWLOCK, Path(".dvc/tmp/exps/rwlock"))
OWN_FILES = (
    *RWLOCKS,
    *(Path(".dvc/tmp/lock"), Path(".dvc/tmp/rwlock.lock"), Path(".dvc/tmp/btime")),
    *(ALONE, BY_HAND, CHECKPOINT, KERAS, VERIFIED),
)
# Folders that a file may lie in place of, here and in DVC's cache.
OWN_FOLDERS = (Path(".dvc/tmp"), Path(".dvc/tmp/exps"), DATABASES, KERAS.parent)
CACHE_FOLDERS = ("files", "files/md5", "files/md5/??", "runs", "runs/*", "runs/*/*")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
UNREADABLE = (ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError, OSError)


class Damage(NamedTuple):
    """A file or a folder that has to go, and why."""

    path: Path
    reason: str


def left_locks() -> Iterator[Damage]:
    """Find DVC's lock files that are garbage, or whose holders were all killed."""
    for path in filter(Path.is_file, RWLOCKS):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            readers = [entry for entries in content.get("read", {}).values() for entry in entries]
            pids = {int(entry["pid"]) for entry in [*readers, *content.get("write", {}).values()]}
        except UNREADABLE:
            yield Damage(path, "cut off")
            continue
        if pids and not any(is_dvc(pid) for pid in pids):
            yield Damage(path, "what held it was killed")


def misplaced() -> Iterator[Damage]:
    """Find files in place of folders, and folders in place of files, of DVC's own and ours."""
    for path in filter(Path.is_dir, OWN_FILES):
        yield Damage(path, "a folder in place of a file")
    for path in filter(Path.is_file, OWN_FOLDERS):
        yield Damage(path, "a file in place of a folder")


def is_dvc(pid: int) -> bool:
    """Whether a process lives and is DVC.

    DVC itself treats an unreaped zombie as running, and another process that got its number.
    """
    try:
        process = psutil.Process(pid)
        programs = {Path(part).name for part in process.cmdline()}  # of `dvc` or `python -m dvc`
        return process.status() != psutil.STATUS_ZOMBIE and "dvc" in programs
    except psutil.AccessDenied:
        return True  # somebody else's: it lives
    except psutil.Error:
        return False


def databases() -> Iterator[Damage]:
    """Find databases of DVC's state that SQLite can't read, for which each command of DVC fails."""
    for path in DATABASES.rglob("*"):
        if path.suffix == ".db" and (path.is_dir() or not is_database(path)):
            yield Damage(path.parent, "a database that can't be read; DVC makes it again")
        elif path.is_file() and ".db" not in path.suffix:
            yield Damage(path, "a file in place of a folder")


def texts(cache: Path) -> Iterator[Damage]:
    """Find files of DVC's own that are not what it writes: dvc.lock, entries of the run cache.

    Raises:
        ValueError: dvc.yaml, which is not DVC's own, can't be read.
    """
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.strictyaml import validate

    read_stages(PIPELINE)
    try:
        if LOCK.exists():
            text = LOCK.read_text(encoding="utf-8")
            validate(yaml.safe_load(text), COMPILED_LOCKFILE_SCHEMA, text=text, path=str(LOCK))
            if any(entry.get("hash", "md5") != "md5" for entry in entries_of()):
                raise ValueError
            outputs_of()
    except (*UNREADABLE, DvcException):
        yield Damage(LOCK, "not what DVC writes")
    folders = [cache, *(path for of in CACHE_FOLDERS for path in cache.glob(of))]
    for path in filter(Path.is_file, folders):
        yield Damage(path, "a file in place of a folder")
    for path in (cache / "runs").glob("*/*/*"):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not content["cmd"]:
                raise ValueError
        except UNREADABLE:
            yield Damage(path, "no entry of the run cache")


def is_database(path: Path) -> bool:
    """Whether SQLite finds a file whole; one that is in use counts as whole."""
    try:
        address = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, timeout=0, uri=True)) as connection:
            found: tuple[str] = connection.execute("PRAGMA quick_check(1)").fetchone()
            return found[0] == "ok"
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


def entries_of(lock: Path = LOCK, keys: tuple[str, ...] = ("deps", "outs")) -> list[dict[str, Any]]:
    """Read what dvc.lock records of each file and folder.

    Of the stages that dvc.yaml has: dvc.lock keeps those that were removed from there.
    """
    if not lock.exists():
        return []
    recorded = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    stages = read_stages(lock.with_name(PIPELINE.name))
    return [
        entry
        for name in recorded.keys() & stages.keys()
        for key in keys
        for entry in recorded[name].get(key, [])
    ]


def outputs_of(lock: Path = LOCK) -> dict[str, str]:
    """Read the MD5 of each output that dvc.lock records and dvc.yaml declares, by path.

    Raises:
        ValueError: one is no MD5; what would be removed follows from path and MD5.
    """
    pipeline = lock.with_name(PIPELINE.name)
    stages = [read_stage(name, pipeline) for name in read_stages(pipeline)]
    declared = {path.as_posix() for stage in stages if stage for path in stage.outs}
    found = {entry["path"]: entry["md5"] for entry in entries_of(lock, ("outs",))}
    if wrong := [path for path, number in found.items() if not MD5.fullmatch(number)]:
        raise ValueError(f"{lock}: {wrong[0]}: expected an MD5, got {found[wrong[0]]}")
    return {path: number for path, number in found.items() if path in declared}


def read_stages(pipeline: Path) -> dict[str, Any]:
    """Read the stages of dvc.yaml.

    Raises:
        ValueError: there are none.
        OSError: it can't be read.
    """
    try:
        stages: dict[str, Any] = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]
        if not all(isinstance(stage, dict) for stage in stages.values()):
            raise TypeError
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{pipeline}: expected stages, as DVC reads them") from None
    return stages


def object_of(number: str, cache: Path) -> Path:
    """Return where DVC's cache keeps what has an MD5."""
    return cache / "files/md5" / number[:2] / number[2:]


def read_listing(path: Path) -> list[tuple[str, str]]:
    """Read a cached listing: MD5 and relative path of each file of a folder.

    Raises:
        ValueError: its own MD5 is not its name, what it names lies outside the
            output or has no MD5, or it can't be read.
    """
    if md5(path) != path.parent.name + path.name.removesuffix(".dir"):
        raise ValueError
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    found = [(entry["md5"], entry["relpath"]) for entry in entries]
    for number, inner in found:
        if not MD5.fullmatch(number) or Path(inner).is_absolute() or ".." in Path(inner).parts:
            raise ValueError
    return found


def recorded_files(cache: Path) -> Iterator[tuple[Path, str] | Damage]:
    """Yield each output file and its MD5, by the listing where the output is a folder.

    In place of a folder whose listing is damaged comes the damage.
    """
    for name, number in outputs_of().items():
        if not number.endswith(".dir"):
            yield Path(name), number
            continue
        listing = object_of(number, cache)
        if not listing.exists():
            continue
        try:
            yield from ((Path(name) / path, of) for of, path in read_listing(listing))
        except UNREADABLE:
            yield Damage(listing, "a listing whose MD5 is not its name")


def compare(cache: Path, cached: bool) -> tuple[list[Damage], list[Path]]:
    """Compare outputs with the MD5 that dvc.lock records.

    With `cached`, every object of the cache as well, not only of outputs that differ.

    Returns:
        What differs, and the files that do not.
    """
    found, whole = [], []
    for entry in recorded_files(cache):
        if isinstance(entry, Damage):
            found.append(entry)
            continue
        path, number = entry
        here = differs(path, number)
        if here:
            found.append(here)
        elif path.is_file():
            whole.append(path)
        if (cached or here) and (there := differs(object_of(number, cache), number)):
            found.append(there)
    return found, whole


def differs(path: Path, number: str) -> Damage | None:
    """Say how a file differs from its MD5; None where it does not, or is not there."""
    if path.is_dir():
        return Damage(path, "a folder in place of a file")
    if not path.is_file():
        return None
    got = md5(path)
    return None if got == number else Damage(path, f"expected MD5 {number}, got {got}")


def sizes() -> Iterator[Damage]:
    """Find a size in a current dvc.lock that is not the file's: DVC compares MD5s alone."""
    for entry in entries_of():
        path = Path(entry["path"])
        if not path.exists():
            continue
        files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
        found = {"size": sum(one.stat().st_size for one in files), "nfiles": len(files)}
        if wrong := [key for key in found if entry.get(key, found[key]) != found[key]]:
            yield Damage(LOCK, f"{wrong[0]} of {path}: expected {found[wrong[0]]}")
            return


def remove(damage: Damage) -> None:
    """Remove it, saying so; dvc.lock comes back as git has it.

    Raises:
        OSError: it can't be removed, or is a folder that some person may have put there.
    """
    path = damage.path
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif path.is_symlink():
        path.unlink()
    elif {".dvc", ".run"} & set(path.parts):
        shutil.rmtree(path)
    else:
        path.rmdir()
    print(f"heal: removed {path}: {damage.reason}")
    if (
        path == LOCK
        and not subprocess.run(
            ["git", "checkout", "--quiet", "--", str(LOCK)], capture_output=True, check=False
        ).returncode
    ):
        print(f"heal: {path} is as in git's index again")


def removed(damages: Iterable[Damage]) -> list[Damage]:
    """Remove each, and return them."""
    found = list(damages)
    for damage in found:
        remove(damage)
    return found


def cache_folder() -> Path:
    """Ask DVC where its cache is.

    Raises:
        RuntimeError: it does not say; the text has its reason.
    """
    return Path(answer(["dvc", "cache", "dir"]).strip())


def verify(cache: Path) -> list[Damage]:
    """Compare the outputs after a run; note the files, so that none is read again unchanged."""
    found, whole = compare(cache, cached=False)
    found = found or list(sizes())
    if not found:
        listings = [object_of(number, cache) for number in outputs_of().values()]
        seen = [LOCK, PARAMS_FILE, *whole, *(path for path in listings if path.suffix == ".dir")]
        known = {str(path): signature(path) for path in seen if path.is_file()}
        VERIFIED.parent.mkdir(exist_ok=True)
        VERIFIED.write_text(json.dumps(known), encoding="utf-8")
    return found


def repair(options: set[str]) -> list[Damage]:
    """Remove what is damaged, and return it. For the options, see `main`.

    Raises:
        OSError: something can't be read or removed.
        ValueError: dvc.yaml can't be read.
        RuntimeError: DVC does not say where its cache is.
    """
    found = removed(misplaced()) + removed(left_locks())
    if "--locks" not in options:
        with alone("heal"):
            if "--verify" not in options:
                found += removed(databases())  # first: with a damaged one, DVC answers nothing
            cache = cache_folder()
            if "--verify" in options:
                found += removed(verify(cache))
            else:
                found += removed(texts(cache))
                found += removed(compare(cache, cached=True)[0])
    return found


def main() -> int:
    """Remove what is damaged; REPAIRED where there was any, 0 where all is whole.

    `--locks` looks at no more than lock files, `--verify` at the outputs as well, and without
    either, everything. `--quiet` says nothing where all is whole.
    """
    options = set(sys.argv[1:])
    try:
        if repair(options):
            return REPAIRED
    except (OSError, ValueError, RuntimeError) as error:
        reason = explain(error) if isinstance(error, OSError) else error
        print(f"heal: error: {reason}", file=sys.stderr)
        return 1
    if not options:
        count = len(outputs_of())
        print(f"heal: none of the {count} outputs of dvc.lock is damaged, here or in the cache")
    return 0


if __name__ == "__main__":
    sys.exit(main())
