"""Kill, starve and damage a small copy of the pipeline, over and over: `make torture`.

Each fault is tried on a copy of this project with made-up data, in a temporary folder. What
counts is the end: after `make` everything must be as an undisturbed run leaves it, byte for byte.
Prints a Markdown table: fault, how often it was tried, outcome. Mounting small file systems needs
root on Linux; elsewhere those rows say that they were not tried.

    python -m checks.torture [--seed N] [--kills N] [--only FAULT ...]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from checks.heal import outputs_of
from checks.repro import processor
from checks.sandbox import ROOT, Sandbox

EPOCHS = 200
INTERRUPTED_EPOCHS = 600  # enough for three interrupts
OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {},
    "AdamW": {"weight_decay": 0.01},
    "RMSprop": {"momentum": 0.9},
}
# Where a kill is aimed, again and again: the longest stage most often.
AIMS = ("fetch", "preprocess", "train", "train", "evaluate", "train", "export", "preprocess")
MOST_IN_LAST = 4  # kills of a run in the last stage
WHOM = ("DVC", "stage", "both")
STAGES = ("fetch", "preprocess", "train", "evaluate", "export")
READS = {
    "data/raw": "preprocess",
    "data/prepared/train": "train",
    "data/prepared/validation": "train",
    "data/prepared/test": "evaluate",
    "models/fashion_mlp.keras": "evaluate",
}
# Folders that fill up, and a stage that then writes to them.
WRITES = (
    ("data", "fetch"),
    ("data/prepared", "preprocess"),
    ("models", "train"),
    (".run", "train"),
    ("plots", "evaluate"),
    ("metrics", "export"),
    (".dvc/cache", "train"),
)


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    tried: int
    outcome: str
    good: bool = True


class Ctx(NamedTuple):
    """What every fault works with."""

    box: Sandbox
    random: random.Random
    kills: int
    scratch: Path
    undisturbed: dict[str, dict[str, str]]  # by optimizer: what `settle` found
    seconds: dict[str, float]  # that each stage took then


def optimizer(name: str) -> dict[str, object]:
    """The section `train.optimizer` for an optimizer, with all state that it can have."""
    plain = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["optimizer"]
    rate = 0.05 if name == "SGD" else 0.001
    return {**plain, "name": name, "learning_rate": rate, **OPTIMIZERS[name]}


def differing(box: Sandbox, undisturbed: dict[str, str]) -> list[str]:
    """List the files that are not as an undisturbed run leaves them."""
    found = box.results()
    names = sorted(undisturbed.keys() | found.keys())
    return [name for name in names if undisturbed.get(name) != found.get(name)]


def kills(ctx: Ctx, name: str) -> Counter[str]:
    """`kill -9` at random moments: of DVC, of the stage, of both; restarted until it is done.

    Args:
        ctx: `ctx.kills` of them, and those that end the last run.
        name: of the optimizer that training uses.

    Returns:
        Counts: kills by whom and by stage, `saved` epochs, `lost` restart points, `runs`,
        `different` files.
    """
    undisturbed = settle(ctx, name)
    found: Counter[str] = Counter()
    while sum(found[whom] for whom in WHOM) < ctx.kills:
        ctx.box.forget()
        ctx.box.set(train__optimizer=optimizer(name))
        last = 0  # kills in the last stage, where all others would end up
        for number in range(3 * len(AIMS)):
            aim, whom = AIMS[number % len(AIMS)], WHOM[number % len(WHOM)]
            stage, output = kill(ctx, aim, whom)
            found["saved"] += restarted_after(output)
            last += stage == "export"
            if stage is None or last > MOST_IN_LAST:
                break  # all stages are done, or enough of the last
            found.update([whom, stage])
            say(f"kills, {name}: {whom}, aimed at {aim}, in {stage}; {found['saved']} epochs saved")
        output = ctx.box.good("make")
        found["saved"] += restarted_after(output)
        found["lost"] += output.count("is not used")
        found["different"] += len(differing(ctx.box, undisturbed))
        found["runs"] += 1
        say(f"kills, {name}: run {found['runs']} ends with {found['different']} differences")
    return found


def describe_kills(found: Counter[str]) -> Row:
    """Write the line of what all optimizers' `kills` counted."""
    where = ", ".join(f"{found[stage]} in {stage}" for stage in STAGES)
    return Row(
        f"`kill -9` at a random moment ({found['DVC']} of DVC, {found['stage']} of the stage, "
        f"{found['both']} of both; {where})",
        sum(found[whom] for whom in WHOM),
        f"{found['runs']} runs with {len(OPTIMIZERS)} optimizers, each ended by plain `make`: "
        f"{found['different']} differences in dvc.lock and outputs; restart points saved "
        f"{found['saved']} epochs, {found['lost']} of them unusable",
        not found["different"],
    )


