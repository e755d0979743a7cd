"""The command line: `python3 -m tasks NAME`."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from pathlib import Path

from tasks import tools
from tasks.environment import damaged, ensure
from tasks.folder import look_at_modules
from tasks.processes import VENV, clean, explain, say
from tasks.runs import heal, recipe, repro, seeds

PIPELINE = ("repro", "heal", "recipe", "seeds")  # tasks that fail where .venv is damaged
TARGET = re.compile(r"^([a-z-]+):.*?## (.*)$", re.MULTILINE)


def targets() -> dict[str, str]:
    """Read from the Makefile what each target does, by name."""
    return dict(TARGET.findall(Path("Makefile").read_text(encoding="utf-8")))


def show_help() -> int:
    """List the targets."""
    for name, text in targets().items():
        print(f"  make {name:18} {text}")
    return 0


def unknown() -> int:
    """Help with a target that there is not, in one line."""
    known = targets()
    given = [name for name in os.environ.get("MAKECMDGOALS", "").split() if name not in known]
    for name in given:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        near += [other for other in known if other in name and other not in near]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        what = "a folder, and no target" if Path(name).is_dir() else "no target"
        say(f"{name} is {what}; {hint}`make help` lists them")
    return 2


def run(*command: str) -> int:
    """Become a program of .venv.

    Args:
        command: `--with FOLDER` first: with that folder's environment made as well, and for
            `consumers` its npm packages and C library; then the program and its arguments.
            `@NAME` is the value of the environment variable, and left out where that is empty:
            no shell ever reads a value that someone gave to `make`.
    """
    extra = ""
    if command[0] == "--with":
        extra, command = command[1], command[2:]
    ensure(extra)
    if extra == "consumers":
        tools.node_modules()
        tools.c_layout()
    given = [os.environ.get(part[1:], "") if part[:1] == "@" else part for part in command]
    given = [part for part in given if part]
    say(" ".join(shlex.quote(part) for part in given))
    os.execvpe(given[0], given, clean())  # no shell: that is the point


TASKS = {
    "help": show_help,
    "unknown": unknown,
    "run": run,
    "repro": repro,
    "heal": heal,
    "recipe": recipe,
    "seeds": seeds,
    "dataset": tools.dataset,
    "page": tools.page,
    "test-web": tools.test_web,
    "apt": tools.apt,
    "pull": tools.pull,
    "lock": tools.lock,
    "clean": tools.clean_up,
}


def main(arguments: list[str]) -> int:
    """Do a task, whose name comes first; say what went wrong in one line.

    Returns:
        The exit status: 130 where Ctrl-C ended it, 1 where it could not be done.
    """
    status = 1
    try:
        look_at_modules()
        status = TASKS[arguments[0]](*arguments[1:])
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        say(str(error))
    except OSError as error:
        say(explain(error))
    failed = status and not 128 < status < 255  # where a signal ended it, nothing is looked for
    if failed and arguments[0] in PIPELINE and (path := damaged(VENV)):
        (VENV / ".installed").unlink(missing_ok=True)
        say(f"{path} is not as installed; `make` once more installs everything anew")
    return status
