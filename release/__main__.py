"""Lay out a release in dist/: `make release`, or `make release KEY=private.pem` to sign it.

reads   models/, consumers/web, metrics/, plots/classes.csv, dvc.lock; of the experiment `accurate`
        of this commit (`make recipe NAME=accurate`), where there is one, its exact ONNX file
writes  dist/

Nothing is laid out unless git has all of the source, the outputs are those of dvc.lock, stages
evaluate and export, run once more, write the same, and `make verify-release` would refuse nothing.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from checks import lock
from checks.common import git
from fashion_mlp.formats import write_json, write_text
from release.card import card
from release.layout import CARD, SIGNATURE, STATEMENT, SUMS, hashes, sources, sums
from release.provenance import builder, repository, statement
from release.recipe import check_experiment
from release.signing import model_signing
from release.verify import verify
from report.seeds import experiment, read_experiment
from tasks.processes import call

DIST = Path("dist")
ACCURATE = "accurate"
ITS_FILE = "models/fashion_mlp_exact.onnx"  # in git
# Whatever dvc.lock says: the proof, and the metrics, of the model that is here.
AGAIN = ["dvc", "repro", "--force", "--single-item", "evaluate", "export"]


def check_committed(root: Path) -> None:
    """Refuse a folder that is not as its commit: ValueError."""
    if edited := changed(root):
        raise ValueError(f"{edited[0]} is not as in the commit; commit it, or undo it")


def build(root: Path, folder: Path) -> None:
    """Lay out a release, unsigned, in a new folder.

    Raises:
        ValueError: something was changed since the commit, or is missing.
    """
    check_committed(root)
    for name, source in sources(root).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    accurate = add_recipe(root, folder)
    write_text(folder / CARD, card(root, accurate))
    head = git("rev-parse", "HEAD", folder=root).decode().strip()
    write_json(
        folder / STATEMENT,
        statement(root, head, hashes(folder, set()), repository(), builder()),
    )
    write_text(folder / SUMS, sums(folder))


def changed(root: Path) -> list[str]:
    """List the files that git does not have as they are.

    By a new index: in the usual one a file can be marked as unchanged, whatever becomes of it.
    """
    with TemporaryDirectory() as beside:
        index = {"GIT_INDEX_FILE": f"{beside}/index"}
        git("read-tree", "HEAD", folder=root, **index)
        none = ["-c", "core.excludesFile=/dev/null", "-c", "core.attributesFile=/dev/null"]
        options = ["--porcelain", "--untracked-files=all", "-z"]
        listed = git(*none, "status", *options, folder=root, **index).decode(errors="replace")
    return [entry[3:] for entry in listed.split("\0") if entry]


def add_recipe(root: Path, folder: Path) -> dict[str, float] | None:
    """Add the exact ONNX file of the experiment `accurate`, and return its metrics; None: none.

    Raises:
        ValueError: the experiment is not whole, or not what the preset makes of this commit.
    """
    ref = experiment(ACCURATE, root)
    if not git("for-each-ref", ref, folder=root):
        return None
    metrics = read_experiment(ACCURATE, root)
    check_experiment(root, ref, Path(f"presets/{ACCURATE}.yaml"))
    target = folder / f"recipes/{ACCURATE}/{Path(ITS_FILE).name}"
    target.parent.mkdir(parents=True)
    target.write_bytes(git("show", f"{ref}:{ITS_FILE}", folder=root))
    write_json(target.with_name("metrics.json"), metrics)
    return metrics


def sign(folder: Path, key: str) -> None:
    """Sign a release by OpenSSF's model signing, with a private key; needs no network.

    Raises:
        ValueError: it could not be signed.
    """
    options = ["--private_key", key, "--signature", str(folder / SIGNATURE)]
    if reason := model_signing("sign", "key", *options, str(folder)):
        raise ValueError(f"not signed with {key}: {reason}")


def main() -> int:
    """Lay it out beside, then replace dist/; the exit status says whether that was done."""
    beside = DIST.with_name(".dist.tmp.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        check_committed(Path())  # before what takes long, and again after it
        print("release: stages evaluate and export once more", flush=True)
        if call(AGAIN):
            raise ValueError(f"{' '.join(AGAIN)} failed; its reason is above")
        if lock.main():
            return 1
        build(Path(), beside)
        if faults := verify(beside, "", Path())[0]:
            raise ValueError(faults[0])
        if len(sys.argv) > 1:
            sign(beside, sys.argv[1])
        if DIST.exists():
            shutil.rmtree(DIST)
        beside.rename(DIST)
    except (ValueError, OSError, RuntimeError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        print(f"release: error: {error}", file=sys.stderr)
        return 1
    files = [path for path in DIST.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    signed = "signed" if (DIST / SIGNATURE).exists() else "not signed (KEY=private.pem signs)"
    if not (DIST / "recipes").exists():
        print(f"release: without the preset {ACCURATE}, which has not run on this commit")
    print(f"release: {DIST}/: {len(files)} files, {size / 1e6:.1f} MB, {signed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