def settle(ctx: Ctx, name: str) -> dict[str, str]:
    """Hash what an undisturbed run with an optimizer leaves; run it where not done before."""
    if name not in ctx.undisturbed:
        ctx.box.forget()
        ctx.box.set(train__optimizer=optimizer(name))
        process = ctx.box.start("make")
        starts = {}
        for line in process.stdout or ():
            if match := re.match(r"Running stage '(\w+)'", line):
                starts[match[1]] = time.monotonic()
        if process.wait() != 0:
            raise RuntimeError("plain `make` did not end well; run it by itself")
        ends = [*list(starts.values())[1:], time.monotonic()]
        ctx.seconds.update({at: end - starts[at] for at, end in zip(starts, ends, strict=True)})
        ctx.undisturbed[name] = ctx.box.results()
    return ctx.undisturbed[name]


def kill(ctx: Ctx, aim: str, whom: str) -> tuple[str | None, str]:
    """Run DVC and kill it, or its stage, some time after the stage `aim` started.

    Stages before `aim` that are not done are run, a later one is hit where `aim` is done.

    Returns:
        The stage that was hit, None where all was done first; what DVC printed.
    """
    process = ctx.box.start("make")
    started = None
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if match := re.match(r"Running stage '(\w+)'", line):
            started = match[1]
            if STAGES.index(started) >= STAGES.index(aim):
                break
    else:
        if process.wait() != 0:
            raise RuntimeError(f"plain `make` did not end well:\n{''.join(lines)}")
        return None, "".join(lines)
    stage = started or aim
    time.sleep(ctx.random.uniform(0.0, ctx.seconds[stage]))
    if process.poll() is None:
        shoot(process, whom)
    rest = process.stdout.read() if process.stdout else ""
    process.wait()
    later = re.findall(r"Running stage '(\w+)'", rest)
    return (later[-1] if later else stage), "".join(lines) + rest


def shoot(process: subprocess.Popen[str], whom: str) -> None:
    """`kill -9` what runs in the process' group: DVC, the stage, or everything."""
    if whom == "both":
        os.killpg(process.pid, signal.SIGKILL)
        return
    wanted = "-m stages." if whom == "stage" else "bin/dvc repro"
    while process.poll() is None:  # between two stages there is none to hit: wait for the next
        command = ["ps", "-o", "pid=,args=", "--sid", str(process.pid)]
        listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for line in listing.splitlines():
            number, arguments = line.split(maxsplit=1)
            if wanted in arguments:
                with suppress(ProcessLookupError):  # it ended before
                    os.kill(int(number), signal.SIGKILL)
                return
        time.sleep(0.02)


def restarted_after(output: str) -> int:
    """How many epochs a run did not have to repeat."""
    return sum(int(number) for number in re.findall(r"going on after epoch (\d+)", output))


