"""Programs that tests start, away from anybody's settings."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from checks.sandbox import environment
from pipeline.environment import ROOT


def surroundings(**variables: str) -> dict[str, str]:
    """The environment as after `source .venv/bin/activate`, and more variables."""
    settings = {
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "test"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "test@localhost"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return environment() | settings | variables


def start(folder: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    """Start a command there; what it prints comes through pipes."""
    pipe, env = subprocess.PIPE, surroundings(**variables)
    return subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def run(
    folder: Path | str, *command: str, given: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command there; `given` is its standard input."""
    return subprocess.run(
        command,
        cwd=folder,
        env=surroundings(**variables),
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


def git(folder: Path, *arguments: str) -> str:
    """Run a command of git that must succeed; return what it prints."""
    done = run(folder, "git", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def record(folder: Path, name: str) -> str:
    """Commit what is in a folder as `dvc exp save` does, and go back; return the reference."""
    head = git(folder, "rev-parse", "HEAD").strip()
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", name)
    git(folder, "update-ref", ref, "HEAD")
    git(folder, "reset", "--quiet", "--hard", head)
    return ref
