"""Runs a stage alone, verifies its inputs, and detects inputs edited during the run.

DVC's checkout installs a damaged file of its cache without a word, and its lock records the
parameters and the code as they are *after* a run, so that an edit made meanwhile would be
recorded as if it had been used (DVC's issue 11058). Both would be silent, so stages look.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.environment import other_versions
from pipeline.files import md5
from pipeline.params import PARAMS_FILE
from pipeline.records import BY_HAND, STATE, record, take, verify

PIPELINE = Path("dvc.yaml")
ALONE = STATE / "lock"
CHECKPOINT = STATE / "checkpoint"
FIRST_YEAR, LAST_YEAR = 1980, 2107  # of a ZIP file's dates
ADDRESSES = 3_000_000_000  # bytes; on two cores 2.7e9 were too few, and 3.4e9 enough
ORPHAN_SECONDS = 0.5  # between looks at whether DVC still lives


class Stage(NamedTuple):
    """What dvc.yaml says of a stage."""

    name: str
    deps: list[Path]
    sections: list[str]  # of params.yaml, dotted where a part of one is meant
    outs: list[Path]

    @property
    def code(self) -> list[Path]:
        """The modules among its dependencies."""
        return [path for path in self.deps if path.suffix == ".py"]

    @property
    def data(self) -> list[Path]:
        """The other dependencies, which stages wrote."""
        return [path for path in self.deps if path.suffix != ".py"]


@contextmanager
def guarded(name: str) -> Iterator[list[Path]]:
    """Do, around a stage's `main`, what the module's docstring says.

    Where dvc.yaml is not there or has no such stage, nothing is done.

    Yields:
        The stage's modules, as dvc.yaml lists them.

    Raises:
        ValueError: an input is not what dvc.lock records, or was made with other parameters than
            params.yaml has; or an input, a section of params.yaml or a module that the stage uses
            changed while it ran; or see `look_at_machine`.
        OSError: a file can't be read.
    """
    stage = read_stage(name)
    if stage is None:
        yield []
        return
    look_at_machine()
    end_with_dvc()
    imported = hashes(stage)  # before waiting for others: this process has its code already
    with alone(name):
        sweep([*stage.outs, CHECKPOINT, BY_HAND])
        before = used(stage) | imported
        verify(stage.data)
        yield stage.code
        after = used(stage)
        if changed := [key for key in before if before[key] != after[key]]:
            raise ValueError(
                f"{', '.join(changed)} changed while the stage ran, so nothing was recorded; "
                f"`make` runs it with what is there now"
            )
        if "DVC_STAGE" not in os.environ:
            record(stage.outs, stage.sections)


def read_stage(name: str, pipeline: Path = PIPELINE) -> Stage | None:
    """Read a stage's entry of dvc.yaml."""
    if not pipeline.exists():
        return None
    entry = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"].get(name)
    if entry is None:
        return None
    outs = [*entry.get("outs", []), *entry.get("metrics", []), *entry.get("plots", [])]
    return Stage(
        name,
        [Path(_name(dep)) for dep in entry.get("deps", [])],
        [_name(section) for section in entry.get("params", [])],
        [Path(_name(out)) for out in outs],
    )


def _name(entry: str | dict[str, Any]) -> str:
    """Take the name of an entry that may have settings: `path` or `{path: {cache: false}}`."""
    return entry if isinstance(entry, str) else next(iter(entry))


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait until no other stage runs in this folder, saying so.

    The system gives the lock back when its holder ends, however it ends.
    """
    STATE.mkdir(exist_ok=True)
    with ALONE.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another stage"
            print(f"{name}: waiting: {holder} is at work in this folder", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"stage {name} (process {os.getpid()})")
        file.flush()
        yield


def end_with_dvc() -> None:
    """Interrupt this stage as Ctrl-C does if the DVC that started it ends before it.

    `kill -9` of `dvc repro` leaves its stage running, whose results nobody would record, beside
    the next run of the same stage.
    """
    if "DVC_STAGE" not in os.environ:
        return
    parent, main_thread = os.getppid(), threading.main_thread().ident or 0

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_SECONDS)
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def look_at_machine() -> None:
    """Refuse what would fail later, after the training or in many lines, or give other results.

    Raises:
        ValueError: a ZIP file, which a model is, can't be written by the clock, TensorFlow can't
            start its threads, or a package has another version than requirements.lock.
    """
    if not FIRST_YEAR <= time.localtime().tm_year <= LAST_YEAR:
        raise ValueError(
            f"this machine's clock says {time.ctime()}; set it: ZIP files know the years "
            f"{FIRST_YEAR} to {LAST_YEAR} alone"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= limit < ADDRESSES:  # no limit is a negative number
        raise ValueError(
            f"`ulimit -v` allows {limit / 1e9:.1f} GB of addresses; TensorFlow takes "
            f"{ADDRESSES / 1e9:.0f} GB, most of which it never uses: `ulimit -v unlimited`"
        )
    if wrong := other_versions():
        raise ValueError(
            f"{sys.executable} has {', '.join(wrong)}, and other versions may give other results: "
            f"`make clean`, then `make`; with DVC's own commands: `source .venv/bin/activate`"
        )


def sweep(outs: list[Path]) -> None:
    """Remove the temporary files that a killed run left beside its outputs (files.replacing)."""
    for out in outs:
        for left_over in out.parent.glob(f".{out.stem}.tmp.*"):
            left_over.unlink(missing_ok=True)


def used(stage: Stage) -> dict[str, Any]:
    """Take what must not change while a stage runs.

    Returns:
        The values of its sections of params.yaml, the hashes of its modules, and of its other
        inputs what changes when a file is written: size, time and inode.
    """
    params = yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8"))
    values = {f"{PARAMS_FILE}: {section}": take(params, section) for section in stage.sections}
    seen = {str(path): path.stat() for path in stage.data}
    inputs = {path: (it.st_size, it.st_mtime_ns, it.st_ino) for path, it in seen.items()}
    return values | inputs | hashes(stage)


def hashes(stage: Stage) -> dict[str, str]:
    """Hash a stage's modules, by path."""
    return {str(path): md5(path) for path in stage.code}