def interrupts(ctx: Ctx) -> list[Row]:
    """Ctrl-C in training: one line that names the epoch; `make` ends as if nothing was."""
    params = {"train__optimizer": optimizer("SGD"), "train__epochs": INTERRUPTED_EPOCHS}
    ctx.box.forget()
    ctx.box.set(**params)
    ctx.box.good("make")
    undisturbed = ctx.box.results()
    ctx.box.forget()
    ctx.box.set(**params)
    point, said = ctx.box.folder / ".run/train.npz", []
    for _ in range(3):
        before = written(point)
        process = ctx.box.start("make")
        wait_for(partial(newer, point, before), process)
        time.sleep(ctx.random.uniform(0.0, 1.0))
        with suppress(ProcessLookupError):  # it ended before
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate()
        said += re.findall(r"^train: interrupted; .*", output, re.MULTILINE)
    ctx.box.good("make")
    different = differing(ctx.box, undisturbed)
    ctx.box.set(train__epochs=EPOCHS)
    good = len(said) == 3 and not different
    line = said[-1] if said else "nothing"
    return [
        Row(
            "Ctrl-C while training",
            3,
            f"{len(said)} times `{line}`; {len(different)} differences",
            good,
        )
    ]


def written(path: Path) -> float:
    """When a file was last written; 0 where there is none."""
    return path.stat().st_mtime if path.exists() else 0.0


def newer(path: Path, than: float) -> bool:
    """Whether a file was written after a time."""
    return written(path) > than


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something holds while a process runs."""
    while not condition() and process.poll() is None:
        time.sleep(0.05)


def corruption(ctx: Ctx) -> list[Row]:
    """Every raw file, array and model damaged: the stage that reads it refuses, `make` heals."""
    undisturbed = settle(ctx, "SGD")
    back_to(ctx, undisturbed)
    refused, tried, silent = 0, 0, []
    healed = []
    files = [name for name in recorded_files(ctx.box) if name.startswith(tuple(READS))]
    for name in files:
        path = ctx.box.folder / name
        whole = path.read_bytes()
        other = ctx.box.folder / files[(files.index(name) + 1) % len(files)]
        stage = next(stage for start, stage in READS.items() if name.startswith(start))
        ways = damages(name, whole, other.read_bytes())
        for way, content in ways.items():
            path.write_bytes(content)
            status, output = ctx.box.run(f"python -m stages.{stage}")
            tried += 1
            if status == 1 and len(output.splitlines()) == 1 and f"{name}: damaged" in output:
                refused += 1
            else:
                silent.append(f"{name} {way}: {output}")
        damage_cache(ctx.box, name, content)
        status, output = ctx.box.run("make heal")
        healed.append(status == 0 and not differing(ctx.box, undisturbed))
        say(f"corruption: {name}: {', '.join(ways)}: refused; heal: {healed[-1]}")
    for line in silent:
        say(f"corruption: NOT REFUSED: {line}")
    return [
        Row(
            f"{len(files)} raw files, arrays and models: cut short, one bit flipped, another "
            "file's content, wrong dtype, wrong shape",
            tried,
            f"{refused} refused by the stage that reads it, in one line that names it",
            refused == tried,
        ),
        Row(
            "the same files damaged here and in DVC's cache",
            len(files),
            f"{sum(healed)} made again by `make heal`, 0 differences",
            all(healed),
        ),
        checkout(ctx, undisturbed),
    ]


def recorded_files(box: Sandbox) -> list[str]:
    """List the files that dvc.lock records as outputs."""
    return sorted(outputs_of(box.folder / "dvc.lock"))


def checkout(ctx: Ctx, undisturbed: dict[str, str]) -> Row:
    """A damaged cache file that DVC installs without a word: plain `make` heals."""
    name = "data/prepared/train_images.npy"
    content = damages(name, (ctx.box.folder / name).read_bytes(), b"")["one bit flipped"]
    damage_cache(ctx.box, name, content)
    for gone in (name, "models/fashion_mlp.keras"):
        (ctx.box.folder / gone).unlink()
    shutil.rmtree(ctx.box.folder / ".dvc/cache/runs", ignore_errors=True)
    cached(ctx.box, "models/fashion_mlp.keras").unlink()
    status, output = ctx.box.run("make")
    good = status == 0 and f"{name}: damaged" in output and not differing(ctx.box, undisturbed)
    return Row(
        "a damaged array in DVC's cache, installed by DVC's checkout",
        1,
        "refused by train, healed within the same plain `make`" if good else output[-500:],
        good,
    )


def damages(name: str, whole: bytes, other: bytes) -> dict[str, bytes]:
    """Damage a file's content in every way that fits it."""
    middle = len(whole) // 2
    ways = {
        "cut short": whole[:middle],
        "one bit flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "another file's content": other,
    }
    if name.endswith(".npy"):
        with tempfile.TemporaryFile() as file:
            file.write(whole)
            file.seek(0)
            array = np.load(file, allow_pickle=False)
        for way, changed in (
            ("wrong dtype", array.astype(np.float64)),
            ("wrong shape", array[:, :-1]),
        ):
            with tempfile.TemporaryFile() as file:
                np.save(file, changed)
                file.seek(0)
                ways[way] = file.read()
    return ways


