"""preprocess: the paper's preparation of the data, cached as arrays.

reads   data/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte
writes  data/prepared/{train,validation,test}_images.npy  float32 (n, pixels) in 0…1
        data/prepared/{train,validation,test}_labels.npy  float32 one-hot (n, classes)

Images are flattened and divided by 255, labels become one-hot vectors. The validation split is
empty by default, as the paper has none; tuning takes it from the end of the training set, so
that it never looks at the test set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fashion_mlp.data.arrays import MAX_PIXEL, prepared_path
from fashion_mlp.data.idx import Header, iter_rows, read_header
from fashion_mlp.paths import PREPARED, RAW
from pipeline.console import progress, run
from pipeline.files import replacing
from pipeline.params import File, load_params

ROWS = 4000  # images held in memory at a time: 12.5 MB as float32


def prepare(
    raw: Path,
    prepared: Path,
    files: Mapping[str, File],
    image_shape: tuple[int, int],
    classes: int,
    validation_images: int,
) -> dict[str, int]:
    """Write the arrays of all splits.

    Args:
        raw: folder of the four IDX files.
        prepared: folder to write to.
        files: what each raw file must be.
        image_shape: height and width in pixels.
        classes: labels run from 0 to `classes` - 1.
        validation_images: how many of the last training images become the validation split.

    Returns:
        The number of images of each split.

    Raises:
        ValueError: a raw file is not what it should be, or too few training images.
        OSError: a file can't be read or written.
    """
    train, test = (read_headers(raw, source, image_shape) for source in ("train", "t10k"))
    if not test.shape[0]:
        raise ValueError(f"{raw}: the test set has no image; check fetch.files")
    train_images = train.shape[0] - validation_images
    if train_images < 1:
        raise ValueError(
            f"preprocess.validation_images: {validation_images:,} leaves no image to train on; "
            f"the training set has {train.shape[0]:,}"
        )
    rows = 2 * (train.shape[0] + test.shape[0])
    # The stack renames at its end: no array takes its place before all files are checked.
    with ExitStack() as stack, progress("preprocess", rows, "rows") as bar:
        for source, splits in (
            ("train", {"train": train_images, "validation": validation_images}),
            ("t10k", {"test": test.shape[0]}),
        ):
            for what, file, columns, convert in (
                ("images", f"{source}-images-idx3-ubyte", image_shape[0] * image_shape[1], scale),
                ("labels", f"{source}-labels-idx1-ubyte", classes, one_hot(classes)),
            ):
                parts = {
                    stack.enter_context(replacing(prepared_path(split, what, prepared))): n
                    for split, n in splits.items()
                }
                convert_file(raw / file, files[file], columns, convert, parts, bar.update)
    return {"train": train_images, "validation": validation_images, "test": test.shape[0]}


def read_headers(raw: Path, source: str, image_shape: tuple[int, int]) -> Header:
    """Check the headers of a source's images and labels; return that of the images."""
    images = read_header(raw / f"{source}-images-idx3-ubyte", axes=3)
    labels = read_header(raw / f"{source}-labels-idx1-ubyte", axes=1)
    if images.shape[1:] != image_shape:
        raise ValueError(
            f"{raw}/{source}-images-idx3-ubyte: expected images of {image_shape} pixels "
            f"(dataset.image_shape), got {images.shape[1:]}"
        )
    if images.shape[0] != labels.shape[0]:
        raise ValueError(
            f"{raw}: {images.shape[0]:,} {source} images but {labels.shape[0]:,} labels"
        )
    return images


def scale(block: np.ndarray, path: Path) -> np.ndarray:
    """Flatten images uint8 (n, height, width) to float32 (n, pixels) in 0…1.

    A true division: a multiplication by 1/255 rounds differently for 26 % of the byte values.
    """
    return block.reshape(len(block), -1) / MAX_PIXEL


def one_hot(classes: int) -> Callable[[np.ndarray, Path], np.ndarray]:
    """Make the function that turns labels uint8 (n,) into float32 one-hot (n, classes)."""
    identity = np.eye(classes, dtype=np.float32)

    def encode(block: np.ndarray, path: Path) -> np.ndarray:
        if block.max(initial=0) >= classes:
            raise ValueError(
                f"{path}: expected labels 0…{classes - 1} (dataset.classes), got {block.max()}"
            )
        return identity[block]

    return encode


def convert_file(
    path: Path,
    expected: File,
    columns: int,
    convert: Callable[[np.ndarray, Path], np.ndarray],
    parts: Mapping[Path, int],
    done: Callable[[int], object],
) -> None:
    """Convert an IDX file to .npy files that hold its rows one after the other.

    Args:
        path: the IDX file.
        expected: its SHA-256, compared when all is read.
        columns: values in a converted row.
        convert: from a block of uint8 rows to float32 (n, columns).
        parts: how many rows each .npy file takes, in order.
        done: called with the number of rows after each block.
    """
    header = read_header(path, axes=3 if "images" in path.name else 1)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(header.size))

    def converted() -> Iterator[np.ndarray]:
        for block in iter_rows(path, header, ROWS):
            digest.update(block.tobytes())
            done(len(block))
            yield convert(block, path)

    with ExitStack() as stack:
        outputs = [(stack.enter_context(part.open("wb")), rows) for part, rows in parts.items()]
        write_arrays(outputs, columns, converted())
        if digest.hexdigest() != expected.sha256:
            raise ValueError(
                f"{path}: expected SHA-256 {expected.sha256}, got {digest.hexdigest()}; "
                f"run `dvc repro --force fetch`"
            )


def write_arrays(
    outputs: Sequence[tuple[BinaryIO, int]], columns: int, blocks: Iterator[np.ndarray]
) -> None:
    """Write blocks of float32 rows to .npy files, one file after the other.

    Not through `np.lib.format.open_memmap`, whose pages would count as this process' memory.

    Args:
        outputs: files open for writing, and how many rows each takes.
        columns: values in a row.
        blocks: float32 (any, columns), as many rows in all as `outputs` take.
    """
    block = np.empty((0, columns), np.float32)
    for file, rows in outputs:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
        )
        while rows:
            if not len(block):
                block = next(blocks)
            file.write(block[:rows].tobytes())
            rows, block = rows - min(rows, len(block)), block[rows:]


def main() -> None:
    params = load_params()
    counts = prepare(
        RAW,
        PREPARED,
        params.fetch.files,
        params.dataset.image_shape,
        params.dataset.classes,
        params.preprocess.validation_images,
    )
    print("preprocess: " + ", ".join(f"{count:,} {split}" for split, count in counts.items()))


if __name__ == "__main__":
    run(main)
