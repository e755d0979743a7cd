"""Refuse metrics that got worse: `make gate`, or `make gate REV=HEAD~1`.

Compares metrics/*.json with those of a git revision, the main branch where none is given. Refused
are a metric that is worse by more than `gate.tolerances` in params.yaml allow, one that is missing
or not a finite number, and one whose name `BETTER` does not list. (`dvc metrics diff` shows changes
and always exits with 0.)
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvc.utils.flatten import flatten

from checks.common import ABSENT, git, table
from pipeline.params import load_params

METRICS = Path("metrics")
BRANCHES = ("main", "origin/main")  # in CI's clones only the second may exist
HIGHER, LOWER, NEITHER = 1, -1, 0
# Which way each metric is better, by the last part of its key. NEITHER: it describes the network
# or one image, or counts what stage export itself enforces.
BETTER = {
    "train_loss": LOWER,
    "train_accuracy": HIGHER,
    "validation_loss": LOWER,
    "validation_accuracy": HIGHER,
    "validation_top2_accuracy": HIGHER,
    "validation_calibration_error": LOWER,
    "test_loss": LOWER,
    "test_accuracy": HIGHER,
    "test_top2_accuracy": HIGHER,
    "test_calibration_error": LOWER,
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
        key: dotted where metrics are nested.
        before: the revision's value; `ABSENT` where it has none.
        now: the value here; the same.
        tolerances: by key; `other` for those not listed, 0 where that is not given either.

    Returns:
        Whether it passes, and why.
    """
    allowed = tolerances.get(key, tolerances.get("other", 0.0))
    better = BETTER.get(key.rsplit(".", 1)[-1])
    if better is None:
        return False, "UNKNOWN METRIC: add it to BETTER in checks/gate.py"
    if now == ABSENT:
        return False, "MISSING"
    if now is None or (isinstance(now, float) and not math.isfinite(now)):
        return False, "NOT A NUMBER"
    if before == ABSENT:
        return True, "new"
    if now == before:
        return True, "same"
    if not _is_number(before) or better == NEITHER:
        return True, "changed"
    if not _is_number(now):
        return False, "NOT A NUMBER"
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
    for name in [wanted] if wanted else BRANCHES:
        try:
            found = git(
                "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}", folder=root
            )
        except ValueError as error:
            if "Needed a single revision" not in str(error):
                raise
        else:
            return name, found.decode().split()[-1]
    raise ValueError(
        f"git has no revision {wanted or ' or '.join(BRANCHES)}; name one: make gate REV=HEAD~1"
    )


def read(content: bytes, where: str) -> dict[str, Any]:
    """Read one metrics file, by dotted key; `where` names it in errors."""
    try:
        values = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected an object of metrics, got {type(values).__name__}")
    return dict(flatten(values))


def main() -> int:
    """Compare and print; the exit status says whether the metrics pass."""
    root = Path.cwd()
    wanted = "".join(sys.argv[1:])
    try:
        tolerances = load_params().gate.tolerances
        revision, commit = find_revision(wanted, root)
        listing = git("ls-tree", "--name-only", "-z", commit, f"{METRICS}/", folder=root)
        before: dict[str, Any] = {}
        for name in listing.decode().split("\0"):
            if name.endswith(".json"):
                content = git("show", f"{commit}:./{name}", folder=root)
                before |= read(content, f"{revision}:{name}")
        if not before:
            raise ValueError(f"{revision} has no {METRICS}/*.json to compare with")
        now: dict[str, Any] = {}
        for path in sorted(METRICS.glob("*.json")):
            now |= read(path.read_bytes(), str(path))
    except (ValueError, OSError) as error:
        print(f"gate: error: {error}", file=sys.stderr)
        return 2
    rows: list[tuple[Any, ...]] = []
    refused = 0
    for key in dict.fromkeys([*before, *now]):
        values = before.get(key, ABSENT), now.get(key, ABSENT)
        passes, verdict = judge(key, *values, tolerances)
        refused += not passes
        rows.append((key, *values, verdict))
    shown = [row for row in rows if row[-1] != "same" or "." not in row[0]]
    print(table(("metric", revision, "here", "verdict"), shown))
    if refused:
        print(f"gate: refused: {refused} of {len(rows)} metrics, against {revision}")
        return 1
    print(f"gate: {len(rows)} metrics, none worse than gate.tolerances allow, against {revision}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