def cached(box: Sandbox, name: str) -> Path:
    """Where DVC's cache keeps an output."""
    number = outputs_of(box.folder / "dvc.lock")[name]
    return box.folder / ".dvc/cache/files/md5" / number[:2] / number[2:]


def damage_cache(box: Sandbox, name: str, content: bytes) -> None:
    """Replace a cached file's content, leaving its mode, which DVC trusts."""
    path = cached(box, name)
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def back_to(ctx: Ctx, undisturbed: dict[str, str]) -> None:
    """Bring the sandbox to the end of an undisturbed run with SGD."""
    ctx.box.set(train__optimizer=optimizer("SGD"))
    ctx.box.good("make")
    if names := differing(ctx.box, undisturbed):
        raise RuntimeError(f"not as an undisturbed run leaves them: {names}")


def edits(ctx: Ctx) -> list[Row]:
    """params.yaml edited while a stage runs: it fails, dvc.lock stays."""
    undisturbed = settle(ctx, "SGD")
    said, good = "", True
    cases = {"train": ("train__seed", 43, 42), "evaluate": ("evaluate__calibration_bins", 9, 15)}
    for stage, (key, new, old) in cases.items():
        ctx.box.forget()
        ctx.box.set(train__optimizer=optimizer("SGD"))
        process = ctx.box.start("make")
        at_work = ctx.box.folder / ".run/lock"
        wait_for(lambda at=at_work, of=stage: at.exists() and of in at.read_text(), process)  # type: ignore[misc]
        time.sleep(1.0)
        lock = (ctx.box.folder / "dvc.lock").read_bytes()
        ctx.box.set(**{key: new})
        output, _ = process.communicate()
        found = re.findall(
            rf"^{stage}: error: params.yaml: {stage} changed.*", output, re.MULTILINE
        )
        said = found[0] if found else output[-500:]
        good &= process.returncode != 0 and bool(found)
        good &= (ctx.box.folder / "dvc.lock").read_bytes() == lock
        ctx.box.set(**{key: old})
        ctx.box.good("make")
        good &= not differing(ctx.box, undisturbed)
    return [
        Row("params.yaml edited while a stage runs", len(cases), f"refused: `{said}`; dvc.lock as "
            "it was", good)
    ]  # fmt: skip


def disks(ctx: Ctx) -> list[Row]:
    """No space, read-only, a file in the way: one line, and `make` works again afterwards."""
    undisturbed = settle(ctx, "SGD")
    rows = []
    mountable = sys.platform == "linux" and os.geteuid() == 0
    for fault, make_fault, places in (
        ("no space left (a small tmpfs)", full_disk, WRITES),
        ("read-only file system", read_only, [(".dvc/cache", "train")]),
        (
            "a file in its place",
            file_in_place,
            [("data/prepared", "preprocess"), ("models", "train")],
        ),
    ):
        if make_fault is not file_in_place and not mountable:
            rows.append(Row(fault, 0, "not tried: needs root on Linux"))
            continue
        good = 0
        for place, stage in places:
            back_to(ctx, undisturbed)
            make_stale(ctx, stage)
            lock = (ctx.box.folder / "dvc.lock").read_bytes()
            with make_fault(ctx.box.folder / place):
                status, output = ctx.box.run("make")
            lines = [line for line in output.splitlines() if re.search(r"error:|ERROR:", line)]
            clear = status != 0 and bool(lines) and "Traceback" not in output
            intact = (ctx.box.folder / "dvc.lock").read_bytes() == lock
            ctx.box.run("make")
            same = not differing(ctx.box, undisturbed)
            good += clear and intact and same
            say(f"disks: {fault}: {place}: {lines[:1]} clear={clear} lock={intact} same={same}")
        rows.append(
            Row(
                f"{fault}: {', '.join(place for place, _ in places)}",
                len(places),
                f"{good} clear errors, dvc.lock as it was, `make` works again, 0 differences",
                good == len(places),
            )
        )
    return rows


