"""Fault injection on small copies of the pipeline: `make torture`.

Kills, starves and damages copies of this project with generated data, one fault at a time. Plain
`make` must then leave the bytes of an undisturbed run, or fail with a clear line; in that case,
once the fault is removed, `make` must leave those bytes. It must never succeed with other bytes.
Prints a Markdown table (docs/reliability.md shows it). Small file systems are mounted for it where
the caller is root on Linux. Python's own compiled files (.pyc) are not damaged.

    python -m checks.torture [--seed N] [--only KIND ...]
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from checks.common import machine, table
from checks.lab import LINE, SAME, Lab
from checks.sandbox import remove
from tasks.folder import GIVEN

KINDS = ("damage", "limits", "disks", "checkpoints", "kills", "pairs")
RUNS, KILLS, PAIRS = 4, 3, 2  # runs for each kind of kill, kills in a run, pairs of runs
LANES = 2  # copies that are worked on at a time
HELD = (".dvc", ".run")  # what runs keep for the next one
# What limits a process (prlimit) and what a small file system is mounted with.
LIMITS = {
    "memory": [f"--as={size << 20}" for size in (200, 400, 800, 1600, 3200)],
    "size of a file": [f"--fsize={size << 10}" for size in (0, 1, 10, 100)],
    "open files": [f"--nofile={count}" for count in (16, 32, 64)],
}
MOUNTS = {
    "full disk": [
        ("size=16k", "data"),
        ("size=16k", "data/prepared"),
        ("size=16k", "models"),
        ("size=16k", ".dvc/cache"),
        ("nr_inodes=1", "plots"),
        ("nr_inodes=1", "metrics"),
        ("nr_inodes=1", ".run"),
    ],
    "another file system": [
        ("size=64m", "data/raw"),
        ("size=64m", "data/prepared"),
        ("size=64m", "models"),
        ("size=64m", ".dvc/cache"),
        ("size=64m", ".run"),
    ],
    "read-only disk": [("ro", "data"), ("ro", "models"), ("ro", ".dvc/cache"), ("ro", ".run")],
}


class Trial(NamedTuple):
    """A fault, what it is done to, and how; `kind` is what `--only` takes."""

    kind: str
    fault: str
    what: str
    run: Callable[[Lab], str]


def trials(lab: Lab) -> Iterator[Trial]:
    """List every fault that is tried."""
    for path in lab.left:
        of = "a file of DVC's cache and state" if path.parts[0] in HELD else "a result"
        for way in WAYS:
            yield Trial("damage", f"{of}: {way}", str(path), partial(damage, path, way))
    for folder in sorted({parent for path in lab.left for parent in path.parents[:-1]}):
        yield Trial("damage", f"a folder: {BLOCKED}", str(folder), partial(damage, folder, BLOCKED))
    for name, how in itertools.product(GIVEN, (EMPTIED, FOLDER)):
        what = f"a file of the project: {how}"
        yield Trial("damage", what, name, partial(damage, Path(name), how))
    for what, options in LIMITS.items():
        for option in options:
            yield Trial("limits", f"limited {what}", option, partial(limit, option))
    for fault, places in MOUNTS.items() if sys.platform == "linux" and os.geteuid() == 0 else ():
        for option, place in places:
            yield Trial("disks", fault, place, partial(mount, option, place))
    for way in [*WAYS, HUGE]:
        yield Trial("checkpoints", f"a checkpoint: {way}", "", partial(checkpoint, way))
    for whom in ("everything", "DVC", "the stage", "Ctrl-C"):
        fault = whom if whom == "Ctrl-C" else f"`kill -9` of {whom}"
        for number in range(RUNS):
            yield Trial("kills", f"{fault}, {KILLS} times", f"run {number}", partial(kill, whom))
    for number in range(PAIRS):
        yield Trial("pairs", "two `make` at once", f"run {number}", pair)


def kill(whom: str, lab: Lab) -> str:
    """Run from nothing; send a signal at random moments."""
    lab.box.forget()
    for _ in range(KILLS):
        process = lab.box.start("make")
        time.sleep(lab.random.uniform(0.0, 0.7 * lab.seconds))
        while process.poll() is None and not shoot(process.pid, whom):
            time.sleep(0.02)  # between two stages there is none to hit
        output, _ = process.communicate()
        if whom == "Ctrl-C" and "Traceback" in output:
            return f"TRACEBACK: {output[-600:]}"
    return lab.outcome()


def shoot(group: int, whom: str) -> bool:
    """Send the signal, to a process group or to one of it; return whether there was a target."""
    with suppress(ProcessLookupError, psutil.Error):  # it has just ended
        if whom in ("everything", "Ctrl-C"):
            os.killpg(group, signal.SIGINT if whom == "Ctrl-C" else signal.SIGKILL)
            return True
        wanted = "bin/dvc repro" if whom == "DVC" else "-m stages."
        for process in psutil.Process(group).children(recursive=True):
            if wanted in " ".join(process.cmdline()) and "sh" not in process.name():
                process.kill()
                return True
    return False


def limit(option: str, lab: Lab) -> str:
    """Run from nothing with a resource limit."""
    lab.box.forget()
    return lab.outcome(f"prlimit {option}")


def mount(option: str, place: str, lab: Lab) -> str:
    """Run from nothing with a tmpfs over a folder."""
    lab.box.forget()
    folder = lab.box.folder / place
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", folder], check=True)
    outcome = lab.outcome(cure=lambda: subprocess.run(["umount", folder], check=True))
    lab.box.good("make")  # what lay on the other file system is gone
    return outcome


def flip(path: Path) -> None:
    """Flip one bit in the middle; DVC trusts a file of its cache by its mode, which stays."""
    content, mode = bytearray(path.read_bytes()), path.stat().st_mode
    if content:
        content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else where a file or a folder was."""
    remove(path)
    make(path)


