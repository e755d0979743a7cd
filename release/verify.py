"""Check a release, byte by byte: `make verify-release DIR=dist KEY=public.pem`.

Refused is a file that was changed, added or removed: against SHA256SUMS, against the statement of
provenance, and against the commit that this names: models and test data by the MD5 in its dvc.lock,
the page and the licence by its own files. Card and statement must be those that this commit gives;
the statement alone says which repository and who built. What no commit holds (what the page is made
of, other presets' models) is named: where sums and statement were forged, the signature alone
vouches for it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from checks.common import git
from consumers.python.predict import printable
from fashion_mlp.formats import write_json
from pipeline.files import md5
from release.card import SOURCES, card
from release.layout import (
    CARD,
    PAGE_MODEL,
    SIGNATURE,
    STATEMENT,
    SUMS,
    hashes,
    origin,
    place,
    sums,
    untied,
)
from release.provenance import source_of, stages, statement
from release.signing import model_signing


def compare(what: str, stated: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    """Say how files differ from the hashes that are stated for them."""
    for name in sorted(stated.keys() | found.keys()):
        if name not in found:
            yield f"{name}: missing; {what} lists it"
        elif name not in stated:
            yield f"{name}: added; {what} does not list it"
        elif stated[name] != found[name]:
            yield f"{name}: changed: expected SHA-256 {stated[name]} ({what}), got {found[name]}"


def check_sums(folder: Path) -> Iterator[str]:
    """Compare a release with its SHA256SUMS, which must be what `make release` writes."""
    text = (folder / SUMS).read_bytes().decode()  # which leaves CR LF as it is
    lines = [line.split("  ", 1) for line in text.splitlines()]
    stated = {line[-1]: line[0] for line in lines}
    faults = list(compare(SUMS, stated, hashes(folder, {SUMS, SIGNATURE})))
    if not faults and text != sums(folder):
        faults = [f"{SUMS}: changed: not as `make release` writes it"]
    yield from faults


def check_statement(folder: Path, stated: Mapping[str, Any]) -> Iterator[str]:
    """Compare a release with the hashes in its statement of provenance."""
    subjects = {one["name"]: one["digest"]["sha256"] for one in stated["subject"]}
    yield from compare(STATEMENT, subjects, hashes(folder, {SUMS, SIGNATURE, STATEMENT}))


def check_commit(folder: Path, commit: str, root: Path) -> Iterator[str]:
    """Compare a release with the commit that it names.

    Raises:
        ValueError: the commit is not in this repository.
    """
    outs = [out for stage in stages(root, commit).values() for out in stage.get("outs", [])]
    outputs = {out["path"]: out["md5"] for out in outs}
    listing = git("ls-tree", "-r", "--name-only", "-z", commit, folder=root)
    tracked = set(listing.decode().split("\0"))
    required = {CARD, PAGE_MODEL, *filter(None, map(place, {*outputs, *tracked}))}
    for name in sorted(required):
        if not (folder / name).is_file():
            yield f"{name}: missing; a release of commit {commit[:12]} has it"
    folders = {path: number for path, number in outputs.items() if number.endswith(".dir")}
    for path, number in folders.items():
        name = path.removeprefix("models/")
        if (got := folder_md5(folder / name)) != number:
            yield f"{name}: expected MD5 {number} (dvc.lock of {commit[:12]}), got {got}"
    for path in filter(Path.is_file, sorted(folder.rglob("*"))):
        name = path.relative_to(folder).as_posix()
        source = origin(name)
        if source in outputs and md5(path) != outputs[source]:
            yield f"{name}: expected MD5 {outputs[source]} (dvc.lock of {commit[:12]})"
        elif source in tracked and path.read_bytes() != git(
            "show", f"{commit}:./{source}", folder=root
        ):
            yield f"{name}: differs from {source} of commit {commit[:12]}"
        elif source and not {source, *map(str, Path(source).parents)} & {*outputs, *tracked}:
            yield f"{name}: commit {commit[:12]} has no {source}"


def folder_md5(folder: Path) -> str:
    """Compute the MD5 of a folder as DVC does: of a listing of its files, as JSON."""
    listing = [
        {"md5": md5(path), "relpath": path.relative_to(folder).as_posix()}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def check_card(folder: Path, commit: str, root: Path) -> Iterator[str]:
    """Compare the card with the one that the commit gives, and the metrics of recipes/.

    Raises:
        ValueError: the commit lacks what a card is made from.
    """
    with TemporaryDirectory() as beside:
        for name in SOURCES:
            path = Path(beside, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(git("show", f"{commit}:./{name}", folder=root))
        recipes = [it.read_text(encoding="utf-8") for it in folder.glob("recipes/*/metrics.json")]
        try:
            expected = card(Path(beside), *map(json.loads, recipes[:1]))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"recipes: metrics.json: not metrics: {error!r}") from None
        if (folder / CARD).read_bytes() != expected.encode():
            yield f"{CARD}: changed: not the card of commit {commit[:12]}"


def check_stated(folder: Path, stated: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Compare the statement with the one that the same commit, repository and builder give.

    Raises:
        ValueError: the commit is not in this repository.
    """
    commit, uri, builder = source_of(stated)
    subjects = hashes(folder, {SUMS, SIGNATURE, STATEMENT})
    with TemporaryDirectory() as beside:
        expected = Path(beside, STATEMENT)
        write_json(expected, statement(root, commit, subjects, uri, builder))
        if expected.read_bytes() != (folder / STATEMENT).read_bytes():
            yield f"{STATEMENT}: changed: not what `make release` states of commit {commit[:12]}"


