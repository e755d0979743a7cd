"""Lay out a release in dist/: `make release`, or `make release KEY=private.pem` to sign it.

reads   models/, consumers/web, metrics/, plots/classes.csv, dvc.lock; of the experiment `accurate`
        of this commit (`make recipe NAME=accurate`), where there is one, its exact ONNX file
writes  dist/

Nothing is laid out unless git has all of the source, and the outputs are those of dvc.lock.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from checks import lock
from checks.common import git
from fashion_mlp.formats import write_json, write_text
from release.card import card
from release.layout import CARD, SIGNATURE, STATEMENT, SUMS, hashes, sources, sums
from release.provenance import builder, repository, statement
from release.signing import model_signing
from report.seeds import experiment, read_experiment

DIST = Path("dist")
ACCURATE = "accurate"
ITS_FILE = "models/fashion_mlp_exact.onnx"  # in git


def build(root: Path, folder: Path) -> None:
    """Lay out a release, unsigned.

    Args:
        root: the project's folder.
        folder: to write; it must not be there.

    Raises:
        ValueError: something was changed since the commit, or is missing.
    """
    if changed := git("status", "--porcelain", folder=root).decode().splitlines():
        raise ValueError(f"{changed[0][3:]} is not as in the commit; commit it, or undo it")
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


def add_recipe(root: Path, folder: Path) -> dict[str, float] | None:
    """Add the exact ONNX file of the experiment `accurate`, and return its metrics; None: none.

    Raises:
        ValueError: the experiment is not whole.
    """
    ref = experiment(ACCURATE, root)
    if not git("for-each-ref", ref, folder=root):
        return None
    metrics = read_experiment(ACCURATE, root)
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
        if lock.main():
            return 1
        build(Path(), beside)
        if len(sys.argv) > 1:
            sign(beside, sys.argv[1])
        if DIST.exists():
            shutil.rmtree(DIST)
        beside.rename(DIST)
    except (ValueError, OSError) as error:
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
