"""Check that the arithmetic gives the same bits elsewhere: `make check-portable`.

Trains the network of params.yaml for an epoch on some images, predicts with it, and trains once
more with every augmentation and Adam; in a process of its own for each setting: other numbers of
threads, one core, libraries limited to older instruction sets, and processors emulated by qemu:
x86 that have nothing newer than AVX2, and ARM (checks/arm64.py). On some of them it also trains
with each optimizer and with each other parameter that changes the arithmetic. Prints two Markdown
tables of shortened SHA-256 hashes (docs/reproducibility.md shows them) and fails if one differs.

    python -m checks.portable --epochs 10

trains as params.yaml says, on all images, here and on an emulated ARM, and compares the
weights after each epoch. (On a busy machine, an epoch of the ARM took 101 minutes.)
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from checks import arm64
from checks.common import machine, table
from fashion_mlp.data.arrays import Split, load_split
from fashion_mlp.network import engine
from pipeline.checkpoint import Checkpoint
from pipeline.params import Params, Train, load_params
from tasks.processes import answer

IMAGES = 2000  # under emulation a full epoch would take hours
# For what is one of many; three steps, as some optimizers need the one before.
FEW_IMAGES, FEW_UNITS = 600, [64]
QEMU = "qemu-x86_64"
AUGMENTED: dict[str, Any] = {
    "standardize": True,
    "dropout": 0.2,
    "random_flip": True,
    "random_affine": 2.0,
    "mixup": 0.2,
    "optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001, "use_ema": True}},
    "learning_rate_schedule": "cosine",
}
# What each optimizer may be told beyond its class: an epoch with each of them.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "Adam": [{"amsgrad": True}],
    "RMSprop": [{"momentum": 0.9, "centered": True}],
    "SGD": [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.01},
        {"global_clipnorm": 0.5},
        {"clipnorm": 0.5},
        {"use_ema": True},
        {"loss_scale_factor": 3.0},
        {"gradient_accumulation_steps": 2},
    ],
}
PARAMETERS: list[dict[str, Any]] = [
    *({key: AUGMENTED[key]} for key in AUGMENTED if key != "optimizer"),
    {"random_elastic": 2.0},
    {"inference_blur": 0.1},
    {"standardize": True, "random_affine": 2.0, "dropout": 0.1, "inference_blur": 0.06},
    {"importance_sampling": 0.5, "epochs": 2},  # which has an effect from the second epoch
    {"label_smoothing": 0.1},
    {"activation": "sigmoid"},
    {"activation": "tanh"},
    {"hidden_units": []},
    {"hidden_units": [256, 128]},
    {"hidden_units": [40, 1, 17]},
    {"loss": "mean_squared_error"},
    {"loss": "kl_divergence"},
]

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
    **{f"emulated {name}": TWO_THREADS for name in arm64.PROCESSORS},
}
EVERYTHING = ("default", "emulated Haswell", "emulated Neoverse N1")


def trainings(everything: bool) -> dict[str, dict[str, Any]]:
    """List, by name, the changes of params.yaml's training to train with."""
    found: dict[str, dict[str, Any]] = {"weights": {}, "augmented": AUGMENTED}
    if everything:
        from fashion_mlp.training.optimizer import optimizers

        for name in optimizers():
            for options in ({}, *OPTIONS.get(name, [])):
                optimizer = {"class_name": name, "config": {"learning_rate": 0.01} | options}
                found[" ".join([name, *map(describe, options.items())])] = {"optimizer": optimizer}
        found |= {" ".join(map(describe, one.items())): one for one in PARAMETERS}
    return found


def describe(option: tuple[str, Any]) -> str:
    """Write an option as a table shows it."""
    return f"{option[0]}={option[1]}"


def load() -> tuple[Params, Split, Split, Split]:
    """Start the engine; return the parameters, the training set, the test set and an empty one."""
    params = load_params()
    sizes = params.dataset.pixels, params.dataset.classes
    train, test = (load_split(name, *sizes) for name in ("train", "test"))
    engine.start()
    return params, train, test, Split(train.images[:0], train.labels[:0])


def train_and_hash(everything: bool) -> Iterator[tuple[str, str]]:
    """Train and predict; yield hashes: of each training's weights, and of the first's answers."""
    params, train, test, nothing = load()

    from fashion_mlp.network.model import build_network, predict, set_layers
    from fashion_mlp.training.loop import fit

    dataset = params.dataset
    some = Split(train.images[:IMAGES], train.labels[:IMAGES])
    quick = {"epochs": 1, "steps_per_execution": 5, "device": "cpu"}
    for name, changes in trainings(everything).items():
        small, used = {}, some
        if name not in ("weights", "augmented"):
            small = {"hidden_units": FEW_UNITS}
            used = Split(some.images[:FEW_IMAGES], some.labels[:FEW_IMAGES])
        settings = Train.model_validate({**params.train.model_dump(), **quick, **small, **changes})
        layers, _ = fit(settings, used, nothing, dataset.image_shape)
        yield name, digest(array for layer in layers for array in layer[:2])
        if name == "weights":
            of = (settings.hidden_units, settings.activation, dataset.classes)
            network = build_network(dataset.pixels, *of)
            set_layers(network, layers)
            yield "probabilities", digest([predict(network, test.images[:IMAGES])])


