"""Put what the page needs into consumers/web/vendor/: `make page` runs this after `npm ci`.

reads   models/fashion_mlp_exact.onnx, data/raw/*, consumers/web/node_modules/onnxruntime-web
writes  vendor/model.onnx         the network
        vendor/pictures.bin       the first test pictures, a byte a pixel
        vendor/averages.bin       each class's average training picture, a byte a pixel
        vendor/page.json          labels of the pictures; what the network's metadata say
        vendor/onnxruntime.{js,wasm}

The folder is then a complete page: any static server can serve it, under any path. The names end
in .js and not in .mjs, which some servers send with a type that browsers refuse.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

WEB = Path(__file__).resolve().parent
ROOT = WEB.parents[1]
MODEL = ROOT / "models/fashion_mlp_exact.onnx"
VENDOR = WEB / "vendor"
RUNTIME = WEB / "node_modules/onnxruntime-web/dist"
RAW = ROOT / "data/raw"
PICTURES = 60  # of the strip: the first of the test set, right and wrong answers alike
LEAST = 0.01  # share of the training pictures that would get the page's warning themselves
COPIED = {
    "model.onnx": MODEL,
    "onnxruntime.js": RUNTIME / "ort.wasm.bundle.min.mjs",
    "onnxruntime.wasm": RUNTIME / "ort-wasm-simd-threaded.wasm",
}


def prepare() -> None:
    """Write vendor/, whole or not at all.

    Raises:
        ValueError: the data are not the model's.
        OSError: a file is missing.
    """
    folder = VENDOR.with_name(".vendor.tmp.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, source in COPIED.items():
        shutil.copyfile(source, folder / name)
    metadata = read_metadata()
    check_data(json.loads(metadata["data_sha256"]))
    shape = json.loads(metadata["image_shape"])
    pictures = read(RAW / "t10k-images-idx3-ubyte", 16, PICTURES * math.prod(shape))
    (folder / "pictures.bin").write_bytes(pictures)
    train = np.frombuffer(read(RAW / "train-images-idx3-ubyte", 16), np.uint8)
    labels = np.frombuffer(read(RAW / "train-labels-idx1-ubyte", 8), np.uint8)
    averages, least = measure(train.reshape(len(labels), -1), labels)
    (folder / "averages.bin").write_bytes(averages.tobytes())
    page = {
        "dataset": metadata["dataset"],
        "classes": json.loads(metadata["class_names"]),
        "shape": shape,
        "photos": metadata.get("photos", "trimmed"),
        "labels": list(read(RAW / "t10k-labels-idx1-ubyte", 8, PICTURES)),
        "accuracy": float(measured) if (measured := metadata.get("test_accuracy")) else None,
        "tests": (RAW / "t10k-labels-idx1-ubyte").stat().st_size - 8,
        "least": least,
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "source": source_address(),
        "card": card(metadata),
    }
    content = json.dumps(page, ensure_ascii=False) + "\n"
    (folder / "page.json").write_text(content, encoding="utf-8", newline="\n")
    shutil.rmtree(VENDOR, ignore_errors=True)
    folder.rename(VENDOR)


def read_metadata() -> dict[str, str]:
    """Read what the model says of itself."""
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    return dict(session.get_modelmeta().custom_metadata_map)


def check_data(hashes: dict[str, str]) -> None:
    """Check that the data are those that the model was made of.

    Raises:
        ValueError: they are not.
        OSError: a file is missing.
    """
    for name, expected in hashes.items():
        with (RAW / name).open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != expected:
            raise ValueError(
                f"data/raw/{name}: expected the file that {MODEL.name} was made of, SHA-256 "
                f"{expected}, got {got}"
            )


def read(path: Path, start: int, size: int = -1) -> bytes:
    """Read part of a file, such as an IDX file behind its header."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def measure(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Average each class's pictures, and measure how like an average the least of them are.

    Args:
        images: uint8 (n, pixels).
        labels: class numbers (n,).

    Returns:
        uint8 (classes, pixels), and the cosine to the nearest average that `LEAST` of the pictures
        lie below, each left out of its own class's average; 0 where there are too few to tell.
    """
    present = np.unique(labels)
    sums = np.stack([images[labels == label].sum(axis=0, dtype=np.float64) for label in present])
    counts = np.array([(labels == label).sum() for label in present])
    averages = np.rint(sums / counts[:, None]).astype(np.uint8)
    if len(images) * LEAST < 1:
        return averages, 0.0
    lengths = np.linalg.norm(sums, axis=1)
    nearest = []
    for start in range(0, len(images), 5000):
        block = images[start : start + 5000].astype(np.float64)
        own = np.arange(len(block)), np.searchsorted(present, labels[start : start + 5000])
        squares = (block**2).sum(axis=1)
        products = block @ sums.T
        others = np.broadcast_to(lengths**2, products.shape).copy()
        others[own] += squares - 2 * products[own]
        products[own] -= squares
        cosines = products / np.sqrt(np.maximum(1, others * squares[:, None]))
        nearest.append(cosines.max(axis=1))
    return averages, round(float(np.quantile(np.concatenate(nearest), LEAST)), 3)


def source_address() -> str:
    """Find where the source is: where this was cloned from, or else this folder's own."""
    command = ["git", "config", "--get", "remote.origin.url"]
    url = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found = re.fullmatch(
        r"(?:https://|ssh://git@|git@)(?:[^/@]*@)?([^/:]+)[/:](.*?)(\.git)?\s*", url
    )
    return f"https://{found[1]}/{found[2]}" if found else "page.js"


def card(metadata: dict[str, str]) -> dict[str, Any]:
    """Take what a model card says from the metadata; the keys are those of strings.js."""
    train = json.loads(metadata["train_params"])
    height, width = json.loads(metadata["image_shape"])
    classes = len(next(iter(json.loads(metadata["class_names"]).values())))
    units = [height * width, *train["hidden_units"], classes]
    return {
        "data": f"{metadata['dataset']} ({metadata['data_license']})",
        "network": "-".join(map(str, units)),
        "optimizer": train["optimizer"]["class_name"],
        "epochs": train["epochs"],
        "testAccuracy": metadata.get("test_accuracy", "–"),
        "license": metadata["model_license"],
    }


def main() -> int:
    """Prepare the page; return the exit status."""
    try:
        prepare()
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason = f"{error.filename}: {error.strerror}"
        print(f"page: {reason}; `make`, then `make page`", file=sys.stderr)
        return 1
    print("page: ready; serve it with: python -m http.server -b 127.0.0.1 -d consumers/web")
    return 0


if __name__ == "__main__":
    sys.exit(main())
