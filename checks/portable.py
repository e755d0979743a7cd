"""Show that the arithmetic gives the same bits elsewhere: `make check-portable`.

Trains the network of params.yaml for an epoch on some images and predicts with it, in a process
of its own for each setting: other numbers of threads, one core, libraries held to older
instruction sets, and, by qemu's emulation, processors that have none newer than AVX2. Prints a
Markdown table of SHA-256 hashes of the weights and the probabilities (docs/reproducibility.md
shows it) and fails where one differs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from checks.repro import processor

IMAGES = 2000  # under emulation a full epoch would take hours
QEMU = "qemu-x86_64"


class Setting(NamedTuple):
    """A way to run the same training."""

    name: str
    environment: Mapping[str, str] = MappingProxyType({})
    prefix: tuple[str, ...] = ()


def threads(count: int) -> dict[str, str]:
    """Set TensorFlow's number of threads."""
    return {"TF_NUM_INTRAOP_THREADS": str(count), "TF_NUM_INTEROP_THREADS": str(count)}


def emulated(processor: str) -> Setting:
    """Run on a processor that qemu emulates."""
    return Setting(f"emulated {processor}", threads(2), (QEMU, "-cpu", processor))


SETTINGS = [
    Setting("as it comes"),
    Setting("1 thread", threads(1)),
    Setting("2 threads", threads(2)),
    Setting("4 threads", threads(4)),
    Setting("1 core, 2 threads", threads(2), ("taskset", "-c", "0")),
    Setting("oneDNN held to AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Setting("oneDNN off", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    emulated("Haswell"),
    emulated("EPYC-Rome"),
]


def train_and_hash() -> str:
    """Train and predict; return the SHA-256 of the weights and of the probabilities, shortened."""
    from fashion_mlp.network import engine
    from fashion_mlp.data.arrays import Split, load_split
    from pipeline.params import load_params
    from stages.train import learn

    params = load_params()
    sizes = (params.dataset.pixels, len(params.dataset.classes.en))
    train, test = (load_split(name, *sizes) for name in ("train", "test"))
    engine.start()

    from fashion_mlp.network.model import probabilities

    some = Split(train.images[:IMAGES], train.labels[:IMAGES])
    nothing = Split(train.images[:0], train.labels[:0])
    settings = params.train.model_copy(update={"epochs": 1, "steps_per_execution": 5})
    network, _ = learn(settings, some, nothing, [])
    weights = b"".join(weight.tobytes() for weight in network.get_weights())
    answers = probabilities(network, test.images[:IMAGES], 500).tobytes()
    return " ".join(hashlib.sha256(content).hexdigest()[:16] for content in (weights, answers))


def run(setting: Setting) -> str:
    """Run `train_and_hash` in a process of its own; return what it prints."""
    command = [*setting.prefix, sys.executable, "-m", "checks.portable", "--hash"]
    result = subprocess.run(
        command,
        env={**os.environ, **setting.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"{setting.name}: {result.stderr.strip().splitlines()[-1:]}")
    return result.stdout.strip()


def main() -> int:
    """Run all settings and print the table."""
    if sys.argv[1:] == ["--hash"]:
        print(train_and_hash())
        return 0
    missing = [tool for tool in (QEMU, "taskset") if shutil.which(tool) is None]
    if missing:
        print(
            f"check-portable: needs {' and '.join(missing)}; "
            f"on Debian or Ubuntu: apt-get install qemu-user util-linux",
            file=sys.stderr,
        )
        return 1
    print(f"on {processor()}, {os.cpu_count()} cores, {IMAGES:,} images, 1 epoch\n")
    print(
        "| setting | weights | probabilities | same | seconds |\n|---|---|---|---|--:|", flush=True
    )
    first = ""
    good = True
    for setting in SETTINGS:
        began = time.perf_counter()
        found = run(setting)
        first = first or found
        good = good and found == first
        weights, answers = found.split()
        same = "yes" if found == first else "**NO**"
        seconds = time.perf_counter() - began
        print(f"| {setting.name} | {weights} | {answers} | {same} | {seconds:.0f} |", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
