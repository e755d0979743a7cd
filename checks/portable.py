"""Check that the arithmetic gives the same bits elsewhere: `make check-portable`.

Trains the network of params.yaml for an epoch on some images, predicts with it, and trains once
more with every augmentation and Adam; in a process of its own for each setting: other numbers of
threads, one core, libraries limited to older instruction sets, and processors emulated by qemu
that have nothing newer than AVX2. Prints a Markdown table of shortened SHA-256 hashes
(docs/reproducibility.md shows it) and fails if one differs.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from checks.common import machine, table

IMAGES = 2000  # under emulation a full epoch would take hours
QEMU = "qemu-x86_64"
AUGMENTED = {
    "standardize": True,
    "dropout": 0.2,
    "random_flip": True,
    "random_affine": 2.0,
    "mixup": 0.2,
    "optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001, "use_ema": True}},
    "learning_rate_schedule": "cosine",
}


TWO_THREADS = ["TF_NUM_INTRAOP_THREADS=2", "TF_NUM_INTEROP_THREADS=2"]
# By name, what the command is run with: variables and programs, as arguments of env(1).
SETTINGS = {
    "default": [],
    "1 thread": ["TF_NUM_INTRAOP_THREADS=1", "TF_NUM_INTEROP_THREADS=1"],
    "2 threads": TWO_THREADS,
    "4 threads": ["TF_NUM_INTRAOP_THREADS=4", "TF_NUM_INTEROP_THREADS=4"],
    "1 core, 2 threads": [*TWO_THREADS, "taskset", "-c", "0"],
    "oneDNN limited to AVX2": ["ONEDNN_MAX_CPU_ISA=AVX2"],
    "oneDNN off": ["TF_ENABLE_ONEDNN_OPTS=0"],
    "emulated Haswell": [*TWO_THREADS, QEMU, "-cpu", "Haswell"],
    "emulated EPYC-Rome": [*TWO_THREADS, QEMU, "-cpu", "EPYC-Rome"],
}


def train_and_hash() -> list[str]:
    """Train, predict, train with augmentation; hash weights, probabilities and weights."""
    from fashion_mlp.data.arrays import Split, load_split
    from fashion_mlp.network import engine
    from pipeline.params import Train, load_params

    params = load_params()
    dataset = params.dataset
    train, test = (load_split(name, dataset.pixels, dataset.classes) for name in ("train", "test"))
    engine.start()

    from fashion_mlp.network.model import build_network, predict, set_layers
    from fashion_mlp.training.loop import fit

    some = Split(train.images[:IMAGES], train.labels[:IMAGES])
    nothing = Split(train.images[:0], train.labels[:0])
    quick = {"epochs": 1, "steps_per_execution": 5, "device": "cpu"}
    plain, augmented = (
        Train.model_validate({**params.train.model_dump(), **quick, **changes})
        for changes in ({}, AUGMENTED)
    )
    layers, _ = fit(plain, some, nothing, dataset.image_shape)
    others, _ = fit(augmented, some, nothing, dataset.image_shape)
    network = build_network(dataset.pixels, plain.hidden_units, plain.activation, dataset.classes)
    set_layers(network, layers)
    answers = predict(network, np.asarray(test.images[:IMAGES]), 500)
    weights, other_weights = (
        [array for layer in of for array in (layer.kernel, layer.bias)] for of in (layers, others)
    )
    return [digest(weights), digest([answers]), digest(other_weights)]


def digest(arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 of the arrays' bytes, shortened."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def main() -> int:
    """Run all settings and print the table."""
    if sys.argv[1:] == ["--hash"]:
        print(*train_and_hash())
        return 0
    if missing := [tool for tool in (QEMU, "taskset") if shutil.which(tool) is None]:
        print(
            f"check-portable: needs {' and '.join(missing)}; "
            f"on Debian or Ubuntu: apt-get install qemu-user util-linux",
            file=sys.stderr,
        )
        return 1
    rows: list[list[str]] = []
    for name in SETTINGS:
        print(f"check-portable: {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        command = ["env", *SETTINGS[name], sys.executable, "-m", "checks.portable", "--hash"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            print(f"check-portable: {name}: {result.stderr}", file=sys.stderr)
            return 1
        found = result.stdout.split()
        same = not rows or found == rows[0][1:4]
        seconds = f"{time.monotonic() - began:.0f}"
        rows.append([name, *found, "yes" if same else "**NO**", seconds])
    print(f"{machine()}, {IMAGES:,} images, 1 epoch\n")
    print(table(["setting", "weights", "probabilities", "augmented", "same", "seconds"], rows))
    return 0 if all(row[4] == "yes" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
