"""The environment that a stage computes in: what is named here, and nothing else.

Libraries read dozens of variables (XLA_FLAGS, TF_DETERMINISTIC_OPS, KERAS_MAX_EPOCHS,
OMP_NUM_THREADS, LD_PRELOAD, ...), and many of them change a result, which dvc.lock would not know.
So this is an allowlist: everything that is not known to be harmless is removed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ("stages", "fashion_mlp", "pipeline")  # the packages that a stage consists of
# What a stage starts from: behind the libraries on the path, no file here hides one of theirs.
START = """
import os, runpy, sys
_, root, _, module, *arguments = sys.argv
sys.path += [root, os.getcwd()]
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
MARK = "FASHION_MLP_CLEAN"  # set to the number of the process that has a clean environment
ALLOWED = {
    *("HOME", "LOGNAME", "PATH", "PWD", "SHELL", "SHLVL", "USER", "_"),
    *("TEMP", "TMP", "TMPDIR", "TZ"),
    *("COLUMNS", "LANG", "LANGUAGE", "LINES", "NO_COLOR", "TERM"),
    "VIRTUAL_ENV",
    # Other workers (docs/workers.md), and which GPU, where train.device asks for one.
    *("CUDA_VISIBLE_DEVICES", "TF_CONFIG"),
}
GPU_LIBRARIES = "LD_LIBRARY_PATH"  # where a GPU's may lie, and another C library, too
PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)  # of a lock file
ALLOWED_PREFIXES = ("DVC_", "FASHION_MLP_", "LC_")


def clean(environment: Mapping[str, str], gpu: bool) -> dict[str, str]:
    """Take the variables that may pass; settle what libraries would read from the user's home."""
    passed = {
        key: value
        for key, value in environment.items()
        if key in ALLOWED or key.startswith(ALLOWED_PREFIXES) or (gpu and key == GPU_LIBRARIES)
    }
    return passed | {"KERAS_HOME": str(ROOT / ".run/keras")}  # not ~/.keras/keras.json


def enter_clean(module: str, gpu: Callable[[], bool]) -> None:
    """Start this process anew in a clean environment, unless that was done.

    Isolated (-I), so that Python itself looks neither in this folder nor at the user's packages.

    `gpu` tells whether train.device asks for one.
    """
    if os.environ.get(MARK) == str(os.getpid()):
        return
    forget_bytecode()
    environment = clean(os.environ, gpu()) | {MARK: str(os.getpid())}  # which execve keeps
    options = ["-I", "-X", "utf8", "-c", START]
    command = [sys.executable, *options, str(ROOT), "-m", module, *sys.argv[1:]]
    os.execve(sys.executable, command, environment)


def forget_bytecode() -> None:
    """Remove what Python keeps of our modules, compiled: the source is what dvc.lock names.

    Python takes a .pyc for current by the source's size and its time, to a second.
    """
    for package in OURS:
        for folder in list((ROOT / package).rglob("__pycache__")):
            shutil.rmtree(folder, ignore_errors=True)


def look_at_modules(code: Iterable[Path]) -> None:
    """Refuse a result in which a module of this folder took part that dvc.lock does not know.

    Such as extra.py, which some library imports where it finds one, or loop/ beside loop.py.

    Args:
        code: the modules that dvc.yaml lists; `pipeline`, which decides no result, may be used too.

    Raises:
        ValueError: names it.
    """
    folders = {ROOT, Path.cwd()}
    listed = {folder / path for folder in folders for path in code}
    known = listed | {parent / "__init__.py" for path in listed for parent in path.parents}
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    for path in sorted(Path(file) for file in files if file):
        inside = any(path.is_relative_to(folder) for folder in folders)
        library = path.is_relative_to(sys.prefix) or path.parent == ROOT / "pipeline"
        if inside and not library and path not in known:
            raise ValueError(
                f"{path}: imported, and dvc.yaml lists it for no stage; rename it, or list it"
            )


def other_versions(
    lock: Path = ROOT / "requirements.lock", folders: Iterable[str] | None = None
) -> list[str]:
    """List the packages that are installed in another version than a lock file has.

    Args:
        lock: may have several versions of one, for several systems.
        folders: where packages lie (None: where Python looks); the first that has one counts.
    """
    pins: dict[str, list[str]] = {}
    for name, pin in PIN.findall(lock.read_text(encoding="utf-8")):
        pins.setdefault(name, []).append(pin)
    found: dict[str, str] = {}
    for folder in sys.path if folders is None else folders:
        for path in Path(folder).glob("*.dist-info"):
            name, _, number = path.stem.partition("-")
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), number)  # PEP 503
    return [
        f"{name} {number} (requirements.lock: {' or '.join(pins[name])})"
        for name, number in sorted(found.items())
        if name in pins and number not in pins[name]
    ]
