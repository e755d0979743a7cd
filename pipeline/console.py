"""How a stage talks to whoever runs it: progress, results, and errors in one line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from pipeline.environment import enter_clean, look_at_modules
from pipeline.guard import guarded
from pipeline.params import load_params

# What bad input and a bad environment raise. Anything else is a fault of ours: traceback.
EXPECTED = (OSError, ValueError, RuntimeError, MemoryError, yaml.YAMLError)
REMEDIES = {
    errno.ENOSPC: "free some space, then run `make` again",
    errno.EDQUOT: "free some space, then run `make` again",
    errno.ENOENT: "`make` makes what is missing",
    errno.EACCES: "make it readable and writable for you, then run `make` again",
    errno.EROFS: "make it writable, then run `make` again",
    errno.EISDIR: "a folder lies where a file should be: move it, then run `make` again",
    errno.EEXIST: "a file lies where a folder should be: move it, then run `make` again",
    errno.ENOTDIR: "a file lies where a folder should be: move it, then run `make` again",
}
REMOVED = (
    "DVC removed this stage's results before it ran, and `dvc exp run -S` leaves params.yaml as it "
    "set it; what brings the committed ones back: dvc checkout; git checkout metrics models plots"
)
AGAIN = "FASHION_MLP_AGAIN"  # set by `make recipe`, whose stages run in a clone
QUIET_SECONDS = 10.0  # between lines of progress where nobody watches them move


def run(main: Callable[[], None], clean_environment: bool = True, is_stage: bool = True) -> None:
    """Run a stage's `main`, guarded; say an expected error in one line and exit with 1.

    FASHION_MLP_TRACEBACK=1 in the environment shows the traceback as well.

    Args:
        main: of the module that is being run.
        clean_environment: False where the result depends on no variable.
        is_stage: False for a program that has nothing to do with dvc.yaml.
    """
    module = main.__globals__["__spec__"].name
    if clean_environment:
        enter_clean(module, asks_for_gpu)
    stage = module.rpartition(".")[2]
    guard: AbstractContextManager[list[Path]] = guarded(stage) if is_stage else nullcontext([])
    try:
        with guard as code:
            main()
            if code:
                look_at_modules(code)
    except KeyboardInterrupt as interrupt:
        then = str(interrupt) or f"`{again()}` starts this stage again"
        print(f"\n{stage}: interrupted; {then}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except EXPECTED as error:
        if os.environ.get("FASHION_MLP_TRACEBACK") == "1":
            traceback.print_exc()
        print(f"{stage}: error: {_say(error).replace('`make`', f'`{again()}`')}", file=sys.stderr)
        if "DVC_STAGE" in os.environ and AGAIN not in os.environ:
            print(f"{stage}: {REMOVED}", file=sys.stderr)
        sys.exit(1)


def again() -> str:
    """Name the command that goes on with what was interrupted: plain `make`, or a preset's."""
    return os.environ.get(AGAIN, "make")


def asks_for_gpu() -> bool:
    """Whether params.yaml does; where it can't be read, the stage says why."""
    try:
        return load_params().train.device == "gpu"
    except (OSError, ValueError):
        return False


def _say(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {str(error) or 'free some, or lower the batch size'}"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        where = error.filename or "a file in " + str(Path.cwd())
        return f"{where}: {error.strerror}; {REMEDIES[error.errno]}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back what is printed to file descriptor 2, by C libraries too; show it on a failure.

    A library that aborts takes this process with it, so that a shell waits beside it: it shows
    what was printed unless it is told that all went well.
    """
    sys.stderr.flush()
    real, all_well = os.dup(2), b""
    handle, name = tempfile.mkstemp()
    script = 'trap "" INT; exec 3<"$0"; rm -f "$0"; read -r _ || cat <&3 >&2'
    command = ["/bin/sh", "-c", script, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as witness:
        try:
            os.dup2(handle, 2)
            yield
            all_well = b"yes\n"
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            os.close(handle)
            witness.communicate(all_well)


class Lines(tqdm):  # type: ignore[type-arg]
    """A progress bar for a pipe or a log: whole lines, now and then."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line, but for the last one: the stage itself says that it is done."""
        if self.n < (self.total or 0):
            print(str(self), file=self.fp, flush=True)

    def clear(self, nolock: bool = False) -> None:
        """Leave what is printed: lines can't be taken back."""

    def close(self) -> None:
        """Print nothing more; tqdm would end its bar with an empty line."""
        self.disable = True
        super().close()


def progress(description: str, total: int, unit: str, done: int = 0) -> tqdm[Any]:
    """Open a progress bar on stderr; in a pipe or in CI, a line now and then."""
    if sys.stderr.isatty():
        return tqdm(
            total=total,
            initial=done,
            desc=description,
            unit=unit,
            bar_format="{desc}: {n_fmt} of {total_fmt} {unit} |{bar}| {remaining} left{postfix}",
            smoothing=0,  # time left by the mean speed: the last one's would make it jump
            dynamic_ncols=True,
            leave=False,
        )
    return Lines(
        total=total,
        initial=done,
        desc=description,
        unit=f" {unit}",
        mininterval=QUIET_SECONDS,
        delay=QUIET_SECONDS,
        smoothing=0,
        bar_format="{desc}: {n_fmt} of {total_fmt}{unit}{postfix}, {remaining} left",
    )
