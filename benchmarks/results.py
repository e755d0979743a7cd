"""The measured tables: benchmarks/results.json, read, written and printed.

In a document, cog keeps a table up to date:

    <!-- [[[cog from benchmarks import results; cog.outl(results.table("training")) ]]] -->
    <!-- [[[end]]] -->
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.measure import Row, Table
from fashion_mlp.formats import write_json

RESULTS = Path(__file__).with_name("results.json")


def table(key: str) -> str:
    """Format a table of results.json as Markdown, with its notes; `key` is such as `training`."""
    found = load(RESULTS)[1][key]
    listed = [f"- {note}" for note in found.notes]
    return "\n".join([layout(found, "pipe"), *(["", *listed] if listed else [])])


def described() -> str:
    """List what results.json says of the machine."""
    return ", ".join(f"{key} {value}" for key, value in load(RESULTS)[0].items())


def text(found: Table) -> str:
    """Format a table for the terminal."""
    return "\n".join([f"{found.title} ({found.unit})", layout(found, "simple"), *found.notes, ""])


def layout(found: Table, form: str) -> str:
    """Format the rows of a table; `form` is a format of tabulate's."""
    (n,) = {len(row.values) for row in found.rows}
    head = ["", f"{found.unit}, median of {n} (range)", "ratio (range)", "goal"]
    rows = []
    for row in found.rows:
        ratios, goal = found.ratios(row), ""
        if row.goal is not None:
            met = statistics.median(ratios or row.values) <= row.goal
            goal = f"{row.goal:g}: {'met' if met else 'MISSED'}"
        rows.append([row.name, spread(row.values), spread(ratios, 2) if ratios else "", goal])
    used = [at for at in range(4) if at < 2 or any(row[at] for row in rows)]
    return tabulate(
        [[row[at] for at in used] for row in rows],
        [head[at] for at in used],
        form,
        disable_numparse=True,
        colalign=["left", "right", "right", "left"][: len(used)],
    )


def spread(values: Sequence[float], decimals: int | None = None) -> str:
    """Format median, smallest and largest value."""
    of = [statistics.median(values), min(values), max(values)]
    middle, low, high = (
        number(value) if decimals is None else f"{value:.{decimals}f}" for value in of
    )
    return f"{middle} ({low} to {high})"


def number(value: float) -> str:
    """Format three significant digits, and all before the decimal point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def load(path: Path) -> tuple[dict[str, Any], dict[str, Table]]:
    """Read the machine's description and the tables by their keys."""
    content = json.loads(path.read_text(encoding="utf-8"))
    tables = [
        Table(**found | {"rows": [Row(**row) for row in found["rows"]]})
        for found in content["tables"]
    ]
    return content["machine"], {found.key: found for found in tables}


def publish(machine: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Write results.json."""
    content = [
        found._asdict() | {"rows": [row._asdict() for row in found.rows]} for found in tables
    ]
    write_json(RESULTS, {"machine": machine, "tables": content})
    print(f"bench: wrote {RESULTS}")
