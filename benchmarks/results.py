"""The measured tables: benchmarks/results.json, read, written, printed and drawn.

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
from fashion_mlp.formats import write_text

RESULTS = Path(__file__).with_name("results.json")
PICTURE = Path(__file__).with_name("results.png")


def table(key: str, notes: bool = True) -> str:
    """Format a table of results.json as Markdown.

    Args:
        key: its name, such as `training`.
        notes: whether its notes follow, as a list.
    """
    found = load(RESULTS)[1][key]
    listed = [f"- {note}" for note in found.notes] if notes else []
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
    values = json.loads(path.read_text(encoding="utf-8"))
    tables = {
        key: Table(key, **(found | {"rows": [Row(**row) for row in found["rows"]]}))
        for key, found in values["tables"].items()
    }
    return values["machine"], tables


def dump(machine: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """Write every value as JSON, a line for each row."""

    def line(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    parts = []
    for found in tables:
        head = line({"title": found.title, "unit": found.unit, "notes": list(found.notes)})[:-1]
        rows = ",\n".join(line(rounded(row)) for row in found.rows)
        parts.append(f'{line(found.key)}: {head}, "rows": [\n{rows}\n]}}')
    body = ",\n".join(parts)
    return f'{{"machine": {line(machine)},\n"tables": {{\n{body}\n}}}}\n'


def rounded(row: Row) -> dict[str, Any]:
    """Give a row's entry in results.json, values to six significant digits."""
    values = [float(f"{value:.6g}") for value in row.values]
    optional = {"against": row.against, "goal": row.goal}
    return {"name": row.name, **{k: v for k, v in optional.items() if v}, "values": values}


def publish(machine: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Write results.json and results.png."""
    write_text(RESULTS, dump(machine, tables))
    draw(PICTURE, machine, tables)
    print(f"bench: wrote {RESULTS.name} and {PICTURE.name} in {RESULTS.parent}")


def draw(path: Path, machine: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Draw a dot for each median, a line from smallest to largest, a red bar for each goal.

    A goal that is a ratio is drawn at that multiple of the median it is compared with.
    """
    from fashion_mlp.pictures.style import BLUE, GREY, VERMILION, drawing

    heights = [len(found.rows) + 1.5 for found in tables]
    with drawing(path, 0.27 * sum(heights)) as figure:
        all_axes = figure.subplots(len(tables), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, found in zip(all_axes, tables, strict=True):
            medians = {row.name: statistics.median(row.values) for row in found.rows}
            for place, row in enumerate(found.rows):
                ends = [min(row.values), max(row.values)]
                axes.plot(ends, [place, place], color=GREY, linewidth=2)
                axes.plot(medians[row.name], place, "o", color=BLUE, markersize=6)
                if row.goal is not None:
                    goal = row.goal * medians.get(row.against, 1.0)
                    axes.plot(goal, place, "|", color=VERMILION, markersize=14, markeredgewidth=2)
            axes.set_yticks(range(len(found.rows)), [row.name for row in found.rows])
            axes.set_ylim(len(found.rows) - 0.5, -0.5)
            axes.set_xlim(left=0)
            axes.grid(axis="x")
            axes.set_title(f"{found.title} ({found.unit})", loc="left", fontsize=10)
        figure.supxlabel(
            f"dot: median; line: range; bar: goal. {machine['processor']}, "
            f"{machine['cores_used']} cores, {machine['date']}",
            fontsize=8,
        )
