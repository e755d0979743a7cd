"""Make a data set of folders of pictures: `python -m tasks.dataset FOLDER [--plain]`.

FOLDER/Bags/*.jpg, FOLDER/Shoes/*.png, …: a folder for each class. Pictures become images by the
steps that predict.py and the page take with photos (consumers/PHOTOS.md). The SHA-256 of the
converted image decides whether it is a test image (one in five is), so adding pictures moves none.
Where FOLDER has train/ and test/, with the classes' folders in each, these decide.

writes  data/own/    the four IDX files, in the order of the images' hashes
        params.yaml  dataset, fetch and evaluate for them

Nothing is written unless every picture can be used. Runs inside .venv.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import signal
import struct
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dvc.utils.serialize import load_yaml, modify_yaml

from consumers.python.predict import printable, read_photo, to_picture
from pipeline.console import progress
from pipeline.files import replacing
from pipeline.params import FILES, PARAMS_FILE, check_params, load_params
from tasks.check import check_counts
from tasks.presets import assign

OWN = Path("data/own")
SPLITS = {"train": "train", "test": "t10k"}  # a folder of FOLDER, and what its files are named
TEST_SHARE = 5  # one in so many becomes a test image
SYSTEM_FILES = {"Thumbs.db", "desktop.ini"}
MAX_SIDE = 256  # 256×256 pixels are 52 million weights of the paper's network
EXAMPLES = 4  # training images that the pictures show


class Picture(NamedTuple):
    """A file, what its folders say of it, and what it becomes."""

    path: Path
    split: str  # train, test; empty: its hash decides
    label: str
    image: np.ndarray  # uint8 (height, width)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the image."""
        return hashlib.sha256(self.image.tobytes()).digest()

    @property
    def file_split(self) -> str:
        """`train` or `test`."""
        number = int.from_bytes(self.digest[:8], "big")
        return self.split or ("train" if number % TEST_SHARE else "test")


class Found(NamedTuple):
    """The files of a folder: to be read (split, class, path), and what is wrong or worth saying."""

    files: list[tuple[str, str, Path]]
    faults: list[str]
    notes: list[str]


def find(folder: Path) -> Found:
    """List the pictures of a folder of class folders, or of train/ and test/ with such in them.

    Raises:
        OSError: a folder can't be read.
    """
    found = Found([], [], [])
    top = entries(folder, found)
    splits = [path for path in top if path.name.lower() in SPLITS and has_folders(path)]
    for path in top:
        if path in splits:
            for inner in entries(path, found):
                add_class(found, path.name.lower(), inner)
        elif splits:
            found.faults.append(
                f"{printable(path)}: beside train/ or test/; expected these two alone"
            )
        else:
            add_class(found, "", path)
    return found


def has_folders(path: Path) -> bool:
    """Whether it is a folder that holds folders."""
    return path.is_dir() and any(inner.is_dir() for inner in path.iterdir())


def add_class(found: Found, split: str, folder: Path) -> None:
    """Add the files of a class's folder to what was found."""
    if not folder.is_dir():
        found.faults.append(f"{printable(folder)}: in no class's folder")
        return
    pictures = entries(folder, found)
    if not pictures:
        found.faults.append(f"{printable(folder)}: no picture in this folder")
    label = unicodedata.normalize("NFC", folder.name)  # macOS writes é as two characters
    if any((split, label) == one[:2] for one in found.files):
        found.faults.append(f"{printable(folder)}: a second folder of the class {label!r}")
    for path in pictures:
        if path.is_dir():
            found.faults.append(
                f"{printable(path)}: a folder in a class's folder; expected pictures"
            )
        else:
            found.files.append((split, label, path))


def entries(folder: Path, found: Found) -> list[Path]:
    """List a folder, sorted; note what the system put there."""
    paths = sorted(folder.iterdir())
    hidden = [path for path in paths if path.name[0] == "." or path.name in SYSTEM_FILES]
    found.notes.extend(f"{printable(path)}: hidden, left out" for path in hidden)
    return [path for path in paths if path not in hidden]


def read(found: Found, shape: tuple[int, int], photos: str) -> list[Picture]:
    """Turn files into images; what can't be used becomes a fault."""
    pictures = []
    with progress("dataset", len(found.files), "pictures") as bar:
        for split, label, path in found.files:
            try:
                image = to_picture(read_photo(path), shape, photos)
                pictures.append(Picture(path, split, label, image))
            except (OSError, ValueError, MemoryError) as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                found.faults.append(f"{printable(path)}: {reason}")
            bar.update()
    return pictures


def distinct(pictures: Sequence[Picture], found: Found) -> list[Picture]:
    """Take each image once, in the order of their hashes; say which pictures are the same.

    The same image of two classes, or in train/ and test/, is a fault.
    """
    same: dict[bytes, list[Picture]] = {}
    for picture in pictures:
        same.setdefault(picture.digest, []).append(picture)
    for group in same.values():
        listed = ", ".join(printable(one.path) for one in group)
        if len({one.label for one in group}) > 1:
            found.faults.append(f"{listed}: the same image in two classes")
        elif len({one.split for one in group}) > 1:
            found.faults.append(f"{listed}: the same image in train and test")
        elif len(group) > 1:
            found.notes.append(f"{listed}: the same image; used once")
    return [same[digest][0] for digest in sorted(same)]


