"""Run a stage and print its peak resident memory in KiB: `python -m checks.peak preprocess`.

Asked of Linux in the process itself: what wait4(2) tells of a child includes its parent's memory
at the moment of the fork.
"""

from __future__ import annotations

import atexit
import re
import runpy
import sys
from pathlib import Path


def report() -> None:
    """Print the peak so far."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(*re.findall(r"VmHWM:\s+(\d+) kB", status))


if __name__ == "__main__":
    atexit.register(report)
    runpy.run_module(f"stages.{sys.argv[1]}", run_name="__main__", alter_sys=True)
