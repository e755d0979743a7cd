"""Check that several workers train what one trains: `make check-workers`.

Trains some epochs of the first prepared images with the parameters of preset accurate, on one, two
and four processes that talk over loopback; kills a worker and the chief, starts both again, and
stops one. Prints a Markdown table (docs/workers.md shows it). Fails if the losses are not within
rounding of one worker's, the weights are not the same on all workers, another than the chief
writes a file, or the others do not end within a minute and with one line of error.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from checks.common import machine, table
from checks.sandbox import environment, files
from pipeline.environment import ROOT
from pipeline.params import Train

IMAGES, VALIDATION, EPOCHS = 20_000, 1_000, 3
# What another order of adding may change of the first epoch's loss, by `train.precision`: bfloat16
# rounds factors that differ in their last bit of float32 to neighbours 2**-8 apart. From step to
# step the difference grows: AdamW divides by the gradient's size, however small.
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-3}
GROWN = 1e-3
NOTICED_SECONDS = 60.0
LONGEST_SECONDS = 300.0
LOST = r"error: TF_CONFIG: (a worker|worker \d .*) is gone or hangs .* epoch \d+\n$"
WORKER = "fashion_mlp.training.worker"


class Team:
    """Workers, each a process in a folder of its own; the chief is number 0."""

    def __init__(self, folder: Path, data: Path, *params: Mapping[str, Any]) -> None:
        """Prepare to train on `data`, a folder like data/prepared; with `params`, in turn."""
        self.folder, self.data, self.params = folder, data, params
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int, anew: bool = True) -> None:
        """Start `count` workers, without a checkpoint if `anew`; 0 is one without TF_CONFIG."""
        self.stop()
        if anew:
            shutil.rmtree(self.folder / "0/.run", ignore_errors=True)
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        for number in range(count or 1):
            own = self.folder / str(number)
            (own / "data").mkdir(parents=True, exist_ok=True)
            (own / "data/prepared").unlink(missing_ok=True)
            (own / "data/prepared").symlink_to(self.data)
            (own / "params.yaml").write_text(yaml.safe_dump(self.params[number % len(self.params)]))
            task = {"type": "worker", "index": number}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            extra = {"TF_CONFIG": config} if count else {}
            with (self.folder / f"{number}.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", WORKER if number else "stages.train"],
                    cwd=own,
                    env={**environment(), "PYTHONPATH": str(ROOT), **extra},
                    stdout=log,
                    stderr=log,
                )
            self.processes.append(process)

    def printed(self, number: int) -> str:
        """Read what a worker has printed."""
        return (self.folder / f"{number}.log").read_text(encoding="utf-8")

    def stop(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []

    def wait(self, numbers: Sequence[int], seconds: float = LONGEST_SECONDS) -> list[int]:
        """Wait for workers to end; return their exit statuses.

        Raises:
            RuntimeError: one did not end in time.
        """
        deadline = time.monotonic() + seconds
        try:
            return [
                self.processes[number].wait(max(deadline - time.monotonic(), 0))
                for number in numbers
            ]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"still running after {seconds:.0f} s") from None

    def hashes(self) -> set[str]:
        """Wait for all to succeed; return the hashes of weights that they print.

        Raises:
            RuntimeError: one failed, or one that is not the chief wrote a file.
        """
        numbers = range(len(self.processes))
        for number, status in enumerate(self.wait(numbers)):
            if status != 0:
                raise RuntimeError(f"worker {number}: status {status}: {self.printed(number)}")
            written = {path.name for path in files(self.folder / str(number))} - {"params.yaml"}
            if number and written:
                raise RuntimeError(f"worker {number} wrote {written}")
        texts = [re.findall(r"weights (\w+), the same on all", self.printed(i)) for i in numbers]
        return {name for found in texts for name in found}

    def next_checkpoint(self) -> float:
        """Wait for the chief's next checkpoint; return when it was written, s.

        Raises:
            RuntimeError: the chief ended.
        """
        began = time.time()
        while True:
            for path in (self.folder / "0/.run").glob("checkpoint*"):
                if (written := path.stat().st_mtime) > began:
                    return written
            if self.processes[0].poll() is not None:
                raise RuntimeError(f"the chief ended: {self.printed(0)}")
            time.sleep(0.01)

    def losses(self) -> np.ndarray:
        """Read the loss of each epoch, float64 (epochs,)."""
        return np.loadtxt(self.folder / "0/plots/history.csv", delimiter=",", skiprows=1, usecols=1)


def free_port() -> int:
    """Find a port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def time_to_error(team: Team, survivor: int, fault: Callable[[], object]) -> float:
    """Cause a fault in the second epoch; return the seconds until the survivor has reported it.

    Raises:
        RuntimeError: it did not, or not in one line of error.
    """
    team.next_checkpoint()
    began = time.monotonic()
    fault()
    (status,) = team.wait([survivor], NOTICED_SECONDS)
    seconds = time.monotonic() - began
    printed = team.printed(survivor)
    if status != 1 or not re.search(LOST, printed) or printed.count("rror: ") > 1:
        raise RuntimeError(f"worker {survivor}: status {status}: {printed}")
    return seconds


