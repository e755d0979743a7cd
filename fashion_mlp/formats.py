"""How text outputs are written: the bytes depend on the values alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import replacing

DIGITS = 6  # of a loss or a share; float32 carries no more


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with LF line ends on every system."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values as JSON, readable and in the order given."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; a float has `DIGITS` decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{one:.{DIGITS}f}" if isinstance(one, float) else one for one in row])
    write_text(path, text.getvalue())
