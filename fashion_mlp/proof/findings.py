"""How a file is held to levels, anybody's and those that ship, and what a level finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

HELD, LIMITED, DIFFERS, OPEN = "held", "held up to a limit", "differs", "not possible"


class CannotRunError(ValueError):
    """Nothing is known of two models, as one of them can't be run."""


class Finding(NamedTuple):
    """What a level found."""

    result: str  # HELD, LIMITED, DIFFERS or OPEN
    says: str
    data: dict[str, Any] = {}  # noqa: RUF012


def hold(
    levels: Mapping[str, Callable[[Any, Any], Finding]], candidate: Any, known: Any
) -> Iterator[tuple[str, Finding]]:
    """Hold a file to each level in turn; none depends on another.

    Args:
        levels: by name: functions of the file and of what is known, which give a finding, or raise
            ValueError where the two differ, CannotRunError where that can't be seen.
        candidate: the file.
        known: what it is held to.

    Yields:
        The name of each level, and what it found.
    """
    for name, level in levels.items():
        try:
            finding = level(candidate, known)
        except ValueError as error:
            finding = Finding(OPEN if isinstance(error, CannotRunError) else DIFFERS, str(error))
        yield name, finding


def distance(expected: np.ndarray, found: np.ndarray, unsettled: float = np.inf) -> float:
    """Measure the largest difference.

    Args:
        expected: numbers, of any dtype.
        found: of the same shape.
        unsettled: counts where only one of both is a finite number.
    """
    expected, found = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(expected - found)
    alike = (expected == found) | (np.isnan(expected) & np.isnan(found))
    apart = np.where(alike, 0.0, apart)
    return float(np.nan_to_num(apart, nan=unsettled, posinf=unsettled).max(initial=0.0))
