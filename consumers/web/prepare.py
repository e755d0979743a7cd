"""Put what the page needs into consumers/web/vendor/: `make page` runs this after `npm ci`.

reads   models/{fashion_mlp.onnx,labels.json}, data/raw/t10k-{images-idx3,labels-idx1}-ubyte,
        consumers/web/node_modules/onnxruntime-web
writes  vendor/fashion_mlp.onnx   the network
        vendor/pictures.bin       the first test pictures, a byte a pixel
        vendor/page.json          their labels and shape; class names by language
        vendor/onnxruntime.{js,wasm}

The folder is then a complete page: any static server can serve it, under any path. The names end
in .js and not in .mjs, which some servers send with a type that browsers refuse.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
ROOT = WEB.parents[1]
VENDOR = WEB / "vendor"
RUNTIME = WEB / "node_modules/onnxruntime-web/dist"
RAW = ROOT / "data/raw"
PICTURES = 60  # of the strip: the first of the test set, right and wrong answers alike
COPIED = {
    "fashion_mlp.onnx": ROOT / "models/fashion_mlp.onnx",
    "onnxruntime.js": RUNTIME / "ort.wasm.bundle.min.mjs",
    "onnxruntime.wasm": RUNTIME / "ort-wasm-simd-threaded.wasm",
}


def prepare() -> None:
    """Write vendor/.

    Raises:
        OSError: a file is missing.
    """
    VENDOR.mkdir(exist_ok=True)
    for name, source in COPIED.items():
        shutil.copyfile(source, VENDOR / name)
    about = json.loads((ROOT / "models/labels.json").read_text(encoding="utf-8"))
    size = PICTURES * math.prod(about["image_shape"])
    (VENDOR / "pictures.bin").write_bytes(read(RAW / "t10k-images-idx3-ubyte", 16, size))
    labels = list(read(RAW / "t10k-labels-idx1-ubyte", 8, PICTURES))
    page = {"classes": about["class_names"], "shape": about["image_shape"], "labels": labels}
    content = json.dumps(page, ensure_ascii=False) + "\n"
    (VENDOR / "page.json").write_text(content, encoding="utf-8", newline="\n")


def read(path: Path, start: int, size: int) -> bytes:
    """Read part of a file, such as an IDX file behind its header."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def main() -> int:
    """Prepare the page; return the exit status."""
    try:
        prepare()
    except OSError as error:
        print(f"page: {error.filename}: {error.strerror}; run `make page`", file=sys.stderr)
        return 1
    print("page: ready; serve it with: python -m http.server -d consumers/web")
    return 0


if __name__ == "__main__":
    sys.exit(main())
