"""Which files a release has, where each comes from, and the hashes of all of them.

A release is a folder: the ONNX files with their labels and test data, a model card, the web page,
a statement of where it all comes from (provenance.json) and SHA256SUMS over all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.files import sha256

WEB = Path("consumers/web")
CARD, STATEMENT, SUMS, SIGNATURE = "README.md", "provenance.json", "SHA256SUMS", "model.sig"
MADE = {CARD, STATEMENT, SUMS, SIGNATURE}  # by `make release`, from the commit and other files
PAGE_MODEL = "page/vendor/model.onnx"
# Made from results by programs; no commit has their bytes.
UNTIED = ("page/vendor/", "recipes/")
PAGE_FILES = re.compile(r"[^/]+\.(html|js|css|svg|ts)|vendor/[^/]+")  # what the page loads


def sources(root: Path) -> dict[str, Path]:
    """List a release's files that are copies: the file that each is of, by its name there.

    Raises:
        ValueError: the page is not whole.
    """
    web = root / WEB
    if not (web / "vendor/page.json").is_file():
        raise ValueError(f"{WEB}/vendor/page.json is missing; run `make page`")
    paths = [*(root / "models").rglob("*"), *web.glob("*"), *web.glob("vendor/*"), root / "LICENSE"]
    places = {place(path.relative_to(root).as_posix()): path for path in paths if path.is_file()}
    return {name: path for name, path in places.items() if name}


def place(source: str) -> str | None:
    """Name the file of a release that is a copy of a file of the repository; None: none is."""
    if found := re.fullmatch(r"models/(.+\.(?:onnx|pb)|labels\.json)", source):
        return found[1]
    page_file = source.removeprefix(f"{WEB}/")
    if page_file != source and PAGE_FILES.fullmatch(page_file):
        return f"page/{page_file}"
    return source if source == "LICENSE" else None


def origin(name: str) -> str | None:
    """Name the file of the repository that a file of a release is a copy of; None: of none."""
    if name == PAGE_MODEL:
        return "models/fashion_mlp_exact.onnx"
    if name in MADE or name.startswith(UNTIED):
        return None
    if name.startswith("page/"):
        return f"{WEB}/{name.removeprefix('page/')}"
    return name if name == "LICENSE" else f"models/{name}"


def untied(names: Iterable[str]) -> list[str]:
    """List the files of a release that nothing in a commit vouches for."""
    return [name for name in names if name not in MADE and origin(name) is None]


def hashes(folder: Path, leave_out: set[str]) -> dict[str, str]:
    """Compute the SHA-256 of each file below a folder, by its path there.

    Raises:
        ValueError: something there is neither a file nor a folder that holds one.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or (path.is_dir() and any(path.iterdir()))):
            raise ValueError(f"{name}: neither a file nor a folder that holds one")
        if path.is_file() and name not in leave_out:
            found[name] = sha256(path)
    return found


def sums(folder: Path) -> str:
    """Write what SHA256SUMS says of a folder, in the form of `sha256sum`."""
    listed = hashes(folder, {SUMS, SIGNATURE})
    return "".join(f"{digest}  {name}\n" for name, digest in listed.items())
