"""Refuse metrics that got worse: `make gate`, with REV=… for another revision than main.

Compares metrics/*.json as they lie here with those of a git revision. A loss or an error that
rose, or an accuracy and the like that fell, by more than `gate.tolerances` of params.yaml allow,
a metric that is missing and one that is no finite number are refused. (`dvc metrics diff` shows
changes, and exits with 0 whatever they are.)
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checks.repro import Difference, compare, leaves, run
from pipeline.params import load_params

METRICS = Path("metrics")
BRANCHES = ("main", "origin/main")  # in a clone that CI makes, only the second may exist
# Whether more is better, by the whole last part of a key, else by its last word. Others may change.
MORE_IS_BETTER = {
    "within_bound": True,
    **dict.fromkeys(["accuracy", "precision", "recall", "f1"], True),
    **dict.fromkeys(["agreement", "agreeing", "identical", "images"], True),
    **dict.fromkeys(["loss", "error", "tolerance"], False),
}


def verdict(difference: Difference) -> tuple[bool, str]:
    """Judge a metric that differs.

    Returns:
        Whether it may stand, and a word or two why.
    """
    before, now = difference.committed, difference.found
    if now == "nothing":
        return False, "MISSING"
    if (isinstance(now, float) and not math.isfinite(now)) or now is None:
        return False, "NOT A NUMBER"
    if before == "nothing":
        return True, "new"
    if isinstance(before, int | float) and not isinstance(now, int | float):
        return False, "NOT A NUMBER"
    more = more_is_better(difference.key)
    if more is None or not isinstance(before, int | float) or not math.isfinite(before):
        return True, "changed"
    # Rounded, as 0.8686 - 0.8636 is a little more than 0.005 in binary.
    worse = round(before - now if more else now - before, 9)
    if worse > difference.allowed:
        return False, "WORSE"
    return True, "worse, within tolerance" if worse > 0 else "better"


class Row(NamedTuple):
    """What became of one metric."""

    key: str
    before: Any
    now: Any
    good: bool
    why: str


def compare_files(
    before: Mapping[str, dict[str, Any]],
    now: Mapping[str, dict[str, Any]],
    tolerances: Mapping[str, float],
) -> list[Row]:
    """Judge every metric of every file.

    Args:
        before: the metrics of the revision, by file.
        now: those that lie here.
        tolerances: by key; `other` for those not named.
    """
    rows = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, {}), now.get(name, {})
        differing = {item.key: item for item in compare(old, new, tolerances)}
        for key, value in (dict(leaves(old)) | dict(leaves(new))).items():
            if item := differing.get(key):
                rows.append(Row(key, item.committed, item.found, *verdict(item)))
            else:
                rows.append(Row(key, value, value, True, "same"))
    return rows


def more_is_better(key: str) -> bool | None:
    """Tell from a metric's name which way is better; None where none is."""
    name = key.rsplit(".", 1)[-1]
    return MORE_IS_BETTER.get(name, MORE_IS_BETTER.get(name.rsplit("_", 1)[-1]))


def committed(revision: str, root: Path) -> dict[str, dict[str, Any]]:
    """Read metrics/*.json of a git revision, by path."""
    names = run(["git", "ls-tree", "--name-only", revision, f"{METRICS}/"], root).splitlines()
    return {
        name: read(run(["git", "show", f"{revision}:{name}"], root), f"{revision}:{name}")
        for name in names
        if name.endswith(".json")
    }


def read(text: str, where: str) -> dict[str, Any]:
    """Read one metrics file; `where` names it in errors."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected an object of metrics, got {type(values).__name__}")
    return values


def find_revision(wanted: str, root: Path) -> str:
    """Find the revision to compare with: the one wanted, or the main branch."""
    for name in [wanted] if wanted else BRANCHES:
        if run(
            ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], root, check=False
        ):
            return name
    raise ValueError(
        f"git has no revision {wanted or ' or '.join(BRANCHES)}; name one: make gate REV=HEAD~1"
    )


def main() -> int:
    """Compare and print; the exit status says whether the metrics may stand."""
    root = Path.cwd()
    try:
        tolerances = load_params().gate.tolerances
        revision = find_revision(sys.argv[1] if len(sys.argv) > 1 else "", root)
        before = committed(revision, root)
        if not before:
            raise ValueError(f"{revision} has no {METRICS}/*.json to compare with")
        now = {
            path.as_posix(): read(path.read_text(encoding="utf-8"), str(path))
            for path in sorted(METRICS.glob("*.json"))
        }
    except (ValueError, OSError) as error:
        print(f"gate: error: {error}", file=sys.stderr)
        return 2
    rows = compare_files(before, now, tolerances)
    shown = [row for row in rows if row.why != "same" or "." not in row.key]
    print_table(
        ("metric", revision, "here", "verdict"),
        [(row.key, str(row.before), str(row.now), row.why) for row in shown],
    )
    if refused := sum(not row.good for row in rows):
        print(f"gate: refused: {refused} of {len(rows)} metrics, against {revision}")
        return 1
    print(f"gate: {len(rows)} metrics, none worse than gate.tolerances allow, against {revision}")
    return 0


def print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print rows as a Markdown table whose columns line up."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = tuple("-" * width for width in widths)
    for line in (head, rule, *rows):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join(padded)} |")


if __name__ == "__main__":
    sys.exit(main())
