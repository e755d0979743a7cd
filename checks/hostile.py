"""Run `make` where all that should not matter is as bad as can be: `make check-repro` does.

In a folder with a space and Cyrillic letters in its name, with variables and settings that change
what libraries compute, and, where root starts it, as the user nobody.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

FOLDER = "папка с пробелом"
GITCONFIG = """\
[core]
    autocrlf = true
    attributesFile = {folder}/attributes
    hooksPath = {folder}
[clone]
    defaultRemoteName = upstream
[status]
    showUntrackedFiles = no
[user]
    name = somebody
    email = somebody@localhost
"""
HIDDEN = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VIRTUAL_ENV", "REV"}  # of an outer `make`


def write_hostile(folder: Path) -> dict[str, str]:
    """Write settings that change what libraries compute, or break them.

    Returns:
        Variables that name them, and others of the kind.
    """
    folder.mkdir()
    (folder / "keras.json").write_text('{"floatx": "float16", "epsilon": 0.01, "backend": "jax"}')
    (folder / "matplotlibrc").write_text("figure.dpi: 30\nfont.size: 20\n")
    (folder / "gitconfig").write_text(GITCONFIG.format(folder=folder))
    (folder / "attributes").write_text("* eol=crlf\n")
    (folder / "post-checkout").write_text("#!/bin/sh\nexit 1\n")
    (folder / "post-checkout").chmod(0o755)
    (folder / "sitecustomize.py").write_text("raise SystemExit('a foreign module was imported')")
    here = str(folder)
    return {
        **{"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "7", "KERAS_BACKEND": "jax"},
        **{"KERAS_HOME": here, "MPLCONFIGDIR": here, "MPLBACKEND": "svg"},
        **{"TF_DETERMINISTIC_OPS": "1", "TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "1"},
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=true --xla_backend_optimization_level=0",
        **{"PYTHONPATH": here, "PYTHONHOME": "/nowhere", "PYTHONHASHSEED": "7"},
        **{"PIP_TARGET": here, "PIP_USER": "1", "GIT_DIR": "/nowhere"},
        **{"GIT_CONFIG_GLOBAL": f"{here}/gitconfig", "LD_LIBRARY_PATH": here},
        **{"SHELL": "/nowhere", "SHELLOPTS": "noclobber", "BASH_ENV": "/nowhere"},
        **{"LC_ALL": "C", "TZ": "Pacific/Kiritimati", "COLUMNS": "20", "NO_COLOR": "1"},
    }


def run_make(project: Path, scratch: Path) -> int:
    """Run `make`; return its exit status.

    `scratch`, a folder around it, gets the settings and is nobody's home.
    """
    variables = {key: value for key, value in os.environ.items() if key not in HIDDEN}
    variables |= write_hostile(scratch / "hostile")
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        variables["HOME"] = str(scratch)
        scratch.chmod(0o755)
        own(scratch, nobody.pw_uid, nobody.pw_gid)
    try:
        options: dict[str, Any] = {"env": variables, "umask": 0o077, **user}
        return subprocess.run(["make"], cwd=project, check=False, **options).returncode
    finally:
        if user:
            own(scratch, 0, 0)  # or git would not look into the clone


def own(folder: Path, user: int, group: int) -> None:
    """Give a folder and all that is in it to a user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)