def class_faults(pictures: Sequence[Picture], labels: Sequence[str]) -> Iterator[str]:
    """Say which classes or splits are missing."""
    if not 2 <= len(labels) <= 256:
        yield f"expected 2 to 256 classes, a folder for each; got {len(labels)}"
    of = {split: {one.label for one in pictures if one.file_split == split} for split in SPLITS}
    for label in labels:
        if label not in of["train"]:
            yield f"class {label!r}: no training image; add pictures"
    if not of["test"]:
        yield "no test image; add pictures, or lay out train/ and test/"


def idx(array: np.ndarray) -> bytes:
    """Write an array uint8 as an IDX file (fashion_mlp/data/idx.py reads it)."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents(pictures: Sequence[Picture], labels: Sequence[str]) -> dict[str, bytes]:
    """Make the four files, by name."""
    made = {}
    for split, name in SPLITS.items():
        chosen = [one for one in pictures if one.file_split == split]
        made[f"{name}-images-idx3-ubyte"] = idx(np.stack([one.image for one in chosen]))
        numbers = np.array([labels.index(one.label) for one in chosen], np.uint8)
        made[f"{name}-labels-idx1-ubyte"] = idx(numbers)
    return made


def params_for(
    values: Mapping[str, Any],
    name: str,
    labels: Sequence[str],
    files: Mapping[str, bytes],
    shape: tuple[int, int],
    photos: str,
) -> dict[str, Any]:
    """Return the values of params.yaml with this data set's."""
    language = "ru" if re.search("[а-яё]", "".join(labels), re.I) else "en"
    train_images = len(files[FILES[1]]) - len(idx(np.empty(0, np.uint8)))
    return {
        **values,
        "dataset": {
            "name": name,
            "license": "not stated",
            "image_shape": list(shape),
            "photos": photos,
            "class_names": {language: list(labels)},
            "classes": len(labels),
        },
        "fetch": {
            **values["fetch"],
            "sources": [{"folder": OWN.as_posix()}],
            "files": {
                file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for file, content in files.items()
            },
        },
        "evaluate": {
            **values["evaluate"],
            "language": language,
            "examples": list(range(min(EXAMPLES, train_images))),
        },
    }


def write(files: Mapping[str, bytes], values: Mapping[str, Any]) -> None:
    """Write the files and params.yaml, which keeps its comments; each whole or not at all."""
    with ExitStack() as stack:  # which renames at its end, params.yaml last
        temporary = stack.enter_context(replacing(PARAMS_FILE))
        for name, content in files.items():
            stack.enter_context(replacing(OWN / name)).write_bytes(content)
        shutil.copyfile(PARAMS_FILE, temporary)
        with modify_yaml(str(temporary)) as written:
            assign(written, values)
        load_params(temporary)


def make(folder: Path, name: str, shape: tuple[int, int], photos: str) -> list[str]:
    """Make the data set; return what to tell of it.

    Raises:
        ValueError: something can't be used; a line for each, and nothing is written.
        OSError: a file can't be read or written.
    """
    if not folder.is_dir():
        raise ValueError(f"{printable(folder)}: no such folder; make dataset FOLDER=PATH")
    load_params()  # what is wrong in it is said now, and not after minutes
    found = find(folder)
    pictures = distinct(read(found, shape, photos), found)
    labels = sorted({label for _, label, _ in found.files})
    if not found.faults:
        found.faults.extend(class_faults(pictures, labels))
    if found.faults:
        raise ValueError("\n  ".join([f"{printable(folder)}: nothing is written:", *found.faults]))
    files = contents(pictures, labels)
    values = params_for(load_yaml(str(PARAMS_FILE)), name, labels, files, shape, photos)
    check_counts(check_params(values, printable(folder)))
    write(files, values)
    return [*found.notes, *summary(name, pictures, labels)]


def summary(name: str, pictures: Sequence[Picture], labels: Sequence[str]) -> Iterator[str]:
    """Say what was made, and what to do next."""
    of = {split: [one.label for one in pictures if one.file_split == split] for split in SPLITS}
    for label in labels:
        counts = [of[split].count(label) for split in SPLITS]
        yield f"{label}: {counts[0]:,} for training, {counts[1]:,} for the test"
    yield f"{name} is in {OWN}/ and params.yaml; `make` trains on it, `make page` shows it"
    yield "`git checkout params.yaml` brings the committed one back"


def size(text: str) -> tuple[int, int]:
    """Read `28x28`, height and width."""
    found = re.fullmatch(r"([1-9]\d{0,3})[x×]([1-9]\d{0,3})", text)
    if not found or max(int(found[1]), int(found[2])) > MAX_SIDE:
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH, as 28x28, each at most {MAX_SIDE}; got {text!r}"
        )
    return int(found[1]), int(found[2])


def main(arguments: Iterable[str] | None = None) -> int:
    """Do it; the exit status is 1 where nothing was written."""
    parser = argparse.ArgumentParser(prog="make dataset")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", action="store_true", help="resize, and nothing else")
    parser.add_argument("--shape", type=size, default=(28, 28), help="of the images")
    parser.add_argument("--name", help="of the data set; default: the folder's")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        folder = options.folder.expanduser()
        name = options.name or folder.resolve().name
        lines = make(folder, name, options.shape, "plain" if options.plain else "trimmed")
    except (ValueError, OSError, RuntimeError) as error:  # the last: ~ of no such user
        print(f"dataset: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print("\n".join(f"dataset: {line}" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
