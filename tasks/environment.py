"""Make the virtual environments, each from a lock file that has every package's version and hash.

A stamp in the environment is written last, so that an install that was cut off starts again. It
holds the lock file's hash (not its time), the environment's folder (scripts in it name it, so a
moved one is made again) and the version of Python.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tasks.processes import PASSED, VENV, alone, answer, call, clean, say

SUPPORTED = ((3, 11), (3, 12), (3, 13))
# What TensorFlow has packages for: not Intel Macs, since 2.17, nor 32 bits. A Python decides: one
# built for Intel runs on Apple silicon too.
SYSTEMS = ("linux x86_64", "linux aarch64", "darwin arm64")
# What a Python must be able to do to make an environment; a Debian without python3-venv can't.
PROBE = (
    "import sys, venv, ensurepip, platform; "
    "print(*sys.version_info[:3], sys.platform, platform.machine())"
)
# PyTorch is not in the lock: for Linux the package registry has its build for CUDA alone, which
# takes gigabytes. Its build for processors comes from wherever pip is told to look (PyTorch's
# page "Get started" has the address, for PIP_EXTRA_INDEX_URL).
TORCH = "2.13.0"


def ensure(extra: str = "") -> None:
    """Make the environment in .venv, and another one, unless they are current.

    `extra` is the folder of the other one: it has a lock of its own and is made with .venv's
    Python.

    Raises:
        RuntimeError: no Python fits, or not every package could be installed.
        OSError: a file can't be read or written.
    """
    _ensure(VENV, Path("requirements.lock"))
    if extra:
        _ensure(Path(extra) / VENV, Path(extra) / "requirements.lock")


def _ensure(venv: Path, lock: Path) -> None:
    if is_current(venv, lock):
        return
    with alone():
        if not is_current(venv, lock):  # the one waited for may have made it
            make(venv, lock)


def stamp(venv: Path, lock: Path) -> dict[str, str]:
    """Return what tells a current environment from others.

    Raises:
        OSError: the lock file can't be read, or the environment has no pyvenv.cfg.
    """
    settings = (venv / "pyvenv.cfg").read_text(encoding="utf-8")
    found = re.search(r"^version(?:_info)? *= *(\d+\.\d+)", settings, re.MULTILINE)
    return {
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest(),
        "folder": os.path.realpath(venv),
        "python": found[1] if found else "",
        "torch": TORCH if venv.parent.name == "benchmarks" else "",
    }


def is_current(venv: Path, lock: Path) -> bool:
    """Whether an environment is whole, has what the lock file says and lies where it was made."""
    try:
        written = json.loads((venv / ".installed").read_text(encoding="utf-8"))
        found = stamp(venv, lock)
    except (OSError, ValueError):
        return False
    if written != found or not (venv / "bin/python").exists():  # a link to a Python that is gone
        return False
    wanted = os.environ.get("PYTHON")
    if wanted and venv == VENV:
        version = probe(wanted)
        return isinstance(version, tuple) and found["python"] == "{}.{}".format(*version[:2])
    if venv != VENV:
        return found["python"] == stamp(VENV, Path("requirements.lock"))["python"]
    return True


def probe(python: str) -> tuple[int, ...] | str:
    """Ask a Python for its version; return why it can't be used where it can't."""
    if not shutil.which(python):
        return "not found"
    result = subprocess.run(
        [python, "-c", PROBE], env=clean(), capture_output=True, text=True, check=False
    )
    if result.returncode == 0:
        *numbers, system, machine = result.stdout.split()
        if f"{system} {machine}" not in SYSTEMS:
            return f"is for {system} {machine}, and TensorFlow for {', '.join(SYSTEMS)} alone"
        version = tuple(int(number) for number in numbers)
        return version if version[:2] in SUPPORTED else "Python {}.{}".format(*version[:2])
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"


def choose() -> tuple[str, str]:
    """Find a Python to make .venv with: the one of `make PYTHON=…`, or the first that fits.

    Returns:
        Its path and its version.

    Raises:
        RuntimeError: there is none; the text says what was found and how to name one.
    """
    base = getattr(sys, "_base_executable", sys.executable)  # not of an environment to be cleared
    wanted = os.environ.get("PYTHON")
    candidates = [wanted] if wanted else [base, "python3", "python3.11", "python3.12", "python3.13"]
    reasons = {}
    for python in candidates:
        version = probe(python)
        if isinstance(version, tuple):
            return python, ".".join(str(part) for part in version)
        if version != "not found" or python == wanted:
            reasons[f"PYTHON={python}" if wanted else python] = version
    found = "; ".join(f"{python}: {reason}" for python, reason in reasons.items())
    raise RuntimeError(
        f"needs Python 3.11, 3.12 or 3.13 with venv ({found or 'found none'}); name one: "
        f"make PYTHON=/path/to/python3.12; on Debian or Ubuntu: apt-get install python3-venv"
    )


def make(venv: Path, lock: Path) -> None:
    """Make an environment anew and install a lock file into it, by uv or else by pip.

    Raises:
        RuntimeError: no Python fits, or not every package could be installed.
        OSError: a file can't be written.
    """
    if venv == VENV:
        python, version = choose()
        say(f"installing {lock} into {venv} (Python {version}); about half a minute")
    else:
        python = str(Path.cwd() / VENV / "bin/python")
        say(f"installing {lock} into {venv}")
    if venv.is_symlink():
        venv.unlink()  # what it leads to belongs to another folder
    (venv / ".installed").unlink(missing_ok=True)
    if call([python, "-m", "venv", "--clear", str(venv)]) != 0:
        raise RuntimeError(f"{python} -m venv {venv} failed; its reason is above")
    installer = str(venv / "bin/python")
    settings = pip_settings(installer)
    if venv == VENV:
        # uv by pip and by its hash; it installs the rest eight times as fast.
        only_uv = venv / "uv.txt"
        only_uv.write_text(entry("uv", lock.read_text(encoding="utf-8")), encoding="utf-8")
        pip(installer, settings, "--require-hashes", "--no-deps", "-r", str(only_uv))
    uv = str(VENV / "bin/uv")
    options = ["--quiet", "--python", installer, "--require-hashes", "--compile-bytecode"]
    by_uv = Path(uv).exists() and call([uv, "pip", "sync", *options, str(lock)]) == 0
    if not by_uv or missing(venv, lock):
        say("uv could not; pip tries (it knows pip's own settings for mirrors and proxies)")
        pip(installer, settings, "--require-hashes", "-r", str(lock))
    if absent := missing(venv, lock):
        raise RuntimeError(
            f"{lock}: {len(absent)} packages are not in {venv}, {absent[0]} the first; the reason "
            f"is above, or in the settings of pip and uv (`{installer} -m pip config list`)"
        )
    if venv.parent.name == "benchmarks":
        torch = TORCH + ("+cpu" if sys.platform.startswith("linux") else "")
        if pip(installer, settings, "--no-deps", f"torch=={torch}") != 0:
            say(f"PyTorch {torch} could not be installed; `make bench` goes on without it")
            return  # not marked: the next one tries again
    mark(venv, lock)


def mark(venv: Path, lock: Path) -> None:
    """Note that an environment has what the lock file says: `is_current` asks for no more.

    Raises:
        OSError: a file can't be read or written.
    """
    (venv / ".installed").write_text(json.dumps(stamp(venv, lock)), encoding="utf-8")


def pip(python: str, settings: dict[str, str], *arguments: str) -> int:
    """Run `pip install`; return its exit status."""
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return call([*command, *arguments], env=settings)


def pip_settings(python: str) -> dict[str, str]:
    """Return the environment for pip: of its own settings, those that say where packages are.

    A `user`, `prefix`, `target` or `constraint` in pip.conf would put them elsewhere, or fail.
    """
    kept = {}
    for line in answer([python, "-m", "pip", "config", "list"]).splitlines():
        key, _, value = line.partition("=")
        name = "PIP_" + key.rpartition(".")[2].upper().replace("-", "_")
        if name in PASSED:
            kept[name] = " ".join(str(ast.literal_eval(value)).split())
    return clean(**{**kept, "PIP_CONFIG_FILE": os.devnull})


def entry(name: str, lock: str) -> str:
    """Take a package's lines out of a lock file's text; empty where it has none."""
    found = re.search(rf"^{name}==.*\n(?:[ ].*\n)*", lock, re.MULTILINE)
    return found[0] if found else ""


def missing(venv: Path, lock: Path) -> list[str]:
    """List the packages of a lock file that an environment lacks; not those for some systems."""
    folders = [str(path) for path in venv.glob("lib/python3*/site-packages")]
    there = {
        f"{_plain(found.metadata['Name'])}=={found.version}"
        for found in metadata.distributions(path=folders)
    }
    pins = re.findall(r"^([\w.-]+)==([^\s;]+) *\\?$", lock.read_text(encoding="utf-8"), re.M)
    return [f"{name}=={pin}" for name, pin in pins if f"{_plain(name)}=={pin}" not in there]


def damaged(venv: Path) -> str:
    """Name a file of an environment whose size is not as installed; empty where all are."""
    folders = [str(path) for path in venv.glob("lib/python3*/site-packages")]
    for found in metadata.distributions(path=folders):
        for file in found.files or []:
            path = Path(str(file.locate()))
            if file.size is not None and not (path.is_file() and path.stat().st_size == file.size):
                return os.path.relpath(path)
    return ""


def _plain(name: str) -> str:
    """Normalize a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
