from pathlib import Path

import numpy as np
import pytest

from fashion_mlp.data.arrays import load_split

REMEDY = "run `dvc repro --force preprocess`"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "test_images.npy", np.full((5, 6), 0.5, np.float32))
    np.save(tmp_path / "test_labels.npy", np.eye(5, 10, dtype=np.float32))
    return tmp_path


def test_load_split_maps_the_arrays(folder: Path) -> None:
    split = load_split("test", 6, 10, folder)
    np.testing.assert_array_equal(split.images, np.full((5, 6), 0.5, np.float32))
    np.testing.assert_array_equal(split.labels, np.eye(5, 10))
    assert isinstance(split.images, np.memmap)
    assert not split.images.flags.writeable


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((5, 6)), "float64 (5, 6)"),
        (np.zeros((5, 6), np.uint8), "uint8 (5, 6)"),
        (np.zeros((5, 6), ">f4"), ">f4 (5, 6)"),
        (np.zeros((5, 7), np.float32), "float32 (5, 7)"),
        (np.zeros((5, 2, 3), np.float32), "float32 (5, 2, 3)"),
        (np.zeros(30, np.float32), "float32 (30,)"),
    ],
)
def test_load_split_refuses_another_array(folder: Path, array: np.ndarray, got: str) -> None:
    path = folder / "test_images.npy"
    np.save(path, array)
    with pytest.raises(ValueError) as error:
        load_split("test", 6, 10, folder)
    assert str(error.value) == f"{path}: expected float32 (n, 6), got {got}; {REMEDY}"


def test_load_split_refuses_counts_that_differ(folder: Path) -> None:
    np.save(folder / "test_labels.npy", np.eye(4, 10, dtype=np.float32))
    with pytest.raises(ValueError) as error:
        load_split("test", 6, 10, folder)
    assert str(error.value) == f"{folder}: 5 test images but 4 labels; {REMEDY}"


@pytest.mark.parametrize("keep", [0, 8, 60, 200, -1])
def test_load_split_refuses_a_truncated_file(folder: Path, keep: int) -> None:
    path = folder / "test_images.npy"
    path.write_bytes(path.read_bytes()[:keep])
    says = rf"^{path}: not a whole \.npy file \(.*\); {REMEDY}$"
    with pytest.raises(ValueError, match=says):
        load_split("test", 6, 10, folder)


def test_load_split_refuses_any_damaged_header(folder: Path) -> None:
    path = folder / "test_images.npy"
    whole = path.read_bytes()
    for at in range(64):  # all of the header that says something
        for value in (0, 0x80, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ value or 1]) + whole[at + 1 :])
            try:
                split = load_split("test", 6, 10, folder)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ")
            else:
                assert (split.images.dtype.name, split.images.shape) == ("float32", (5, 6))
