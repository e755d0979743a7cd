"""What a level of the comparison of any two models gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fashion_mlp.proof.layerwise import as_double

HELD, LIMITED, DIFFERS, OPEN = "held", "held up to a limit", "differs", "not possible"


class Finding(NamedTuple):
    """What a level found."""

    result: str  # HELD, LIMITED, DIFFERS or OPEN
    says: str
    data: dict[str, Any] = {}  # noqa: RUF012


def distance(expected: np.ndarray, found: np.ndarray) -> float:
    """Measure the largest difference; infinite where only one of both is a number."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(as_double(expected) - as_double(found))
    apart[(expected == found) | (np.isnan(expected) & np.isnan(found))] = 0.0
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