def make_stale(ctx: Ctx, stage: str) -> None:
    """Make DVC run a stage that was done: an output is gone, here and in its cache."""
    outputs = {
        "fetch": "data/raw/t10k-labels-idx1-ubyte",
        "preprocess": "data/prepared/test_labels.npy",
        "train": "models/fashion_mlp.keras",
        "evaluate": "metrics/evaluate.json",
        "export": "models/fashion_mlp.onnx",
    }
    (ctx.box.folder / outputs[stage]).unlink()
    if stage != "evaluate":
        cached(ctx.box, outputs[stage]).unlink()
    shutil.rmtree(ctx.box.folder / ".dvc/cache/runs", ignore_errors=True)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Cover a folder with a file system that holds next to nothing."""
    # Where files are small, no new one is allowed at all.
    limit = "nr_inodes=1" if folder.name in ("metrics", "plots") else "size=16k"
    with mounted("-t", "tmpfs", "-o", limit, "tmpfs", str(folder), at=folder):
        yield


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only, for root too."""
    with (
        mounted("--bind", str(folder), str(folder), at=folder),
        mounted("-o", "remount,ro,bind", str(folder), at=None),
    ):
        yield


@contextmanager
def mounted(*arguments: str, at: Path | None) -> Iterator[None]:
    """Mount; unmount at the end (None: nothing, for a remount)."""
    if at:
        at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        if at:
            subprocess.run(["umount", str(at)], check=True)


