"""Say whether dvc.lock is current: `make check-lock`, for CI.

`dvc status` also reports outputs that are merely not downloaded, and `dvc repro --dry` exits
with 0 when stages are stale: what counts is whether it names a stage to run.
"""

from __future__ import annotations

import re
import subprocess
import sys

# What `dvc repro --dry` prints of a stage that is not up to date: it would run it, or take its
# results from an earlier run. (`--allow-missing`: data that are not here make nothing stale.)
STALE = re.compile(r"^(?:Running stage|Stage) '(?P<name>[^']+)'(?::| is cached)", re.MULTILINE)


def stale(output: str) -> list[str]:
    """List the stages that an output of `dvc repro --dry` would run."""
    return [match["name"] for match in STALE.finditer(output)]


def main() -> int:
    """Ask DVC; the exit status says whether dvc.lock is current."""
    command = ["dvc", "repro", "--dry", "--allow-missing"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip() or result.stdout.strip()).splitlines()
        print(f"check-lock: dvc repro --dry failed: {reason[0] if reason else 'no reason given'}")
        return 1
    if stages := stale(result.stdout):
        print(
            f"check-lock: dvc.lock is not current: {', '.join(stages)} would run; "
            f"run `make` and commit dvc.lock"
        )
        return 1
    print("check-lock: dvc.lock is current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
