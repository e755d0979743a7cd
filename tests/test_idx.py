from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from checks.small_data import idx_bytes
from fashion_mlp.data.idx import Header, iter_rows, read_header

IMAGES = idx_bytes(np.arange(24).reshape(2, 3, 4))  # 16 bytes of header, 24 of pixels


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def test_read_header_of_bytes_written_by_hand(tmp_path: Path) -> None:
    content = bytes.fromhex("00000803 00000002 00000001 00000003") + b"abcdef"
    header = read_header(write(tmp_path, content), axes=3)
    assert header == Header(shape=(2, 1, 3), size=16)
    assert header.file_bytes == 22


@pytest.mark.parametrize(
    ("content", "axes", "message"),
    [
        (b"", 3, "expected IDX (two zero bytes), got bytes "),
        (b"<!DOCTYPE html>", 3, "expected IDX (two zero bytes), got bytes 3c 21 44 4f"),
        (b"\x1f\x8b\x08\0", 3, "expected IDX, got gzip; decompress it first"),
        (b"\0\0\x0d\x03", 3, "expected uint8 values (type 8), got type 13 (float32)"),
        (b"\0\0\x07\x03", 3, "expected uint8 values (type 8), got unknown type 7"),
        (idx_bytes(np.zeros(5)), 3, "expected 3 axes, got 1 (labels have 1)"),
        (IMAGES, 1, "expected 1 axes, got 3 (images have 3)"),
        (IMAGES[:10], 3, "the file ends inside its header"),
        (IMAGES[:-1], 3, "its header says (2, 3, 4), which is 40 bytes; the file has 39"),
        (IMAGES + b"x", 3, "its header says (2, 3, 4), which is 40 bytes; the file has 41"),
    ],
)
def test_read_header_refuses(tmp_path: Path, content: bytes, axes: int, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError) as error:
        read_header(path, axes)
    assert str(error.value) == f"{path}: {message}"


def test_iter_rows_refuses_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = write(tmp_path, IMAGES)
    header = read_header(path, axes=3)
    path.write_bytes(IMAGES[:-1])
    with pytest.raises(ValueError, match="became shorter while it was read"):
        list(iter_rows(path, header, 1))


@given(
    array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3, max_side=9)),
    rows=st.integers(1, 12),
)
def test_iter_rows_gives_back_any_array(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, rows: int
) -> None:
    path = write(tmp_path_factory.getbasetemp(), idx_bytes(array))
    blocks = list(iter_rows(path, read_header(path, array.ndim), rows))
    assert max(len(block) for block in blocks) <= rows
    np.testing.assert_array_equal(np.concatenate(blocks), array)


@given(content=st.binary(max_size=40) | st.binary(max_size=36).map(lambda rest: IMAGES[:4] + rest))
def test_read_header_of_any_bytes_is_right_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp(), content)
    try:
        header = read_header(path, axes=3)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert header.file_bytes == len(content)