def first_images(source: Path, folder: Path, images: int, validation: int) -> Path:
    """Take the first images of a folder like data/prepared, and the next to validate with."""
    folder.mkdir()
    parts = {"train": slice(images), "validation": slice(images, images + validation)}
    for name, part in parts.items():
        for kind in ("images", "labels"):
            array = np.load(source / f"train_{kind}.npy", "r", allow_pickle=False)
            np.save(folder / f"{name}_{kind}.npy", array[part], allow_pickle=False)
    return folder


class Trials:
    """The rows of the table; each compares a training with one worker's."""

    def __init__(self, team: Team, steps: int) -> None:
        """Take workers, and the steps of an epoch."""
        self.team, self.steps, self.good = team, steps, True
        self.rows: list[tuple[str, str, str]] = []
        self.alone: dict[str, np.ndarray] = {}  # losses of one worker, by precision

    def add(self, tried: str, trial: Callable[[], tuple[str, str]]) -> None:
        """Add a row; a RuntimeError is a failure."""
        print(f"check-workers: {tried}", file=sys.stderr, flush=True)
        try:
            step, outcome = trial()
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-500:]
            self.good, step, outcome = False, "", f"**FAILED**: {reason}"
        finally:
            self.team.stop()
        self.rows.append((tried, step, outcome))

    def train(self, count: int) -> tuple[str, str]:
        """Train to the end and compare."""
        self.team.start(count)
        seconds = -self.team.next_checkpoint() + self.team.next_checkpoint()
        return f"{1000 * seconds / self.steps:.1f}", self.compare()

    def compare(self) -> str:
        """Wait for the end of a training; compare losses with one worker's, weights by hash."""
        hashes, losses = self.team.hashes(), self.team.losses()
        precision = self.team.params[0]["train"]["precision"]
        alone = self.alone.setdefault(precision, losses)
        if alone is losses:
            return "losses " + ", ".join(f"{loss:.6f}" for loss in losses)
        first, largest = np.abs(losses - alone)[0], np.abs(losses - alone).max()
        if first > ROUNDING[precision] or largest > GROWN or len(hashes) != 1:
            raise RuntimeError(f"losses {losses}, one worker's {alone}; weights {hashes}")
        return (
            f"losses within {first:.0e} of one worker's after 1 epoch, {largest:.0e} after "
            f"{EPOCHS}; all have weights {min(hashes)}"
        )

    def resume(self) -> tuple[str, str]:
        """Start two workers again after one was killed."""
        self.team.start(2, anew=False)
        outcome = self.compare()
        (epoch,) = re.findall(r"resuming after epoch (\d)", self.team.printed(0)) or ["**0**"]
        return "", f"resumed after epoch {epoch}; {outcome}"

    def lose(self, lost: int, how: signal.Signals) -> tuple[str, str]:
        """Send a signal to one of two workers; time how long the other takes to end."""
        self.team.start(2)
        process = self.team.processes[lost]
        seconds = time_to_error(self.team, 1 - lost, lambda: process.send_signal(how))
        return "", f"worker {1 - lost} ends with one line of error after {seconds:.1f} s"


def main() -> int:
    """Try everything and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = first_images(Path("data/prepared"), Path(folder) / "data", IMAGES, VALIDATION)
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        changes = yaml.safe_load(Path("presets/accurate.yaml").read_text(encoding="utf-8"))
        train = Train.model_validate({**changes["train"], "epochs": EPOCHS}).model_dump(mode="json")
        team = Team(Path(folder) / "team", data, params | {"train": train})
        trials = Trials(team, IMAGES // train["batch_size"])
        for precision in dict.fromkeys([train["precision"], "float32"]):
            train["precision"] = precision
            for count, name in ((0, "one worker"), (2, "two workers"), (4, "four workers")):
                trials.add(f"{name}, {precision}", partial(trials.train, count))
        for lost in (0, 1):
            trials.add(f"worker {lost} of two killed", partial(trials.lose, lost, signal.SIGKILL))
        trials.add("both started again", trials.resume)
        trials.add("worker 1 of two stopped (SIGSTOP)", partial(trials.lose, 1, signal.SIGSTOP))
    print(f"{machine()}; preset accurate,")
    print(f"{IMAGES:,} images, {EPOCHS} epochs; each row once\n")
    print(table(("tried", "ms a step", "outcome"), trials.rows))
    return 0 if trials.good else 1


if __name__ == "__main__":
    sys.exit(main())
