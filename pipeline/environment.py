"""The environment that a stage computes in: what is named here, and nothing else.

Libraries read dozens of variables (XLA_FLAGS, TF_DETERMINISTIC_OPS, KERAS_MAX_EPOCHS,
OMP_NUM_THREADS, LD_PRELOAD, ...), and many of them change a result, which dvc.lock would not know.
So this is an allowlist: everything that is not known to be harmless is removed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "FASHION_MLP_CLEAN"  # set to the number of the process that has a clean environment
ALLOWED = {
    *("HOME", "LOGNAME", "PATH", "PWD", "SHELL", "SHLVL", "USER", "_"),
    *("TEMP", "TMP", "TMPDIR", "TZ"),
    *("COLUMNS", "LANG", "LANGUAGE", "LINES", "NO_COLOR", "TERM"),
    *("CI", "VIRTUAL_ENV"),
    # Other workers (docs/workers.md), and which GPU, where train.device asks for one.
    *("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "TF_CONFIG"),
}
ALLOWED_PREFIXES = ("DVC_", "FASHION_MLP_", "LC_")


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Take the variables that may pass, and settle what libraries would read from the user's home.

    Args:
        environment: as os.environ.
    """
    passed = {
        key: value
        for key, value in environment.items()
        if key in ALLOWED or key.startswith(ALLOWED_PREFIXES)
    }
    return passed | {
        "KERAS_HOME": str(ROOT / ".run/keras"),  # not ~/.keras/keras.json
        "PYTHONPATH": str(ROOT),  # wherever the stage is started
        "PYTHONUTF8": "1",  # whatever the locale is
    }


def enter_clean(module: str) -> None:
    """Start this process anew in a clean environment, unless that was done.

    Args:
        module: that is being run by `python -m`.
    """
    if os.environ.get(MARK) == str(os.getpid()):
        return
    environment = clean(os.environ) | {MARK: str(os.getpid())}  # which execve keeps
    command = [sys.executable, "-m", module, *sys.argv[1:]]
    os.execve(sys.executable, command, environment)
