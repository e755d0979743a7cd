"""Start programs in a clean environment, one `make` at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATE = Path(".run")
DATABASES = STATE / "dvc"  # of DVC's state: the MD5 of files that it has seen
VENV = Path(".venv")
# Variables of Python and pip decide what is imported and where packages go. These may pass.
PASSED = {
    *("PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
    *("PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS"),
    *("PIP_TRUSTED_HOST", "PIP_PROXY", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_KEYRING_PROVIDER"),
    *("PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES", "PIP_CACHE_DIR", "PIP_NO_CACHE_DIR"),
}
# Set by an outer `make`, by a git hook, by an activated environment.
DROPPED = {
    *("MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKELEVEL", "MAKECMDGOALS", "VIRTUAL_ENV"),
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"),
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX"),
}

REMEDIES = {
    **dict.fromkeys(
        (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY), "remove what lies there"
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "make it yours and writable, or work in a clone of your own",
    ),
    errno.ENOSPC: "free some space",
}


def explain(error: OSError) -> str:
    """Say in one line what failed and what to do."""
    where, what = error.filename or "a file, or standard output", error.strerror or error
    remedy = REMEDIES.get(error.errno or 0, "")
    return f"{where}: {what}{remedy and '; ' + remedy}"


def say(text: str) -> None:
    """Tell whoever ran `make`."""
    print(f"make: {text}", file=sys.stderr, flush=True)


def clean(**more: str) -> dict[str, str]:
    """Return the environment that programs start in, .venv first on PATH, with variables set."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in PASSED or not (key.startswith(("PYTHON", "PIP_")) or key in DROPPED)
    }
    if not kept.get("CHROMIUM"):  # the Makefile exports it, empty where nobody has set it
        kept.pop("CHROMIUM", None)
    folder = Path.cwd() / VENV
    path = f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    ours = {
        "PATH": path,
        "VIRTUAL_ENV": str(folder),
        "PYTHONUTF8": "1",
        "SHELL": "/bin/sh",  # which DVC runs a stage's command by, whatever the user's is
        "DVC_SITE_CACHE_DIR": str(Path.cwd() / DATABASES),  # where `make heal` finds it
    }
    return {**kept, **ours, **more}


def call(
    command: list[str],
    env: dict[str, str] | None = None,
    keep: tuple[int, ...] = (),
    **options: Any,
) -> int:
    """Run a program to its end.

    Ctrl-C reaches the program as well, from the terminal; it is waited for. SIGTERM is passed on.

    Args:
        command: the program, looked up on PATH of `env`, and its arguments.
        env: its environment; None: `clean()`.
        keep: file descriptors that it inherits.
        options: for subprocess.Popen.

    Returns:
        Its exit status; 128 and the signal's number where a signal ended it.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the program has ended.
        OSError: it can't be started.
    """
    env = clean() if env is None else env
    process = subprocess.Popen(command, env=env, pass_fds=keep, **options)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    interrupted = False
    try:
        while process.returncode is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                interrupted = True
    finally:
        signal.signal(signal.SIGTERM, before)
    if interrupted:
        raise KeyboardInterrupt
    status = process.returncode
    return status if status >= 0 else 128 - status


def answer(command: list[str], cwd: Path | None = None) -> str:
    """Run a program and return what it prints.

    Raises:
        RuntimeError: it failed; the text is the line that it gives as its reason, or its last.
        OSError: it can't be started.
    """
    result = subprocess.run(command, env=clean(), cwd=cwd, capture_output=True, check=False)
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()
        marked = [line for line in lines if line.startswith(("fatal: ", "ERROR: "))]
        reason = (marked or lines[-1:] or [f"exit status {result.returncode}"])[0]
        raise RuntimeError(f"{' '.join(command[:2])}: {reason}")
    return result.stdout.decode(errors="replace")


@contextmanager
def alone() -> Iterator[int]:
    """Wait until no other `make` works in this folder, saying so.

    Programs that inherit the descriptor keep the lock while they live, so that a `make` also
    waits for what a killed one left running. The system gives it back when all have ended.

    Yields:
        The lock's file descriptor.
    """
    STATE.mkdir(exist_ok=True)
    with (STATE / "make.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another make is at work in this folder; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
