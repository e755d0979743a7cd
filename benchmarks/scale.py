"""Time and memory at 1 to 10 times the data: `make bench-scale`; `--quick` tries small sizes once.

reads   data/raw/
writes  benchmarks/scale.json, benchmarks/scale.png; not with --quick

The data set is repeated, with noise on the copies, in copies of the project; stages run there as
DVC starts them, one process after the other. And stage `train` runs on the largest set under a
limit of memory that its images do not fit into.
"""

from __future__ import annotations

import argparse
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.around import AS_DVC
from benchmarks.measure import Row, Table, machine, publish, text, use_two_cores
from checks.sandbox import ROOT, Sandbox, environment
from pipeline.files import sha256
from fashion_mlp.data.idx import iter_rows, read_header
from pipeline.params import FILES

STAGES = ("preprocess", "train", "evaluate")
EPOCHS = 3
ROUNDS = 3
READY = 5 << 30  # bytes
NOISE = 8  # of 255, either way, on every copy but the first
LOOK = 0.02  # seconds between looks at a process' memory
LIMIT = 1_600_000_000  # bytes; the images of ten times the data take 1.88 GB
# Under the limit counts what is reserved and never used, too: stacks of threads, malloc's arenas.
STACK = 1 << 20  # bytes
ARENAS = {"MALLOC_ARENA_MAX": "2"}


class Cost(NamedTuple):
    """What a stage's process took."""

    seconds: float
    processor: float  # seconds of processor time, the system's for it too
    peak: float  # GB resident
    own: float  # GB of that which no file backs, at its peak


def write_copies(source: Path, target: Path, copies: float, random: np.random.Generator) -> None:
    """Write an IDX file that repeats another, with noise on the copies of images."""
    header = read_header(source, axes=3 if "images" in source.name else 1)
    count = int(header.shape[0] * copies)
    shape = (count, *header.shape[1:])
    with target.open("wb") as file:
        file.write(bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes())
        left = count
        while left:
            for block in iter_rows(source, header, 10_000):
                part = block[:left]
                if left <= count - header.shape[0] and part.ndim == 3:
                    noise = random.integers(-NOISE, NOISE + 1, part.shape, np.int16)
                    part = (part + noise).clip(0, 255).astype(np.uint8)
                file.write(part.tobytes())
                left -= len(part)
                if not left:
                    break


def project(folder: Path, copies: float) -> Sandbox:
    """Make a copy of the project with so many times its data in data/raw."""
    made = Sandbox(folder, 10, 10, train__epochs=EPOCHS)
    raw, random = made.folder / "data/raw", np.random.default_rng(0)
    for name in FILES:
        write_copies(ROOT / "data/raw" / name, raw / name, copies, random)
    files = {
        name: {"bytes": (raw / name).stat().st_size, "sha256": sha256(raw / name)} for name in FILES
    }
    made.set(fetch__files=files)
    return made