def check_signature(folder: Path, key: str) -> Iterator[str]:
    """Check the signature where a public key is given."""
    if not key:
        return
    if not (folder / SIGNATURE).is_file():
        yield f"{SIGNATURE}: missing; expected a signature by {key}'s owner"
        return
    options = ["--public_key", key, "--signature", str(folder / SIGNATURE)]
    if reason := model_signing("verify", "key", *options, str(folder)):
        yield f"{SIGNATURE}: not by {key}'s owner, or not of these files: {reason}"


def verify(folder: Path, key: str, root: Path) -> tuple[list[str], str]:
    """Check a release.

    Returns:
        A line for each fault, and the commit that it comes from.

    Raises:
        ValueError: it can't be read as a release, or its commit is not here.
        OSError: a file can't be read.
    """
    try:
        stated = json.loads((folder / STATEMENT).read_text(encoding="utf-8"))
        commit, *_ = source_of(stated)
        faults = [*check_sums(folder), *check_statement(folder, stated)]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{folder}: not a release: {reason}") from None
    # Each file once: the first that is said of it says enough.
    faults += check_commit(folder, commit, root)
    faults += [] if faults else check_stated(folder, stated, root)
    faults += [] if faults else check_card(folder, commit, root)
    faults += check_signature(folder, key)
    return list({fault.split(": ")[0]: fault for fault in reversed(faults)}.values())[::-1], commit


def main() -> int:
    """Check; the exit status is 0 where nothing differs."""
    if len(sys.argv) < 2 or Path(sys.argv[1]).is_file():  # no folder, or the key alone
        print("verify-release: error: say which: make verify-release DIR=dist", file=sys.stderr)
        return 2
    folder, key = Path(sys.argv[1]), "".join(sys.argv[2:])
    try:
        faults, commit = verify(folder, key, Path())
    except OSError as error:
        print(f"verify-release: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"verify-release: error: {printable(str(error))}", file=sys.stderr)
        return 1
    for fault in faults:
        print(f"verify-release: REFUSED: {printable(fault)}")
    signed = "signature checked" if key else "signature not checked (KEY=public.pem checks it)"
    if not faults:
        rest = untied(hashes(folder, {SIGNATURE}))
        print(
            f"verify-release: {folder}: models, card and page are those of commit {commit[:12]}; "
            f"{len(rest)} files, which no commit holds, are as stated: {', '.join(rest)}; "
            f"{signed}"
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
