"""The IDX format: a header, then an array's bytes in C order.

Source: http://yann.lecun.com/exdb/mnist/ ("the IDX file format"): two zero bytes, a byte for
the type, a byte for the number of axes, then each axis' length as a big-endian uint32.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

UINT8 = 0x08
TYPE_NAMES = {UINT8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}


class Header(NamedTuple):
    """What an IDX file of bytes says of itself."""

    shape: tuple[int, ...]
    size: int  # bytes of the header

    @property
    def file_bytes(self) -> int:
        """How long the whole file must be."""
        return self.size + math.prod(self.shape)


def read_header(path: Path, axes: int) -> Header:
    """Read and check the header of an IDX file of bytes (uint8).

    3 axes are images, 1 labels.

    Raises:
        ValueError: not IDX, another type, another number of axes, or another length than the
            header says; the text names the file, what was expected and what was found.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return _parse_header(file, path, axes)


def _parse_header(file: BinaryIO, path: Path, axes: int) -> Header:
    start = file.read(4)
    if start[:2] == b"\x1f\x8b":
        raise ValueError(f"{path}: expected IDX, got gzip; decompress it first")
    if len(start) < 4 or start[:2] != b"\0\0":
        raise ValueError(f"{path}: expected IDX (two zero bytes), got bytes {start.hex(' ')}")
    kind, found_axes = start[2], start[3]
    if kind != UINT8:
        raise ValueError(f"{path}: expected uint8 values (type 8), got {_type_name(kind)}")
    if found_axes != axes:
        hint = {1: " (labels have 1)", 3: " (images have 3)"}.get(found_axes, "")
        raise ValueError(f"{path}: expected {axes} axes, got {found_axes}{hint}")
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise ValueError(f"{path}: the file ends inside its header")
    header = Header(struct.unpack(f">{axes}I", lengths), 4 + 4 * axes)
    found_bytes = os.fstat(file.fileno()).st_size
    if found_bytes != header.file_bytes:
        raise ValueError(
            f"{path}: its header says {header.shape}, which is {header.file_bytes:,} bytes; "
            f"the file has {found_bytes:,}"
        )
    return header


def _type_name(kind: int) -> str:
    return f"type {kind} ({TYPE_NAMES[kind]})" if kind in TYPE_NAMES else f"unknown type {kind}"


def iter_rows(path: Path, header: Header, rows: int) -> Iterator[np.ndarray]:
    """Yield the array in blocks along its first axis, so that memory stays bounded.

    A block holds `rows` entries of the first axis; the last may hold fewer.

    Yields:
        uint8 arrays (at most `rows`, *header.shape[1:]).

    Raises:
        ValueError: the file became shorter while it was read.
    """
    row_shape = header.shape[1:]
    row_bytes = math.prod(row_shape)
    with path.open("rb") as file:
        file.seek(header.size)
        for first in range(0, header.shape[0], rows):
            count = min(rows, header.shape[0] - first)
            block = file.read(count * row_bytes)
            if len(block) != count * row_bytes:
                raise ValueError(f"{path}: became shorter while it was read")
            yield np.frombuffer(block, np.uint8).reshape(count, *row_shape)
