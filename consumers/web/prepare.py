"""Put what the page needs into consumers/web/vendor/: `make page` runs this after `npm ci`.

reads   models/fashion_mlp.onnx, data/raw/t10k-{images-idx3,labels-idx1}-ubyte, params.yaml,
        consumers/web/node_modules/onnxruntime-web
writes  vendor/fashion_mlp.onnx   the network
        vendor/pictures.bin       the first test pictures, 784 bytes each
        vendor/page.json          their labels; class names in Russian and English
        vendor/onnxruntime.{js,wasm}

From then on the folder is a whole page: any static server can serve it, under any path. The names
end in .js and not in .mjs, which some servers send with a type that browsers refuse.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import yaml

WEB = Path(__file__).resolve().parent
ROOT = WEB.parents[1]
VENDOR = WEB / "vendor"
RUNTIME = WEB / "node_modules" / "onnxruntime-web"
RAW = ROOT / "data" / "raw"
PICTURES = 60  # of the strip: as they come, right and wrong answers alike
COPIED = {
    ROOT / "models" / "fashion_mlp.onnx": "fashion_mlp.onnx",
    RUNTIME / "dist" / "ort.wasm.bundle.min.mjs": "onnxruntime.js",
    RUNTIME / "dist" / "ort-wasm-simd-threaded.wasm": "onnxruntime.wasm",
}


def prepare() -> None:
    """Write vendor/.

    Raises:
        OSError: a file is missing.
    """
    VENDOR.mkdir(exist_ok=True)
    for source, name in COPIED.items():
        shutil.copyfile(source, VENDOR / name)
    with (RAW / "t10k-images-idx3-ubyte").open("rb") as file:
        file.seek(16)
        (VENDOR / "pictures.bin").write_bytes(file.read(784 * PICTURES))
    with (RAW / "t10k-labels-idx1-ubyte").open("rb") as file:
        file.seek(8)
        labels = list(file.read(PICTURES))
    dataset = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["dataset"]
    content = json.dumps({"classes": dataset["classes"], "labels": labels}, ensure_ascii=False)
    (VENDOR / "page.json").write_text(content + "\n", encoding="utf-8", newline="\n")


def main() -> int:
    """Prepare the page; return the exit status."""
    try:
        prepare()
    except OSError as error:
        print(
            f"page: {error.filename}: {error.strerror}; `make`, then `make page`, brings it",
            file=sys.stderr,
        )
        return 1
    print("page: ready; serve it with: python -m http.server -d consumers/web")
    return 0


if __name__ == "__main__":
    sys.exit(main())