def train_whole(epochs: int) -> None:
    """Train as params.yaml says, but for so many epochs; print a hash of the weights after each."""
    params, train, _, nothing = load()

    from fashion_mlp.training.loop import fit

    state = Checkpoint(None, {})  # the weights, and all that an optimizer keeps

    def show(logs: Any) -> None:
        print(hashlib.sha256(state.content).hexdigest()[:16], flush=True)

    changed = params.train.model_copy(update={"epochs": epochs, "device": "cpu"})
    fit(changed, train, nothing, params.dataset.image_shape, state, on_epoch=show)


def compare_whole(epochs: str) -> int:
    """Print a row for each epoch: the hash here, the hash on an ARM, how long that took."""
    arm64.prepare()
    name = "Neoverse N1"
    command = ["-m", "checks.portable", "--whole", epochs]
    here, there = (
        subprocess.Popen(["env", *python, *command], stdout=subprocess.PIPE, text=True)
        for python in ([sys.executable], arm64.start(arm64.PROCESSORS[name]))
    )
    began, differ = time.monotonic(), 0
    print(f"{machine()}\n\n| epoch | here | emulated {name} | minutes |\n|--:|---|---|--:|")
    pairs = zip(here.stdout or (), there.stdout or (), strict=False)  # one may end early
    for epoch, pair in enumerate(pairs, start=1):
        differ += len(set(pair)) - 1
        minutes = (time.monotonic() - began) / 60
        print(f"| {epoch} | {' | '.join(map(str.strip, pair))} | {minutes:.0f} |", flush=True)
    if here.wait():
        there.kill()  # which takes more than an hour
    return int(bool(there.wait() or here.returncode or differ))


def digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of the arrays' bytes, shortened."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def arm64_processor(setting: str) -> arm64.Processor | None:
    """Return the ARM that a setting emulates."""
    return arm64.PROCESSORS.get(setting.removeprefix("emulated "))


def measure(setting: str) -> dict[str, str]:
    """Run `train_and_hash` in a setting.

    Raises:
        RuntimeError: it failed.
    """
    print(f"check-portable: {setting}", file=sys.stderr, flush=True)
    processor = arm64_processor(setting)
    python = arm64.start(processor) if processor else [sys.executable]
    what = "--hash-everything" if setting in EVERYTHING else "--hash"
    command = ["env", *SETTINGS[setting], *python, "-m", "checks.portable", what]
    return dict(line.split("\t") for line in answer(command).splitlines())


def measure_all(settings: Iterable[str]) -> dict[str, dict[str, str]]:
    """Measure one setting after the other."""
    return {setting: measure(setting) for setting in settings}


def differing(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Name the hashes that are not the expected ones; `none` where all are."""
    return ", ".join(name for name in found if found[name] != expected[name]) or "none"


def kept(differ: str) -> bool:
    """Say whether what is promised holds: what differs is none of it (docs/reproducibility.md)."""
    from fashion_mlp.training.optimizer import UNPORTABLE

    names = () if differ == "none" else differ.split(", ")
    return all(any(word in name for word in UNPORTABLE) for name in names)


def compare_settings() -> int:
    """Train in every setting and print the tables; return 1 where a promised hash differs.

    Raises:
        RuntimeError: a program is missing, or fails; the text is one line.
    """
    tools = {QEMU: "qemu-user", "taskset": "util-linux"} | arm64.TOOLS
    if missing := {tool: package for tool, package in tools.items() if not shutil.which(tool)}:
        packages = " ".join(sorted({*missing.values()}))
        raise RuntimeError(f"needs {', '.join(missing)}; on Debian: apt-get install {packages}")
    arm64.prepare()
    x86 = [setting for setting in SETTINGS if not arm64_processor(setting)]
    arm = [setting for setting in SETTINGS if arm64_processor(setting)]  # they share a file
    with ThreadPoolExecutor() as pool:  # an emulated one uses little more than a core
        x86_hashes, arm_hashes = pool.map(measure_all, (x86, arm))
    results = x86_hashes | arm_hashes
    rows = [[name, len(of), differing(of, results["default"])] for name, of in results.items()]
    print(f"{machine()}, 1 epoch of {IMAGES:,} images; one of many: of {FEW_IMAGES}, 64 units\n")
    print(table(["setting", "hashes", "differ"], rows))
    print()
    names = results["default"]
    lines = ([name, *(results[setting][name] for setting in EVERYTHING)] for name in names)
    print(table(["training", *EVERYTHING], lines))
    return 0 if all(kept(str(row[2])) for row in rows) else 1


def main() -> int:
    """Do what the command line says: compare, or train where it is compared."""
    try:
        match sys.argv[1:]:
            case ["--epochs", epochs]:
                return compare_whole(epochs)
            case ["--whole", epochs]:
                train_whole(int(epochs))
            case ["--hash" | "--hash-everything" as what]:
                for name, value in train_and_hash(what != "--hash"):
                    print(name, value, sep="\t", flush=True)
            case _:
                return compare_settings()
    except RuntimeError as error:
        print(f"check-portable: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
