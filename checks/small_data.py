"""A small data set that can be learnt, for what runs the pipeline on a copy."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.params import File


def idx_bytes(array: np.ndarray) -> bytes:
    """Write an IDX file of bytes by hand: the oracle for the reader."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


class Data(NamedTuple):
    """A small data set: arrays uint8, and the same as files."""

    arrays: dict[str, np.ndarray]
    contents: dict[str, bytes]

    @property
    def files(self) -> dict[str, File]:
        """The same as the schema has it."""
        return {name: File(**entry) for name, entry in self.entries.items()}

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """What `fetch.files` of params.yaml says of the files."""
        return {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in self.contents.items()
        }

    def write(self, folder: Path, compressed: bool = False) -> Path:
        """Write the files into a folder, as they are or as .gz; return it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return folder


def make_data(train: int, test: int, shape: Sequence[int], classes: int = 10) -> Data:
    """Make images that can be learnt: each class has a pattern, noise lies over it."""
    random = np.random.default_rng(0)
    patterns = random.integers(0, 200, (classes, *shape))
    arrays = {}
    for source, count in (("train", train), ("t10k", test)):
        labels = random.integers(0, classes, count).astype(np.uint8)
        images = patterns[labels] + random.integers(0, 56, (count, *shape))
        arrays[f"{source}-images-idx3-ubyte"] = images.astype(np.uint8)
        arrays[f"{source}-labels-idx1-ubyte"] = labels
    return Data(arrays, {name: idx_bytes(array) for name, array in arrays.items()})