@contextmanager
def file_in_place(folder: Path) -> Iterator[None]:
    """Put a file where a folder should be."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.write_text("in the way")
    try:
        yield
    finally:
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink()
        aside.rename(folder)


def memory(ctx: Ctx) -> list[Row]:
    """Peak memory of each stage; of fetch and preprocess with ten times the data as well."""
    small = peaks(Sandbox(ctx.scratch / "x1", 5_000, 1_000, train__epochs=2))
    large = peaks(Sandbox(ctx.scratch / "x10", 50_000, 10_000, train__epochs=2))
    growth = max(large[stage] - small[stage] for stage in ("fetch", "preprocess"))
    text = ", ".join(f"{stage} {small[stage]:.0f} and {large[stage]:.0f}" for stage in small)
    return [
        Row(
            "peak memory in MiB with 6,000 images and with 60,000",
            2,
            f"{text}; fetch and preprocess grew by at most {growth:.0f}",
            growth < 20,  # MiB; the data grow by 180
        )
    ]


def peaks(box: Sandbox) -> dict[str, float]:
    """Run each stage by itself; return its peak resident memory in MiB."""
    found = {}
    for stage in STAGES:
        output = box.good(f"python -m checks.peak {stage}")
        found[stage] = int(output.split()[-1]) / 1024
    shutil.rmtree(box.folder.parent)
    return found


def concurrency(ctx: Ctx) -> list[Row]:
    """Two at once: of `make`, of a stage, of queue workers."""
    undisturbed = settle(ctx, "SGD")
    rows = []
    good, said = 0, ""
    for _ in range(3):
        ctx.box.forget()
        ctx.box.set(train__optimizer=optimizer("SGD"))
        first, second = ctx.box.start("make"), ctx.box.start("make")
        outputs = [process.communicate()[0] for process in (first, second)]
        waits = re.findall(r"make: another make is .*", "\n".join(outputs))
        said = waits[0] if waits else ""
        good += (
            first.returncode == second.returncode == 0
            and len(waits) == 1
            and not differing(ctx.box, undisturbed)
        )
    rows.append(Row("two `make` at once", 3, f"{good} good: one says `{said}`", good == 3))

    first, second = (ctx.box.start("python -m stages.train") for _ in range(2))
    outputs = [process.communicate()[0] for process in (first, second)]
    waits = re.findall(r"train: waiting: .*", "\n".join(outputs))
    same = not differing(ctx.box, undisturbed)
    rows.append(
        Row("two `python -m stages.train` at once", 1,
            f"one says `{re.sub('[0-9]+', '…', waits[0]) if waits else 'nothing'}`; 0 differences",
            bool(waits) and same)
    )  # fmt: skip
    rows.append(queue(ctx))
    return rows


def queue(ctx: Ctx) -> Row:
    """`dvc exp run --queue` with two workers: each experiment is its own, none fails."""
    ctx.box.forget()
    ctx.box.set(train__epochs=3)
    ctx.box.good("make")
    ctx.box.commit()
    seeds = (1, 2, 3, 4)
    for seed in seeds:
        ctx.box.good(f"dvc exp run --queue -S train.seed={seed}")
    before = ctx.box.results()
    ctx.box.good("dvc queue start --jobs 2")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        status = ctx.box.good("dvc queue status")
        if len(re.findall(r"\b(Success|Failed)\b", status)) == len(seeds):
            break
        time.sleep(2)
    done = len(re.findall(r"\bSuccess\b", status))
    untouched = not differing(ctx.box, before)
    ctx.box.run("dvc queue stop --kill")
    ctx.box.set(train__epochs=EPOCHS)
    return Row(
        "`dvc exp run --queue`, two workers",
        len(seeds),
        f"{done} experiments succeeded, the workspace as it was",
        done == len(seeds) and untouched,
    )


# The longest first, as two are at work at a time.
FAULTS: dict[str, Callable[[Ctx], list[Row]]] = {
    "concurrency": concurrency,
    "corruption": corruption,
    "disks": disks,
    "interrupts": interrupts,
    "edits": edits,
    "memory": memory,
}


def say(text: str) -> None:
    """Tell whoever watches how far it is."""
    print(f"torture: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Try every fault; the exit status says whether all outcomes were good."""
    parser = argparse.ArgumentParser(description="Kill, starve and damage a copy of the pipeline.")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--kills", type=int, default=100, help="at least so many")
    parser.add_argument("--only", nargs="+", choices=("kills", *FAULTS), metavar="FAULT")
    options = parser.parse_args()
    chosen = options.only or ["kills", *FAULTS]
    start = time.monotonic()

    with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as name:

        def alone(of: str, work: Callable[[Ctx], Any]) -> Any:
            """Do a part of the work in a sandbox of its own."""
            folder = Path(name) / of
            box = Sandbox(
                folder,
                1_000,
                200,
                train__epochs=EPOCHS,
                train__hidden_units=100,
                preprocess__validation_images=200,
            )
            chance = random.Random(f"{options.seed} {of}")  # noqa: S311
            kills_each = -(-options.kills // len(OPTIMIZERS))
            found = work(Ctx(box, chance, kills_each, folder, {}, {}))
            say(f"{of}: done after {time.monotonic() - start:.0f} s")
            return found

        # Two at a time: most of it is Python and TensorFlow starting, on one core.
        with ThreadPoolExecutor(2) as pool:
            killed = [
                pool.submit(alone, f"kills-{of}", partial(kills, name=of))
                for of in (OPTIMIZERS if "kills" in chosen else ())
            ]
            others = [pool.submit(alone, of, FAULTS[of]) for of in FAULTS if of in chosen]
            total: Counter[str] = sum((part.result() for part in killed), Counter())
            rows = [describe_kills(total)] if killed else []
            rows += [row for part in others for row in part.result()]
    print("| fault | tried | outcome |")
    print("|---|---|---|")
    for row in rows:
        print(
            f"| {row.fault} | {row.tried} | {'' if row.good else '**NOT GOOD**: '}{row.outcome} |"
        )
    versions = ", ".join(f"{name} {version(name)}" for name in ("dvc", "tensorflow", "keras"))
    print(
        f"\n{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {versions}; seed {options.seed}, "
        f"{(time.monotonic() - start) / 60:.0f} minutes."
    )
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
