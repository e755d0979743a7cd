"""The prepared arrays: where they lie, and what they must be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fashion_mlp.paths import PREPARED

MAX_PIXEL = np.float32(255)  # the largest byte, which preprocessing makes 1
BATCH_SIZE = 1000  # images predicted at a time


class Split(NamedTuple):
    """Images and labels of one split, memory-mapped.

    images: float32 (n, pixels) in 0…1. labels: float32 one-hot (n, classes).
    """

    images: np.ndarray
    labels: np.ndarray


def prepared_path(split: str, what: str, folder: Path = PREPARED) -> Path:
    """Name the file of a split's `images` or `labels`."""
    return folder / f"{split}_{what}.npy"


def load_split(split: str, pixels: int, classes: int, folder: Path = PREPARED) -> Split:
    """Map a split into memory and check what can be checked without reading it all.

    Args:
        split: train, validation or test.
        pixels: values in one image.
        classes: number of classes.
        folder: where the arrays lie.

    Raises:
        ValueError: not an .npy file, or another dtype or shape than the pipeline writes.
        OSError: the file can't be read.
    """
    images = _load(prepared_path(split, "images", folder), pixels)
    labels = _load(prepared_path(split, "labels", folder), classes)
    if len(images) != len(labels):
        raise ValueError(
            f"{folder}: {len(images):,} {split} images but {len(labels):,} labels; "
            f"run `dvc repro --force preprocess`"
        )
    return Split(images, labels)


def _load(path: Path, columns: int) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python: damaged, it raises anything
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: not a whole .npy file ({reason}); run `dvc repro --force preprocess`"
        ) from None
    if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(
            f"{path}: expected float32 (n, {columns}), got {array.dtype} {array.shape}; "
            f"run `dvc repro --force preprocess`"
        )
    return array
