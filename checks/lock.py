"""Check that dvc.lock is current and that outputs here are what it records: `make check-lock`.

`dvc status` also reports outputs that are merely not downloaded, and `dvc repro --dry` exits with
0 when stages are stale: what counts is whether it names a stage to run. Neither hashes an output
again whose size and time are unchanged; here each is.
"""

from __future__ import annotations

import re
import sys

from tasks.processes import answer
from tasks.repair import cache_folder, compare, sizes

# What `dvc repro --dry` prints of a stage that is not up to date: it would run it, or take its
# results from an earlier run. (`--allow-missing`: data that are not here make nothing stale.)
STALE = re.compile(r"^(?:Running stage|Stage) '(?P<name>[^']+)'(?::| is cached)", re.MULTILINE)


def stale(output: str) -> list[str]:
    """List the stages that an output of `dvc repro --dry` would run."""
    return [match["name"] for match in STALE.finditer(output)]


def main() -> int:
    """Ask DVC, compare hashes; the exit status says whether dvc.lock is current."""
    try:
        if stages := stale(answer(["dvc", "repro", "--dry", "--allow-missing"])):
            names = ", ".join(stages)
            faults = [f"dvc.lock is not current: {names} would run; run `make` and commit dvc.lock"]
        else:
            damaged = compare(cache_folder(), cached=False)[0] or list(sizes())
            faults = [f"{path}: damaged: {reason}; run `make heal`" for path, reason in damaged]
    except RuntimeError as error:
        faults = [str(error)]
    for line in faults or ["dvc.lock is current"]:
        print(f"check-lock: {line}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
