"""Programs that tests start, away from anybody's settings."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from checks.sandbox import environment
from pipeline.environment import ROOT


def run(
    folder: Path | str, *command: str, given: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as after `source .venv/bin/activate`; `given` is its standard input."""
    settings = {
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "test"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "test@localhost"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        command,
        cwd=folder,
        env=environment() | settings | variables,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
