"""Run the pipeline by DVC: repair what is damaged and run again; experiments from presets.

After a run that ended well, each output is compared with dvc.lock: DVC's commit links the object
of its cache over a fresh output, whatever that object's content has become.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
from pathlib import Path

from tasks.environment import ensure
from tasks.folder import look
from tasks.processes import DATABASES, STATE, alone, answer, call, clean, say

VERIFIED = STATE / "verified.json"  # `signature` of the outputs that were compared
REPAIRED = 3  # exit status of `tasks.repair` that removed something
ATTEMPTS = 3  # each damage that is found takes one more run
RWLOCK = Path(".dvc/tmp/rwlock")
DVC_FILES = ("dvc.yaml", ".dvc")
# Whatever the user's settings of git are: no hook or filter of theirs, and a remote named origin.
CLONE = ("clone", "--quiet", "--origin=origin",
         "--config=core.hooksPath=/dev/null", "--config=core.attributesFile=/dev/null")  # fmt: skip


def repro() -> int:
    """Run the stages that are not up to date; return the exit status."""
    look()
    ensure()
    with alone() as lock:
        status = check() or run_stages(Path.cwd(), clean(), lock)
    if status == 0 and os.environ.get("MAKECMDGOALS", "") in ("", "repro"):
        show_results()
    return status


def check() -> int:
    """Check params.yaml, unless nothing has changed since the last run; return the exit status."""
    return 0 if verified(Path()) else call(["python", "-m", "tasks.check"])


def show_results() -> None:
    """Say what there is now and what can be done with it."""
    path = Path("metrics/evaluate.json")
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = [name for name in ("test_accuracy", "validation_accuracy") if name in metrics]
    shown = [f"{name} {metrics[name]:.4f}" for name in names]
    shown += map(str, sorted(Path("models").glob("*.onnx")))
    if shown:
        say(f"{', '.join(shown)}, pictures in plots/")
        say("next: `make report` (all of it in one file), `make page` (the model on a web page); "
            "README.md has more")  # fmt: skip


def heal() -> int:
    """Remove what is damaged, whether a stage reads it or not, and run the pipeline."""
    look()
    ensure()
    with alone() as lock:
        status = check() or call(["python", "-m", "tasks.repair"], keep=(lock,))
        return run_stages(Path.cwd(), clean(), lock) if status in (0, REPAIRED) else status


def run_stages(folder: Path, env: dict[str, str], lock: int) -> int:
    """Run `dvc repro`; while that finds damage, remove it and run again.

    Args:
        folder: the project's, or a clone's.
        env: the environment.
        lock: file descriptor of the lock that processes left running go on to hold.

    Returns:
        The exit status. Where someone killed it (128 and a signal's number; DVC's own failures
        are 1 and 255), nothing is looked for.
    """

    def repair(*options: str) -> int:
        return call(["python", "-m", "tasks.repair", *options], env, (lock,), cwd=folder)

    if has_holders(folder / RWLOCK):
        repair("--locks")  # DVC takes one that was killed for alive until someone has reaped it
    for attempt in range(ATTEMPTS):
        # Where DVC's lines will go: a disk that is full there fails here, and in one line.
        os.write(1, b"make: dvc repro\n")
        status = call(["dvc", "repro"], env, (lock,), cwd=folder)
        if status == 0:
            if verified(folder):
                return 0
            status = repair("--verify")
            if status != REPAIRED:
                return status
        elif 128 < status < 255:
            return status
        elif attempt + 1 == ATTEMPTS or repair("--quiet") != REPAIRED:
            tell_of_edits(folder)
            return status
    say("outputs are damaged again and again: is the disk good?")
    return 1


def tell_of_edits(folder: Path) -> None:
    """Name the files that tell DVC what to do and are not as committed: they may be the cause."""
    given = answer(["git", "diff", "--name-only", "--relative", "HEAD", "--", *DVC_FILES], folder)
    if given:
        names = " ".join(given.split("\n")).strip()
        say(f"not as committed, which may be why: {names}; "
            f"`git checkout HEAD -- {names}` undoes the edits")  # fmt: skip


def has_holders(rwlock: Path) -> bool:
    """Whether DVC's lock file names processes."""
    try:
        return b'"pid"' in rwlock.read_bytes()
    except OSError:
        return False  # not there; or a folder, which `dvc repro` fails at


def verified(folder: Path) -> bool:
    """Whether nothing has changed since `tasks.repair --verify` compared the outputs."""
    try:
        known = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
        return all(signature(folder / name) == seen for name, seen in known.items())
    except (OSError, ValueError, AttributeError):
        return False