def run(stage: str, folder: Path, limit: int = 0) -> Cost:
    """Run a stage in a process of its own, and watch its memory.

    Args:
        stage: its name.
        folder: of the project.
        limit: bytes that the process may allocate (RLIMIT_DATA); 0 for no limit.

    Raises:
        RuntimeError: the stage failed.
    """

    def set_limits() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))

    make_ready()
    start, used = time.perf_counter(), processor_time()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=folder,
            env={**environment(), **AS_DVC, **(ARENAS if limit else {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=set_limits,
        )
        peak = own = 0.0
        while process.poll() is None:
            memory = dict(resident(process.pid))
            peak, own = max(peak, memory.get("VmHWM", 0)), max(own, memory.get("RssAnon", 0))
            time.sleep(LOOK)
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"stage {stage}, limit {limit:,} bytes: {output.read()}")
    return Cost(seconds, processor_time() - used, peak, own)


def make_ready() -> None:
    """Have nothing left to write to disk, and memory at hand that a stage can take.

    A virtual machine gives memory that is free back to its host, and it takes long to come again:
    0.4 GB were written to the page cache in 2.2 s instead of 0.4.
    """
    os.sync()
    with mmap.mmap(-1, READY) as memory:
        for page in range(0, READY, mmap.PAGESIZE):
            memory[page] = 1


def processor_time() -> float:
    """Give the seconds that all processes took that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident(process: int) -> Iterator[tuple[str, float]]:
    """Read what Linux says of a process' memory, in GB; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition(":")
        if name in ("VmHWM", "RssAnon"):
            yield name, int(value.split()[0]) * 1024 / 1e9


def tables(folder: Path, factors: list[float], count: int, limit: int) -> list[Table]:
    """Measure all stages at all sizes, and `train` under a limit at the largest."""
    projects = {factor: project(folder / f"{factor:g}", factor).folder for factor in factors}
    costs: dict[tuple[str, float], list[Cost]] = {}
    for _ in range(count):
        for factor, where in projects.items():
            for stage in STAGES:
                costs.setdefault((stage, factor), []).append(run(stage, where))
    most = factors[-1]
    limited = [run("train", projects[most], limit) for _ in range(count)]
    memory = []
    for (stage, factor), of in sorted(costs.items(), key=lambda item: STAGES.index(item[0][0])):
        memory.append(Row(f"{stage}, {factor:g} x", [cost.peak for cost in of]))
        memory.append(Row("  of its own, no file's", [cost.own for cost in of]))
    name = f"train, {most:g} x"
    under = f"{name}, at most {limit / 1e9:g} GB"
    train = [
        Row(f"{name}, no limit", [cost.seconds for cost in costs["train", most]]),
        Row(under, [cost.seconds for cost in limited], f"{name}, no limit"),
    ]
    memory += [
        Row(under, [cost.peak for cost in limited]),
        Row("  of its own, no file's", [cost.own for cost in limited]),
    ]
    note = "resident memory counts the pages of mapped files, which the system may drop at any time"
    return [
        growth(
            f"Stages on more data; train: {EPOCHS} epochs",
            {key: [cost.seconds for cost in of] for key, of in costs.items()},
            factors,
        ),
        growth(
            "The same, processor time",
            {key: [cost.processor for cost in of] for key, of in costs.items()},
            factors,
        ),
        Table("Images larger than memory", "s", train),
        Table("Peak of resident memory", "GB", memory, [note]),
    ]


def growth(
    title: str, seconds: dict[tuple[str, float], list[float]], factors: Sequence[float]
) -> Table:
    """Tell how each stage's time grows: what a further copy costs at first, and at the end.

    Args:
        title: of the table.
        seconds: by stage and factor, a value a round.
        factors: the sizes, in times the data; the middle one is where `at first` ends.
    """
    least, middle, most = factors[0], factors[len(factors) // 2], factors[-1]

    def further(stage: str, low: float, high: float) -> list[float]:
        pairs = zip(seconds[stage, low], seconds[stage, high], strict=True)
        return [(after - before) / (high - low) for before, after in pairs]

    rows = []
    for stage in STAGES:
        rows += [Row(f"{stage}, {factor:g} x", seconds[stage, factor]) for factor in factors]
        first = f"  {stage}: a further 1 x, up to {middle:g} x"
        rows.append(Row(first, further(stage, least, middle)))
        if middle < most:
            last = f"  {stage}: a further 1 x, from {middle:g} x to {most:g} x"
            rows.append(Row(last, further(stage, middle, most), first, 1.1))
    return Table(
        title, "s", rows, ["linear: a further copy costs at the end what it cost at first"]
    )


def main() -> int:
    """Measure, print the tables, write them."""
    parser = argparse.ArgumentParser(description="Time and memory on more data.")
    parser.add_argument("--quick", action="store_true", help="once, at 1 x and 5 x; write nothing")
    quick = parser.parse_args().quick
    if not (ROOT / "data/raw" / FILES[0]).exists():
        print(f"bench: data/raw/{FILES[0]} is not there; `make` makes it", file=sys.stderr)
        return 1
    use_two_cores()
    on: dict[str, Any] = machine()
    print("bench: " + ", ".join(f"{key} {value}" for key, value in on.items()), flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as folder:
        factors: list[float] = [1, 5] if quick else [1, 2, 5, 10]
        found = tables(Path(folder), factors, 1 if quick else ROUNDS, LIMIT)
    print("", *map(text, found), sep="\n", flush=True)
    print(f"\nbench: took {time.monotonic() - start:.0f} s")
    if not quick:
        publish("scale", on, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
