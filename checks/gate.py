"""Refuse metrics that got worse: `make gate`, or `make gate REV=HEAD~1`.

Compares metrics/*.json with those of a git revision, the main branch where none is given. Refused
are a metric that is worse by more than `gate.tolerances` in params.yaml allow, one that is missing
or not a finite number, and one whose name `BETTER` does not list. (`dvc metrics diff` shows changes
and always exits with 0.)
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from checks.common import ABSENT, git, table
from pipeline.params import load_params

METRICS = Path("metrics")
BRANCHES = ("main", "origin/main")  # in CI's clones only the second may exist
HIGHER, LOWER, NEITHER = 1, -1, 0
# Which way each metric is better, of whatever split. NEITHER: it describes the network.
BETTER = {
    "loss": LOWER,
    "accuracy": HIGHER,
    "top2_accuracy": HIGHER,
    "calibration_error": LOWER,
    "images": HIGHER,
    "within_bound": HIGHER,
    "argmax_agreement": HIGHER,
    "argmax_certified": NEITHER,
    "uint8_bit_identical": HIGHER,
    "exact_argmax_agreement": HIGHER,
    "largest_runtime_difference": NEITHER,
}


def judge(key: str, before: Any, now: Any, tolerances: Mapping[str, float]) -> tuple[bool, str]:
    """Judge one metric.

    Args:
        key: its name.
        before: the revision's value; `ABSENT` where it has none.
        now: the value here; the same.
        tolerances: by key; `other` for those not listed, 0 where that is not given either.

    Returns:
        Whether it passes, and why.
    """
    allowed = tolerances.get(key, tolerances.get("other", 0.0))
    better = BETTER.get(re.sub("^(train|validation|test)_", "", key))
    if better is None:
        return False, "UNKNOWN METRIC: add it to BETTER in checks/gate.py"
    if now == ABSENT:
        return False, "MISSING"
    if not _is_number(now):
        return False, "NOT A NUMBER"
    if before == ABSENT:
        return True, "new"
    if now == before:
        return True, "same"
    if not _is_number(before) or better == NEITHER:
        return True, "changed"
    # Rounded, as 0.8686 - 0.8636 is slightly more than 0.005 in binary.
    worse = round((before - now) * better, 9)
    if worse > allowed:
        return False, f"WORSE by more than {allowed:g}"
    return True, f"worse, within {allowed:g}" if worse > 0 else "better"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def find_revision(wanted: str, root: Path) -> tuple[str, str]:
    """Find the revision to compare with: the one wanted, or the main branch.

    Returns:
        Its name, and the hash of its commit.
    """
    git("rev-parse", "--git-dir", folder=root)  # or git says why there is no repository
    options = ("--verify", "--end-of-options")
    for name in [wanted] if wanted else BRANCHES:
        with suppress(ValueError):
            found = git("rev-parse", *options, f"{name}^{{commit}}", folder=root)
            return name, found.decode().split()[-1]
    raise ValueError(
        f"git has no revision {wanted or ' or '.join(BRANCHES)}; name one: make gate REV=HEAD~1"
    )


def read(contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Read metrics files, their contents by a name for errors."""
    metrics: dict[str, Any] = {}
    for where, content in contents.items():
        try:
            values = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{where}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{where}: expected an object of metrics, got {type(values).__name__}")
        if twice := metrics.keys() & values.keys():
            raise ValueError(f"{where}: {min(twice)} stands in another file too; remove one")
        metrics |= values
    return metrics


def main() -> int:
    """Compare and print; the exit status says whether the metrics pass."""
    root = Path.cwd()
    try:
        tolerances = load_params().gate.tolerances
        revision, commit = find_revision("".join(sys.argv[1:]), root)
        listing = git("ls-tree", "--name-only", commit, f"{METRICS}/", folder=root).decode()
        names = [name for name in listing.splitlines() if name.endswith(".json")]
        before = read(
            {f"{revision}:{it}": git("show", f"{commit}:./{it}", folder=root) for it in names}
        )
        if not before:
            raise ValueError(f"{revision} has no {METRICS}/*.json to compare with")
        now = read({str(path): path.read_bytes() for path in sorted(METRICS.glob("*.json"))})
    except (ValueError, OSError) as error:
        print(f"gate: error: {error}", file=sys.stderr)
        return 2
    values = {key: (before.get(key, ABSENT), now.get(key, ABSENT)) for key in before | now}
    judged = {key: judge(key, *pair, tolerances) for key, pair in values.items()}
    rows = [(key, *values[key], verdict) for key, (_, verdict) in judged.items()]
    print(table(("metric", revision, "here", "verdict"), rows))
    if refused := sum(not passes for passes, _ in judged.values()):
        print(f"gate: refused: {refused} of {len(rows)} metrics, against {revision}")
        return 1
    print(f"gate: {len(rows)} metrics, none worse than gate.tolerances allow, against {revision}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