def signature(path: Path) -> list[int]:
    """Return what changes when a file is written: its size, times and inode.

    The time of its last change of any kind as well, which no program can set.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def seeds() -> int:
    """Run a preset with the seeds 1 to SEEDS, and print mean and standard deviation."""
    count = os.environ.get("SEEDS") or "5"
    if not re.fullmatch("[1-9][0-9]{0,3}", count):
        raise RuntimeError(f"SEEDS: expected a number from 1 to 9999, as SEEDS=5; got {count!r}")
    for seed in range(1, int(count) + 1):
        if status := recipe(str(seed)):
            return status
    return call(["python", "-m", "report.seeds", os.environ.get("NAME", ""), count])


def recipe(seed: str = "") -> int:
    """Run presets/NAME.yaml as a DVC experiment of that name: `make recipe NAME=quick SEED=1`.

    The stages run in a clone of HEAD that shares DVC's cache, so that this folder, its stash and
    HEAD stay as they are, however this ends. What needs no other parameters is not run again.
    """
    given, seed = os.environ.get("NAME", ""), seed or os.environ.get("SEED", "")
    presets = {path.stem: path for path in sorted(Path("presets").glob("*.yaml"))}
    if given not in presets:
        what = f"no presets/{given}.yaml" if given else "name a preset: NAME=quick"
        raise RuntimeError(f"{what}; NAME can be: {', '.join(presets)}")
    preset = presets[given]
    # One spelling of each seed: it is part of the experiment's name.
    if not re.fullmatch("|0|[1-9][0-9]{0,9}", seed):
        raise RuntimeError(
            f"SEED: expected a whole number, no sign or leading zero, as SEED=1; got {seed!r}"
        )
    look()
    name = given + (f"-seed{seed}" if seed else "")
    if call(["git", "check-ref-format", f"refs/exps/{name}"]):
        raise RuntimeError(f"{preset}: rename it; an experiment is a git reference of its name")
    ensure()
    others = ["--", ".", ":!presets"]
    if answer(["git", "status", "--porcelain", "--untracked-files=no", *others]):
        say("note: this runs HEAD and the preset; other uncommitted changes are left out")
    with alone() as lock:
        clone = make_clone(STATE / "recipe" / name)
        # Stages see their own folder: a data folder named by a relative path is still this one's.
        folders = {
            key: os.path.realpath(value)
            for key, value in clean().items()
            if key.endswith("_DIR") and Path(value).is_dir()
        }
        again = f"make recipe NAME={given}" + (f" SEED={seed}" if seed else "")
        ours = {"DVC_SITE_CACHE_DIR": str(clone / DATABASES), "FASHION_MLP_AGAIN": again}
        env = clean(**{**folders, **ours})
        # In the clone, whose code is HEAD's.
        overlay = ["python", "-m", "tasks.presets", str(preset.resolve()), seed]
        if status := call(overlay, env, cwd=clone):
            return status
        share_cache(clone)
        call(["dvc", "checkout", "--quiet", "--allow-missing"], env, (lock,), cwd=clone)
        status = run_stages(clone, env, lock)
        status = status or call(
            ["dvc", "exp", "save", "--quiet", "--force", "--name", name], env, cwd=clone
        )
        if status:
            return status
        (ref,) = answer(
            ["git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}"], clone
        ).split()
        answer(["git", "push", "--quiet", "origin", f"+{ref}"], clone)
        shutil.rmtree(clone)
        return call(["dvc", "metrics", "diff", "--no-path", "HEAD", name])


def make_clone(folder: Path) -> Path:
    """Clone HEAD; what a killed run of the same preset had saved of its training is kept.

    Returns:
        The clone's path, absolute.
    """
    saved, aside = folder / STATE, folder.with_name(f"{folder.name}.saved")
    if saved.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        saved.rename(aside)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    answer(["git", *CLONE, "--no-tags", str(Path.cwd()), str(folder)])
    if aside.is_dir():
        aside.rename(saved)
    # The experiment is a commit, and DVC finds not every name that git does.
    name, address = "fashion-mlp", "fashion-mlp@localhost"
    try:
        found = re.match("(.+) <(.*)>", answer(["git", "var", "GIT_COMMITTER_IDENT"]))
        name, address = found.groups() if found else (name, address)
    except RuntimeError:
        pass  # this user has told git none
    answer(["git", "config", "user.name", name], folder)
    answer(["git", "config", "user.email", address], folder)
    return folder.resolve()


def share_cache(clone: Path) -> None:
    """Give a clone this folder's cache, and what .dvc/config.local says."""
    cache = Path.cwd() / answer(["dvc", "cache", "dir"]).strip()  # or DVC says what is wrong
    config = configparser.RawConfigParser()
    config.read(".dvc/config.local", encoding="utf-8")
    if not config.has_section("cache"):
        config.add_section("cache")
    config.set("cache", "dir", f'"{cache}"')
    with (clone / ".dvc/config.local").open("w", encoding="utf-8") as file:
        config.write(file)
