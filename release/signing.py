"""OpenSSF's model signing, which needs no network where a key is given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def model_signing(*arguments: str) -> str:
    """Run model_signing; return why it failed, empty where it did not."""
    command = [str(Path(sys.executable).with_name("model_signing")), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if not result.returncode:
        return ""
    lines = (result.stderr or result.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"
