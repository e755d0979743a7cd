"""Where a file that differs parts from Keras: the layer, the node, the worst rows, the classes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fashion_mlp.proof.findings import DIFFERS, HELD, OPEN, Finding, distance
from fashion_mlp.proof.known import LOCATED, Known
from fashion_mlp.proof.locate import Place, first_difference, node_place, user_of
from fashion_mlp.proof.pairing import Beside, in_double

WORST = 5  # rows and changes of class that are shown


def find_place(known: Known, file: Beside, findings: Mapping[str, Finding]) -> Finding:
    """Name the first layer and the first node that differ."""
    matches = findings["weights"].data.get("weights", [])
    folded = any(match["how"] == "folded" for match in matches)
    changed = next((match for match in matches if match["how"] == "changed"), None)
    place = Place("", "", "")
    with contextlib.suppress(ValueError):
        place = differing(known, file, folded)
    if changed and not place.node:  # a weight that none of these inputs shows
        user = user_of(changed["tensor"], file.model)
        place = Place(changed["name"], *(node_place(user) if user else ("", "")))
    if not place.layer and not place.node:
        return Finding(OPEN, "no layer and no node differs in float64")
    return Finding(
        DIFFERS, f"layer {place.layer or '?'}; node {place.node or '?'}", place._asdict()
    )


def differing(known: Known, file: Beside, folded: bool) -> Place:
    """Run the file in float64, all its nodes, and find the first that differs from Keras.

    Raises:
        ValueError: it can't be run.
    """
    given = {name: array[-LOCATED:] for name, array in file.feeds.items()}
    values = given | in_double(file.model, given, every=True)
    limits = known.wide_limits if folded else known.limits
    wrong = [
        name
        for name, expected, limit in zip(file.outputs, known.double, limits, strict=True)
        if not distance(expected[-LOCATED:], values[name]) <= limit
    ]
    step_limits = known.step_limits[folded]
    return first_difference(known.steps, known.step_values, step_limits, file.model, values, wrong)


def worst_rows(known: Known, answers: Sequence[np.ndarray]) -> Finding:
    """Show where float32's answers are furthest off, and which classes of that output changed."""
    expected, found = max(zip(known.double, answers, strict=True), key=lambda it: distance(*it))
    apart = np.abs(expected - found).reshape(len(found), -1).max(axis=1)
    rows = np.argsort(-np.nan_to_num(apart, nan=np.inf), kind="stable")[:WORST]
    data: dict[str, Any] = {"rows": rows.tolist(), "distances": apart[rows].tolist()}
    says = f"rows {', '.join(map(str, rows))}"
    if expected.ndim == 2 and expected.shape[1] > 1:
        images = slice(known.images)
        pairs = Counter(
            (int(a), int(b))
            for a, b in zip(expected[images].argmax(1), found[images].argmax(1), strict=True)
            if a != b
        )
        data["classes"] = [[*pair, count] for pair, count in pairs.most_common()]
        most = ", ".join(f"{a} -> {b}: {count}" for (a, b), count in pairs.most_common(WORST))
        says += f"; {pairs.total():,} of {known.images:,} images of another class {most}".rstrip()
    return Finding(DIFFERS if data.get("classes") else HELD, says, data)
