import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from checks.small_data import Data, idx_bytes, make_data
from pipeline.environment import ROOT
from pipeline.params import File
from stages import preprocess as stage
from stages.preprocess import one_hot, prepare, scale
from tests.conftest import CLASSES, HEIGHT, TEST, TRAIN, WIDTH, snapshot
from tests.processes import run as run_program

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
LAST = "t10k-labels-idx1-ubyte"
NONE: dict[str, File] = {}


@pytest.fixture
def raw(data: Data, tmp_path: Path) -> Path:
    return data.write(tmp_path / "raw")


def run(
    raw: Path, data: Data, validation_images: int = 0, files: Mapping[str, File] = NONE
) -> dict[str, int]:
    shape = (HEIGHT, WIDTH)
    return prepare(
        raw, raw.parent / "prepared", {**data.files, **files}, shape, CLASSES, validation_images
    )


def arrays(raw: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in (raw.parent / "prepared").iterdir()}


def replace(raw: Path, name: str, content: bytes) -> dict[str, File]:
    """Put other content into a raw file; return its true description."""
    (raw / name).write_bytes(content)
    return Data({}, {name: content}).files


def test_scale_divides_every_byte_truly() -> None:
    block = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    expected = np.array([np.float32(byte) / np.float32(255) for byte in range(256)])
    got = scale(block, Path())
    assert (got.dtype.name, got.shape) == ("float32", (1, 256))
    assert got.tobytes() == expected.tobytes()
    assert (got != block.reshape(1, -1) * np.float32(1 / 255)).mean() > 0.2


def test_one_hot_has_a_one_where_the_label_says() -> None:
    got = one_hot(4)(np.array([3, 0], np.uint8), Path())
    assert got.dtype == np.float32
    assert got.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_prepare_writes_what_numpy_computes(raw: Path, data: Data) -> None:
    assert run(raw, data) == {"train": TRAIN, "validation": 0, "test": TEST}
    got = arrays(raw)
    for split, source in (("train", "train"), ("test", "t10k")):
        images = data.arrays[f"{source}-images-idx3-ubyte"].reshape(-1, HEIGHT * WIDTH)
        labels = data.arrays[f"{source}-labels-idx1-ubyte"]
        np.testing.assert_array_equal(got[f"{split}_images"], images / np.float32(255), strict=True)
        np.testing.assert_array_equal(
            got[f"{split}_labels"], np.eye(CLASSES, dtype=np.float32)[labels], strict=True
        )
    assert got["validation_images"].shape == (0, HEIGHT * WIDTH)
    assert got["validation_labels"].shape == (0, CLASSES)


@pytest.mark.parametrize("rows", [1, 7, 4000])
def test_prepare_holds_out_the_last_training_images(
    raw: Path, data: Data, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(raw, data)
    whole = arrays(raw)
    monkeypatch.setattr(stage, "ROWS", rows)
    counts = run(raw, data, validation_images=93)
    assert counts == {"train": 207, "validation": 93, "test": TEST}
    got = arrays(raw)
    for what in ("images", "labels"):
        np.testing.assert_array_equal(got[f"train_{what}"], whole[f"train_{what}"][:207])
        np.testing.assert_array_equal(got[f"validation_{what}"], whole[f"train_{what}"][207:])
        np.testing.assert_array_equal(got[f"test_{what}"], whole[f"test_{what}"])


@pytest.mark.parametrize("count", [TRAIN, TRAIN + 1, 10**30])
def test_prepare_refuses_to_hold_out_every_image(raw: Path, data: Data, count: int) -> None:
    with pytest.raises(ValueError) as error:
        run(raw, data, validation_images=count)
    assert str(error.value) == (
        f"preprocess.validation_images: {count:,} leaves no image to train on; "
        f"the training set has {TRAIN}"
    )


def other_labels(data: Data, number: int, label: int) -> bytes:
    labels = data.arrays[LAST].copy()
    labels[number] = label
    return idx_bytes(labels)


# What a raw file holds instead, and what is said; where `True`, params.yaml says it is right.
REFUSED: dict[str, tuple[str, Callable[[Data], bytes], bool, str]] = {
    "another shape": (
        IMAGES,
        lambda data: idx_bytes(data.arrays[IMAGES].transpose(0, 2, 1)),
        True,
        f"/{IMAGES}: expected images of (4, 3) pixels (dataset.image_shape), got (3, 4)",
    ),
    "a label short": (
        LABELS,
        lambda data: idx_bytes(data.arrays[LABELS][:-1]),
        True,
        ": 300 train images but 299 labels",
    ),
    "another content": (
        LAST,
        lambda data: other_labels(data, 99, (data.arrays[LAST][99] + 1) % CLASSES),
        False,
        f"/{LAST}: expected SHA-256 {{wanted}}, got {{found}}; run `dvc repro --force fetch`",
    ),
    "a label out of range": (
        LAST,
        lambda data: other_labels(data, 7, CLASSES),
        True,
        f"/{LAST}: expected labels 0…9 (dataset.classes), got 10",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_prepare_refuses(raw: Path, data: Data, fault: str) -> None:
    name, content, stated, message = REFUSED[fault]
    found = replace(raw, name, content(data))
    with pytest.raises(ValueError) as error:
        run(raw, data, files=found if stated else NONE)
    hashes = {"wanted": data.files[name].sha256, "found": found[name].sha256}
    assert str(error.value) == f"{raw}{message.format(**hashes)}"


@pytest.mark.parametrize("name", [IMAGES, LABELS, LAST])
def test_prepare_that_fails_leaves_the_old_arrays(raw: Path, data: Data, name: str) -> None:
    run(raw, data)
    before = snapshot(raw.parent / "prepared")
    content = bytearray(data.contents[name])
    content[-1] ^= 1
    replace(raw, name, bytes(content))
    with pytest.raises(ValueError, match="SHA-256"):
        run(raw, data, validation_images=5)
    assert snapshot(raw.parent / "prepared") == before


# Prints the peak of its memory in KiB.
PEAK = """
import sys
from pathlib import Path
from pipeline.params import File, Source
from stages.fetch import fetch
from stages.preprocess import prepare
folder = Path(sys.argv[1])
files = {
    name: File(bytes=int(size), sha256=digest)
    for name, size, digest in (line.split() for line in sys.stdin)
}
fetch([Source(folder=str(folder))], files, 1, folder.parent / "raw")
prepare(folder.parent / "raw", folder.parent / "prepared", files, (16, 16), 10, 100)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def peak(folder: Path, data: Data) -> int:
    """Peak memory in KiB of a process that fetches and prepares a data set."""
    table = "".join(f"{name} {f.bytes} {f.sha256}\n" for name, f in data.files.items())
    source = str(data.write(folder, compressed=True))
    result = run_program(ROOT, sys.executable, "-c", PEAK, source, given=table)
    return int(result.stdout.splitlines()[-1])


def test_fetch_and_prepare_need_no_more_memory_for_ten_times_the_images(tmp_path: Path) -> None:
    one = peak(tmp_path / "one/in", make_data(4_000, 10, (16, 16)))
    ten = peak(tmp_path / "ten/in", make_data(40_000, 10, (16, 16)))  # 10 MB, as float32 41 MB
    assert abs(ten - one) < 4096
