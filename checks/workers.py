"""Show that several workers train what one trains: `make check-workers`.

Trains three epochs of 20,000 prepared images with one worker and with several: on loopback, and
as root between two hosts that are network namespaces joined by a cable (a veth pair). Kills a
worker and the chief, hangs a worker, pulls the cable; starts all again. Prints a Markdown table
(docs/workers.md shows it) and fails where the losses are not within rounding of one worker's, the
weights differ between workers, another than the chief writes a file, or the others do not end
within a minute and with one line of error.

`python -m checks.workers 60000` takes all images.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from checks.repro import processor
from checks.sandbox import environment, run

ROOT = Path(__file__).resolve().parent.parent
IMAGES, EPOCHS = 20_000, 3
GRADIENTS = 4 * (784 * 800 + 800 + 800 * 10 + 10)  # bytes
ROUNDING = 1e-5  # of a loss: what another order of adding may change
NOTICED_SECONDS = 60.0
LONGEST_SECONDS = 300.0
ADDRESSES = ("10.77.0.1", "10.77.0.2")  # of the two hosts; nobody else sees them
LOST = r"error: TF_CONFIG: (a worker|worker \d .*) is gone or hangs .* goes on with epoch \d+\n$"


class Team:
    """Workers, each a process in a folder of its own; the chief is number 0."""

    def __init__(self, folder: Path, data: Path, *params: Mapping[str, Any]) -> None:
        """Prepare to train on `data`, a folder like data/prepared; with `params`, in turn."""
        self.folder, self.data, self.params = folder, data, params
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        count: int,
        prefixes: Sequence[str] = (),
        hosts: Sequence[str] = (),
        anew: bool = True,
        devices: str = "",
        module: str = "",
    ) -> None:
        """Start `count` workers, from nothing if `anew`; 0 is one without TF_CONFIG.

        Args:
            count: how many.
            prefixes: what the command of each is put behind.
            hosts: the address of each.
            anew: without a restart point.
            devices: FASHION_MLP_DEVICES, where it is to be set.
            module: what all run, if not stage train and `worker`.
        """
        self.stop()
        if anew:
            shutil.rmtree(self.folder / "0/.run", ignore_errors=True)
        cluster = [f"{host}:{free_port()}" for host in hosts or ["127.0.0.1"] * count]
        for number in range(count or 1):
            own = self.folder / str(number)
            (own / "data").mkdir(parents=True, exist_ok=True)
            (own / "data/prepared").unlink(missing_ok=True)
            (own / "data/prepared").symlink_to(self.data)
            (own / "params.yaml").write_text(yaml.safe_dump(self.params[number % len(self.params)]))
            task = {"type": "worker", "index": number}
            config = {"cluster": {"worker": cluster}, "task": task}
            extra = {"TF_CONFIG": json.dumps(config)} if count else {}
            extra |= {"FASHION_MLP_DEVICES": devices} if devices else {}
            prefix = prefixes[number].split() if prefixes else []
            role = "worker" if number else "stages.train"
            with (self.folder / f"{number}.log").open("wb") as log:
                process = subprocess.Popen(
                    [*prefix, sys.executable, "-m", module or role],
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
            raise RuntimeError(f"still at work after {seconds:.0f} s") from None

    def hashes(self) -> set[str]:
        """Wait for all to end well; return the weights' hashes that they say.

        Raises:
            RuntimeError: one failed, or one that is not the chief wrote a file.
        """
        numbers = range(len(self.processes))
        for number, status in enumerate(self.wait(numbers)):
            if status != 0:
                raise RuntimeError(f"worker {number}: status {status}: {self.printed(number)}")
            if number and (found := set(files(self.folder / str(number))) - {"params.yaml"}):
                raise RuntimeError(f"worker {number} wrote {found}")
        texts = [re.findall(r"weights (\w+), alike on all", self.printed(i)) for i in numbers]
        return {said for found in texts for said in found}

    def next_point(self) -> float:
        """Wait for the chief's next restart point; return when it was written, s.

        Raises:
            RuntimeError: the chief ended.
        """
        path = self.folder / "0/.run/train.npz"
        began = time.time()
        while not (path.exists() and path.stat().st_mtime > began):
            if self.processes[0].poll() is not None:
                raise RuntimeError(f"the chief ended: {self.printed(0)}")
            time.sleep(0.01)
        return path.stat().st_mtime

    def losses(self) -> np.ndarray:
        """Read the loss of each epoch, float64 (epochs,)."""
        return np.loadtxt(self.folder / "0/plots/history.csv", delimiter=",", skiprows=1)[:, 1]


def files(folder: Path) -> Iterator[str]:
    """Name the files in a folder; what a link leads to is not in it."""
    for path in folder.rglob("*"):
        if path.is_file() and "prepared" not in path.parts:
            yield str(path.relative_to(folder))


def free_port() -> int:
    """Find a port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def time_to_errors(team: Team, survivors: Sequence[int], fault: Callable[[], object]) -> float:
    """Do harm in the second epoch; return the seconds until all survivors have said so.

    Raises:
        RuntimeError: one did not.
    """
    team.next_point()
    began = time.monotonic()
    fault()
    statuses = team.wait(survivors, NOTICED_SECONDS)
    seconds = time.monotonic() - began
    for number, status in zip(survivors, statuses, strict=True):
        printed = team.printed(number)
        if status != 1 or not re.search(LOST, printed) or printed.count("rror: ") > 1:
            raise RuntimeError(f"worker {number}: status {status}: {printed}")
    return seconds


