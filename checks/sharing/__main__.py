"""Share the results through real servers, then damage what lies there: `make check-sharing`.

A machine here is a clone of HEAD with a home, a DVC cache and a DVC index of its own. The first
has this folder's results and pushes them; the others have nothing and pull. The servers are
OpenSSH's and moto's (S3's protocol), both on loopback. Nothing is trained: the only stages that
run are fetch and preprocess, on the first machine, for DVC's run cache to know of them.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import NamedTuple

from checks.heal import outputs_of
from checks.repro import processor
from checks.sandbox import ROOT, environment
from checks.sharing.servers import ENVIRONMENT, SECRETS, SSHD, Server, s3, ssh

OBJECT = re.compile(r"/files/md5/(?P<head>[0-9a-f]{2})/(?P<tail>[0-9a-f]{30}(\.dir)?)$")
UNCHANGED = re.compile(r"^Stage '\w+' didn't change, skipping$", re.M)
FROM_RUN_CACHE = re.compile(r"^Stage '\w+' is cached - skipping run", re.M)
# What one machine has and another has not: settings, keys that an agent holds.
HIDDEN = {"XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SSH_AUTH_SOCK", "FASHION_MNIST_DIR"}


class Row(NamedTuple):
    """A line of the table."""

    remote: str
    what: str
    outcome: str
    good: bool


class Machine:
    """A clone, and what else a machine of its own would have."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.name = folder.name
        self.folder = folder / "fashion-mlp"
        (folder / "home").mkdir(parents=True)
        (folder / "bin").mkdir()
        # DVC with its SSH and S3; `python` is the pipeline's.
        (folder / "bin/dvc").symlink_to(ENVIRONMENT / "dvc")
        kept = {key: value for key, value in environment().items() if key not in HIDDEN}
        self.environment = kept | SECRETS | {
            "HOME": str(folder / "home"),
            "DVC_SITE_CACHE_DIR": str(folder / "home/dvc"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{kept['PATH']}",
        }  # fmt: skip
        command = f"git clone --quiet --no-hardlinks {origin} {self.folder}"
        subprocess.run(command.split(), check=True)

    def start(self, command: str, **settings: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own; its output comes as one stream."""
        return subprocess.Popen(
            command.split(),
            cwd=self.folder,
            env=self.environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, show: bool = True, **settings: str) -> tuple[int, str]:
        """Run a command to its end and show both; return its exit status and its output."""
        process = self.start(command, **settings)
        output, _ = process.communicate()
        if show:
            text = "".join(f"    {line}\n" for line in output.splitlines() if line.strip())
            status = f"    exit status {process.returncode}\n" if process.returncode else ""
            print(f"{self.name}$ {command}\n{text}{status}", end="", flush=True)
        return process.returncode, output

    def good(self, command: str, show: bool = True, **settings: str) -> str:
        """Run a command that must end well; return its output.

        Raises:
            RuntimeError: it did not; the text is what it printed.
        """
        status, output = self.run(command, show, **settings)
        if status != 0:
            raise RuntimeError(f"{self.name}: {command}: exit status {status}\n{output}")
        return output

    def use(self, server: Server) -> None:
        """Say of the remote what is not in git."""
        for key, value in server.private.items():
            self.good(f"dvc remote modify --local team {key} {value}", show=False)

    def commit(self) -> None:
        """Commit what is tracked."""
        author = "-c user.name=check -c user.email=check@localhost"
        self.good(f"git {author} commit --quiet --all --allow-empty --message remote", show=False)

    def clean(self) -> bool:
        """Whether every tracked file is as it is in git."""
        return self.good("git status --porcelain", show=False) == ""


def first_machine(scratch: Path) -> Machine:
    """Make the machine that has the results, those of this folder, and the run cache of two stages.

    Raises:
        RuntimeError: this folder has not all that dvc.lock records.
    """
    machine = Machine(scratch / "laptop", ROOT)
    machine.good(f"dvc remote add --local here {ROOT / '.dvc/cache'}", show=False)
    status, output = machine.run("dvc pull --remote here", show=False)
    if status != 0:
        raise RuntimeError(f"this folder lacks results of HEAD; `make` makes them\n{output}")
    machine.good("dvc remote remove --local here", show=False)
    say("laptop: fetch and preprocess, once")
    machine.good(
        "dvc repro --force preprocess", show=False, FASHION_MNIST_DIR=str(ROOT / "data/raw")
    )
    return machine


def second_machine(scratch: Path, name: str, first: Machine, server: Server) -> Machine:
    """Make a machine that has nothing but a clone and the right to use the remote."""
    machine = Machine(scratch / name, first.folder)
    machine.use(server)
    return machine


def set_up(first: Machine, server: Server) -> None:
    """Make a remote the team's, as docs/sharing.md says, and commit that."""
    (first.folder / ".dvc/config.local").unlink(missing_ok=True)  # of the remote before
    first.good(f"dvc remote add --force --default team {server.url('fashion-mlp')}")
    first.good("dvc remote modify team verify true")
    for key, value in server.shared.items():
        first.good(f"dvc remote modify team {key} {value}")
    first.use(server)
    first.commit()


def objects(server: Server, remote: str) -> dict[str, str]:
    """Map the MD5 in the name of each object on a remote to that name; listings end in .dir."""
    found = ((OBJECT.search(name), name) for name in server.names(remote))
    return {match["head"] + match["tail"]: name for match, name in found if match}


def sound(server: Server, remote: str) -> bool:
    """Whether every object on a remote has the content that its name says."""
    return all(
        md5(server.read(name), usedforsecurity=False).hexdigest() == number.removesuffix(".dir")
        for number, name in objects(server, remote).items()
    )


def flip(server: Server, names: list[str]) -> None:
    """Flip one bit in the middle of each file."""
    for name in names:
        content = bytearray(server.read(name))
        content[len(content) // 2] ^= 1
        server.write(name, bytes(content))


def nothing_ran(machine: Machine) -> bool:
    """Reproduce; whether no stage had to run, nothing tracked changed, all outputs are whole."""
    output = machine.good("dvc repro")
    skipped = len(UNCHANGED.findall(output))
    damage, _ = machine.run("python -m checks.heal", show=False)  # 1: it found none
    return skipped == stages() and "Running stage" not in output and machine.clean() and damage == 1


def stages() -> int:
    """How many stages dvc.lock records."""
    text = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    return len(re.findall(r"^  \w+:$", text, re.M))


def share(scratch: Path, first: Machine, server: Server) -> Iterator[Row]:
    """Push, pull, reproduce; then without a lock, by the run cache."""
    set_up(first, server)
    first.good("dvc push --run-cache")
    pushed = objects(server, "fashion-mlp")
    machine = second_machine(scratch, "ci", first, server)
    machine.good("dvc pull --run-cache")
    good = nothing_ran(machine)
    yield Row(
        server.name,
        "push, pull on another machine, `dvc repro`",
        f"{len(pushed)} objects, {stages()} stages, none ran; `git status` clean",
        good and sound(server, "fashion-mlp"),
    )
    # As on a branch whose dvc.lock is behind, but whose stages somebody has run before.
    (machine.folder / "dvc.lock").unlink()
    output = machine.good("dvc repro preprocess")
    machine.good("git checkout --quiet dvc.lock", show=False)
    yield Row(
        server.name,
        "the same without dvc.lock: `dvc repro preprocess`",
        "fetch and preprocess taken from the run cache, none ran",
        len(FROM_RUN_CACHE.findall(output)) == 2 and "Running stage" not in output,
    )


def damaged(scratch: Path, first: Machine, server: Server) -> Iterator[Row]:
    """Flip a bit of each file on the remote: with `verify`, without, and mended."""
    known = objects(server, "fashion-mlp")
    files = {number: name for number, name in known.items() if not number.endswith(".dir")}
    outputs = {path for path, number in outputs_of(ROOT / "dvc.lock").items() if number in known}
    flip(server, list(files.values()))
    machine = second_machine(scratch, "verified", first, server)
    status, output = machine.run("dvc pull --run-cache")
    named = outputs & set(output.splitlines())
    installed = [path for path in outputs if (machine.folder / path).is_file()]
    yield Row(
        server.name,
        f"a bit flipped in each of {len(files)} files on the remote",
        f"pull names {len(named)} of {len(outputs)} outputs, exit status {status}; "
        f"{len(installed)} damaged files installed",
        status != 0 and named == outputs and not installed,
    )

    trusting = second_machine(scratch, "trusting", first, server)
    trusting.good("dvc config --local remote.team.verify false")
    status, _ = trusting.run("dvc pull --run-cache")
    refused, output = trusting.run("python -m stages.train")
    yield Row(
        server.name,
        "the same with `verify` off",
        f"pull's exit status {status}: it installs them; "
        f"stage train refuses, exit status {refused}",
        status == 0 and refused != 0 and "damaged: expected MD5" in output,
    )

    _, output = first.run("dvc push")
    # The listings as well: where DVC has seen one, it takes the folder's files for there.
    for name in known.values():
        server.remove(name)
    first.good("dvc push")
    machine.good("dvc pull --run-cache")
    good = nothing_ran(machine)
    yield Row(
        server.name,
        "mended: those files and their folders' listings removed from the remote, pushed again",
        "complete, no stage ran (a push alone says `Everything is up to date`)",
        good and "up to date" in output and sound(server, "fashion-mlp"),
    )

    listing = next(name for number, name in known.items() if number.endswith(".dir"))
    flip(server, [listing])
    machine = second_machine(scratch, "listing", first, server)
    status, output = machine.run("dvc pull --run-cache")
    yield Row(
        server.name,
        "a bit flipped in a folder's listing",
        f"pull names the object, exit status {status}",
        status != 0 and "is corrupted" in output,
    )


def half_pushed(scratch: Path, first: Machine, server: Server) -> Iterator[Row]:
    """Kill a push; what lies there is whole, a pull names what lacks, and a push completes it."""
    first.good(f"dvc remote modify team url {server.url('half')}")
    first.commit()
    push = first.start("dvc push --run-cache --jobs 1")  # one object after the other
    while not (there := objects(server, "half")) and push.poll() is None:
        time.sleep(0.01)
    os.killpg(push.pid, signal.SIGKILL)
    push.communicate()
    there = objects(server, "half")
    whole = sound(server, "half")
    say(f"laptop: dvc push killed (kill -9) with {len(there)} objects on the remote")
    machine = second_machine(scratch, "half", first, server)
    status, output = machine.run("dvc pull --run-cache")
    missing = set(re.findall(r"^md5: (\w{32}(?:\.dir)?)$", output, re.M))
    first.good("dvc push --run-cache")
    known = objects(server, "half")
    machine.good("dvc pull --run-cache")
    # Of the pipeline: consumers/dvc.yaml's measurements may be older than the code.
    status_now = machine.good("dvc status dvc.yaml", show=False)
    good = status_now.startswith("Data and pipelines are up to date")
    # A folder's files are named by its listing alone, where that lacks.
    named = bool(missing) and missing <= known.keys() - there.keys()
    yield Row(
        server.name,
        f"`kill -9` of `dvc push` after {len(there)} of {len(known)} objects",
        f"{len(there)} whole; pull names {len(missing)} as missing, exit status {status}; "
        "push and pull again: complete",
        whole and status != 0 and named and good and sound(server, "half"),
    )


def say(text: str) -> None:
    """Tell whoever reads the transcript what is done between the commands."""
    print(f"# {text}", flush=True)


def main() -> int:
    """Try both kinds of remote; the exit status says whether all outcomes were good."""
    if SSHD is None:
        print(
            "check-sharing: no sshd; on Debian or Ubuntu, as root: make sharing-tools",
            file=sys.stderr,
        )
        return 1
    start = time.monotonic()
    rows: list[Row] = []
    versions = []
    with tempfile.TemporaryDirectory(prefix="fashion-mlp-") as name:
        scratch = Path(name)
        first = first_machine(scratch)
        for serve in (ssh, s3):
            with serve(scratch / serve.__name__) as server:
                say(f"{server.name}: {server.version}")
                versions.append(server.version)
                machines = scratch / f"{server.name}-machines"
                for kind in (share, damaged, half_pushed):
                    say(f"{server.name}: {(kind.__doc__ or '').splitlines()[0]}")
                    rows += kind(machines, first, server)
                    shutil.rmtree(machines)
    print("\n| remote | what | outcome |")
    print("|---|---|---|")
    for row in rows:
        print(
            f"| {row.remote} | {row.what} | {'' if row.good else '**NOT GOOD**: '}{row.outcome} |"
        )
    versions += [f"{name} {of(name)}" for name in ("dvc", "dvc-ssh", "dvc-s3")]
    print(
        f"\n{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {', '.join(versions)}; "
        f"{time.monotonic() - start:.0f} seconds."
    )
    return 0 if all(row.good for row in rows) else 1


def of(name: str) -> str:
    """Say which version of a package the check's own environment has."""
    folder = next((ENVIRONMENT.parent / "lib").glob("python3*/site-packages"))
    found = next(folder.glob(f"{name.replace('-', '_')}-*.dist-info"))
    return found.name.removesuffix(".dist-info").split("-")[1]


if __name__ == "__main__":
    sys.exit(main())