BLOCKED, FOLDER = "a file in its place", "a folder in its place"
EMPTIED = "emptied, as after a power cut"
HUGE = "a terabyte of holes"
WAYS: dict[str, Callable[[Path], object]] = {
    "one bit flipped": flip,
    EMPTIED: partial(os.truncate, length=0),
    FOLDER: partial(replace, make=Path.mkdir),
}


def damage(name: Path, way: str, lab: Lab) -> str:
    """Damage a file or a folder; remove a result that `make` then needs a file of `HELD` for."""
    path, whole = lab.box.folder / name, lab.saved / lab.box.folder.name / name
    WAYS.get(way, partial(replace, make=Path.touch))(path)
    if whole.is_file() and name.parts[0] in HELD:
        number = "".join(name.parts[-2:])
        remove(lab.box.folder / lab.outputs.get(number, "models/fashion_mlp.keras"))

    def cure() -> None:
        if whole.is_dir():
            if not path.is_dir():
                replace(path, partial(shutil.copytree, whole, symlinks=True))
        elif not path.is_file() or path.read_bytes() != whole.read_bytes():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, partial(shutil.copy2, whole))

    return lab.outcome(cure=cure)


def checkpoint(way: str, lab: Lab) -> str:
    """Kill everything in training, then damage what was saved of it."""
    lab.box.forget()
    saved = lab.box.folder / ".run/checkpoint"
    process = lab.box.start("make")
    while not saved.exists() and process.poll() is None:
        time.sleep(0.01)
    shoot(process.pid, "everything")
    process.communicate()
    WAYS.get(way, partial(os.truncate, length=1 << 40))(saved)
    return lab.outcome()


def pair(lab: Lab) -> str:
    """Run two from nothing."""
    lab.box.forget()
    first, second = (lab.box.start("make") for _ in range(2))
    printed = [process.communicate()[0] for process in (first, second)]
    if first.returncode or second.returncode or "waiting for it" not in "".join(printed):
        return f"NOT ONE AFTER THE OTHER: {printed}"
    return lab.outcome()


def work(
    lane: int, folder: Path, seed: int, chosen: list[str], stop: threading.Event
) -> list[tuple[str, str]]:
    """Do a lane's share of the trials, until Ctrl-C; return fault and outcome of each."""
    lab = Lab(folder, f"{seed} {lane}")
    found = []
    listed = [trial for trial in trials(lab) if trial.kind in chosen]
    for number, trial in list(enumerate(listed, start=1))[lane::LANES]:
        if stop.is_set():
            break
        try:
            outcome = trial.run(lab)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            outcome = f"NOT TRIED: {error}"
        if outcome not in (SAME, LINE):
            shutil.rmtree(lab.folder)
            shutil.copytree(lab.saved, lab.folder, symlinks=True)
        print(
            f"torture: {number} of {len(listed)}: {trial.fault}: {trial.what}: {outcome}",
            file=sys.stderr,
            flush=True,
        )
        found.append((trial.fault, outcome))
    return found


def main() -> int:
    """Try every fault, until Ctrl-C; the exit status says whether all outcomes were good."""
    parser = argparse.ArgumentParser(description="Kill, starve and damage copies of the pipeline.")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    began, stop = time.monotonic(), threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as name, ThreadPoolExecutor() as pool:
        parts = [
            pool.submit(work, lane, Path(name) / str(lane), options.seed, options.only, stop)
            for lane in range(LANES)
        ]
        found = [result for part in parts for result in part.result()]
    rows: dict[str, Counter[str]] = {"all": Counter()}
    for fault, outcome in found:
        for row in (fault, "all"):
            rows.setdefault(row, Counter())[outcome if outcome in (SAME, LINE) else "else"] += 1
    rows["all"] = rows.pop("all")  # as the last one
    cells = [(name, row.total(), row[SAME], row[LINE], row["else"]) for name, row in rows.items()]
    print(table(("fault", "tried", SAME, LINE, "anything else"), cells))
    minutes = f"{(time.monotonic() - began) / 60:.0f} minutes{', then stopped' * stop.is_set()}"
    print(f"\n{machine()}; seed {options.seed}, {minutes}.")
    return 1 if rows["all"]["else"] else 0


if __name__ == "__main__":
    sys.exit(main())