@contextmanager
def two_hosts() -> Iterator[list[str]]:
    """Make two network namespaces with a cable between; yield what runs a command in each."""
    names = [f"fmlp{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            run(f"ip netns add {name}", ROOT)
        ends = f"eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}"
        run(f"ip link add {ends}", ROOT)
        for name, address in zip(names, ADDRESSES, strict=True):
            run(f"ip -n {name} address add {address}/24 dev eth0", ROOT)
            run(f"ip -n {name} link set eth0 up", ROOT)
            run(f"ip -n {name} link set lo up", ROOT)
        yield [f"ip netns exec {name}" for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def prepare(folder: Path, images: int) -> Team:
    """Take the project's parameters and the first images of its prepared data."""
    data = folder / "prepared"
    data.mkdir()
    for name, count in (("train", images), ("validation", 0)):
        for kind in ("images", "labels"):
            array = np.load(f"data/prepared/train_{kind}.npy", "r", allow_pickle=False)
            np.save(data / f"{name}_{kind}.npy", array[:count], allow_pickle=False)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["train"] |= {"epochs": EPOCHS, "steps_per_execution": 100}
    return Team(folder / "team", data, params)


class Table:
    """A Markdown table, row by row, and whether all was good."""

    def __init__(self, team: Team) -> None:
        """Print the head."""
        self.team, self.good = team, True
        self.alone = np.empty(0)  # losses of one worker
        self.steps = len(np.load(team.data / "train_labels.npy", "r", allow_pickle=False))
        self.steps //= team.params[0]["train"]["batch_size"]
        print("| tried | ms a step | outcome |\n|---|--:|---|", flush=True)

    def row(self, tried: str, attempt: Callable[[], tuple[str, str]]) -> None:
        """Print what came of it; a RuntimeError is a failure."""
        try:
            figure, outcome = attempt()
        except RuntimeError as error:
            self.good, figure, outcome = False, "", f"**FAILED**: {str(error).strip()[-500:]}"
        finally:
            self.team.stop()
        print(f"| {tried} | {figure} | {outcome} |", flush=True)

    def train(self, count: int, **options: Any) -> tuple[str, str]:
        """Train to the end; hold losses and weights against one worker's and each other's."""
        self.team.start(count, **options)
        seconds = -self.team.next_point() + self.team.next_point()
        return f"{1000 * seconds / self.steps:.1f}", self.compare()

    def compare(self) -> str:
        """Wait for the end of a training; say how it compares with one worker's."""
        hashes, losses = self.team.hashes(), self.team.losses()
        if not len(self.alone):
            self.alone = losses
            return "losses " + ", ".join(f"{loss:.6f}" for loss in losses)
        largest = np.abs(losses - self.alone).max()
        if largest > ROUNDING or len(hashes) != 1:
            raise RuntimeError(f"losses {losses} for {self.alone}; weights {hashes}")
        return f"losses within {largest:.0e} of one worker's; all have weights {min(hashes)}"

    def exchange(self, **options: Any) -> tuple[str, str]:
        """Exchange gradients and nothing else between two; say how fast."""
        self.team.start(2, module="checks.exchange", **options)
        if any(self.team.wait([0, 1])):
            raise RuntimeError(self.team.printed(0))
        (milliseconds,) = re.findall(r"([\d.]+) ms a step", self.team.printed(0))
        rate = GRADIENTS / float(milliseconds) / 1000
        return milliseconds, f"{GRADIENTS:,} bytes a step, each way: {rate:.0f} MB/s"

    def harm(self, survivor: int, fault: Callable[[], object]) -> tuple[str, str]:
        """Do harm to two workers at work; say how long the survivor took to say so and end."""
        seconds = time_to_errors(self.team, [survivor], fault)
        return "", f"worker {survivor} ends with one line of error after {seconds:.1f} s"


def main() -> int:
    """Try everything and print the table."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    libraries = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras"))
    print(
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries};"
    )
    print(f"{images:,} images, {EPOCHS} epochs; each row once\n")
    with tempfile.TemporaryDirectory() as folder:
        team = prepare(Path(folder), images)
        table = Table(team)
        try:
            on_this_host(table)
            on_two_hosts(table)
        finally:
            team.stop()
    return 0 if table.good else 1


def on_this_host(table: Table) -> None:
    """Try workers that talk over loopback."""
    team = table.team
    table.row("one worker, no TF_CONFIG", lambda: table.train(0))
    table.row("one worker, two devices", lambda: table.train(0, devices="cpu:2"))
    table.row("two workers", lambda: table.train(2))
    table.row("four workers", lambda: table.train(4))
    table.row("two workers, the exchange of gradients alone", table.exchange)

    def kill(number: int) -> tuple[str, str]:
        team.start(2)
        return table.harm(1 - number, lambda: team.processes[number].kill())

    def again() -> tuple[str, str]:
        team.start(2, anew=False)
        outcome = table.compare()
        (epoch,) = re.findall(r"going on after epoch (\d)", team.printed(0)) or ["**0**"]
        return "", f"went on after epoch {epoch}; {outcome}"

    def hang() -> tuple[str, str]:
        team.start(2)
        return table.harm(0, lambda: team.processes[1].send_signal(signal.SIGSTOP))

    table.row("worker 0 of two killed", lambda: kill(0))
    table.row("worker 1 of two killed", lambda: kill(1))
    table.row("both started again", again)
    table.row("worker 1 of two stopped (SIGSTOP)", hang)


def on_two_hosts(table: Table) -> None:
    """Try two network namespaces; without root or iproute2, a row says that it was not tried."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("| two hosts | | not tried: needs root and iproute2 (`apt-get install iproute2`) |")
        return
    with two_hosts() as prefixes:
        first, _ = prefixes
        cut = f"ip -n {first.split()[-1]} link set eth0 down"

        def pull() -> tuple[str, str]:
            table.team.start(2, prefixes, ADDRESSES)
            return table.harm(1, lambda: run(cut, ROOT))

        table.row(
            "two hosts, a worker on each",
            lambda: table.train(2, prefixes=prefixes, hosts=ADDRESSES),
        )
        table.row(
            "two hosts, the exchange of gradients alone",
            lambda: table.exchange(prefixes=prefixes, hosts=ADDRESSES),
        )
        table.row("the cable between two hosts pulled", pull)


if __name__ == "__main__":
    sys.exit(main())
