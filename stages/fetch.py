"""fetch: bring the four files of the data set, from whichever source works.

reads   the first good source of params.yaml's `fetch.sources`
writes  data/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte

The SHA-256 of the decompressed content decides what is good, so every source gives the same
bytes: archives of the same content differ (a re-packed .gz has another hash), and the authors'
copy comes over plain http, which the hash makes safe.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3

from fashion_mlp.paths import RAW
from pipeline.console import progress, run
from pipeline.params import File, Source, load_params

CHUNK = 1 << 16  # bytes held at a time
OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # faults of this machine, not of a source
APT_SECONDS = 3600  # for one command; its own limits are on silence alone
LEAST_RATE = 10_000  # bytes a second; a source that is slower is given up
APT_CONFIG = """\
// No hook of the system's runs, nothing is written outside the scratch folder, and no more is
// read than the list of packages.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets;
Acquire::IndexTargets::deb::Packages {{
  MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
  flatMetaKey "Packages";
  ShortDescription "Packages";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages";
  Optional "false";
}};
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "{timeout:.0f}";
Acquire::https::Timeout "{timeout:.0f}";
APT::Sandbox::User "";
Dir::State::Lists "{scratch}/lists";
Dir::Cache "{scratch}/cache";
Dir::Log "{scratch}/log";
"""


def fetch(
    sources: list[Source], files: Mapping[str, File], timeout: float, raw: Path = RAW
) -> None:
    """Put all files into `raw`, from the first source that gives all of them.

    Args:
        sources: where to look, in this order.
        files: what the decompressed content of each must be, by file name.
        timeout: seconds without an answer before a web source is given up.
        raw: the folder to fill. It keeps what it had where no source works.

    Raises:
        RuntimeError: no source gave all files; the text lists each with its reason.
        OSError: `raw` can't be written.
    """
    raw.mkdir(parents=True, exist_ok=True)
    for left_over in raw.glob(".fetch-*"):  # of a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    reasons = []
    for source in sources:
        # In `raw`, so that the renames at the end stay within one file system.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=raw) as name:
            scratch = Path(name)
            try:
                fetch_from(source, files, timeout, scratch)
            except SourceError as error:
                reasons.append(f"{describe(source)}: {error}")
                print(f"fetch: {reasons[-1]}", file=sys.stderr)
                continue
            for file in files:
                (scratch / file).replace(raw / file)
        total = sum(file.bytes for file in files.values())
        print(f"fetch: {len(files)} files, {total:,} bytes, verified, from {describe(source)}")
        return
    tried = "\n".join(f"  - {reason}" for reason in reasons)
    raise RuntimeError(
        f"no source gave the {len(files)} files:\n{tried}\n"
        f"What to do: put the files (as they are or as .gz) into a folder and name it in a "
        f"$variable above or in fetch.sources of params.yaml, or mend a source above."
    )


class SourceError(Exception):
    """Why a source is no good: the next one is tried."""


def describe(source: Source) -> str:
    """Name a source as the user knows it."""
    if source.environment:
        folder = os.environ.get(source.environment)
        return f"${source.environment}" + (f" ({folder})" if folder else "")
    if source.debian_package:
        return f"Debian package {source.debian_package}"
    return source.url or source.folder or ""


def fetch_from(source: Source, files: Mapping[str, File], timeout: float, scratch: Path) -> None:
    """Put all files into `scratch`, decompressed and verified, from one source.

    Raises:
        SourceError: the source lacks a file, or gives wrong content.
    """
    if source.url:
        for name, expected in files.items():
            # gzip makes nothing longer by more than a thousandth and its header.
            most = expected.bytes + expected.bytes // 1000 + 1000
            archive = download(f"{source.url.rstrip('/')}/{name}.gz", most, timeout, scratch)
            unpack(archive, scratch / name, expected)
            archive.unlink()
        return
    if source.environment:
        folder = os.environ.get(source.environment, "")
        if not folder:
            raise SourceError("the variable is not set")
    elif source.debian_package:
        package = download_debian_package(source.debian_package, timeout, scratch)
        folder = str(package / str(source.folder).lstrip("/"))
    else:
        folder = str(source.folder)
    for name, expected in files.items():
        copy_first(find(Path(os.path.expanduser(folder)), name), scratch / name, expected)  # noqa: PTH111


def copy_first(candidates: list[Path], target: Path, expected: File) -> None:
    """Unpack the first of some local files that has the expected content.

    Raises:
        SourceError: none has; the text is of the first one.
    """
    errors = []
    for path in candidates:
        try:
            unpack(path, target, expected)
        except SourceError as error:
            errors.append(error)
        else:
            return
    raise errors[0]


def find(folder: Path, name: str) -> list[Path]:
    """Find what may be a file in a local folder, or one folder down; its content decides.

    As it is or compressed, with a hyphen or with a dot: train-images.idx3-ubyte.gz.

    Raises:
        SourceError: there is none, or the folder can't be read.
    """
    # Unlike Path's methods, os.path's say no where a path can't be read or is no path at all.
    if not os.path.isdir(folder):  # noqa: PTH112
        raise SourceError("not a folder" if os.path.exists(folder) else "no such folder")  # noqa: PTH110
    try:
        folders = [folder, *sorted(filter(os.path.isdir, folder.iterdir()))]
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}") from None
    stems = (name, name.replace("-idx", ".idx"))
    paths = [one / f"{stem}{end}" for one in folders for stem in stems for end in ("", ".gz")]
    found = [path for path in paths if os.path.isfile(path)]  # noqa: PTH113
    if not found:
        raise SourceError(f"has neither {name} nor {name}.gz")
    return found


def stated_length(answer: requests.Response, most: int) -> int:
    """Return the bytes that a server says it sends, or `most` where it says none or more."""
    stated = answer.headers.get("Content-Length", "")
    return min(int(stated[:15]), most) if stated.isascii() and stated.isdecimal() else most


def download(url: str, most: int, timeout: float, scratch: Path) -> Path:
    """Download one archive, with a progress bar where someone watches.

    `most` is the largest size accepted, in bytes; `timeout` is how many seconds may pass without an
    answer.

    Raises:
        SourceError: no whole archive came, it is too long, or it comes too slowly.
    """
    archive = scratch / url.rsplit("/", 1)[1]
    print(f"fetch: downloading {url}", file=sys.stderr)
    try:
        with (
            archive.open("wb") as file,
            least_rate(archive, timeout),
            requests.get(
                url, stream=True, timeout=timeout, headers={"Accept-Encoding": "identity"}
            ) as answer,
            progress(f"fetch {archive.name}", stated_length(answer, most), "bytes") as bar,
        ):
            answer.raise_for_status()
            # As it comes: a body that says it is compressed once more is not what was asked for.
            while block := answer.raw.read1(CHUNK, decode_content=False):
                file.write(block)
                bar.update(len(block))
                if file.tell() > most:
                    raise SourceError(f"{archive.name}: expected {most:,} bytes at most, got more")
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in OURS:
            raise
        raise SourceError(f"{archive.name}: {_shorten(error)}") from None
    return archive


@contextmanager
def least_rate(archive: Path, timeout: float) -> Iterator[None]:
    """Give up what is too slow, be it the answer's first line: each single byte restarts `timeout`.

    By a timer of the system, which interrupts whatever waits.

    Args:
        archive: the file that grows.
        timeout: seconds without an answer before a source is given up; twice as long, between
            looks at how much has come.

    Raises:
        SourceError: less than LEAST_RATE.
    """
    seen, watching = 0, True

    def look(*_: object) -> None:
        nonlocal seen
        before, seen = seen, archive.stat().st_size
        if watching and seen - before < LEAST_RATE * 2 * timeout:
            raise SourceError(f"{archive.name}: slower than {LEAST_RATE:,} bytes a second")

    default = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 2 * timeout, 2 * timeout)
    try:
        yield
    finally:
        watching = False  # or a look that comes now would keep the timer from being stopped
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, default)


def _shorten(error: BaseException) -> str:
    """Say the cause of a failed download without the layers that wrapped it."""
    while isinstance(getattr(error, "reason", None), BaseException):
        error = error.reason  # type: ignore[attr-defined]
    if error.args and isinstance(error.args[0], BaseException):
        return _shorten(error.args[0])
    reason = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    text = " ".join(reason.split())
    return text.split(": ", 1)[1] if text.startswith("<") and ": " in text else text


def download_debian_package(package: str, timeout: float, scratch: Path) -> Path:
    """Download and unpack a Debian package by apt's own client, without root.

    apt reads this machine's list of sources and its keys; what it writes goes to `scratch`.

    Returns:
        The folder in which the package's own paths start.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SourceError(f"this system has no {tool}")
    home, root = scratch / "apt", scratch / "root"
    for folder in ("lists/partial", "cache/archives/partial", "log"):
        (home / folder).mkdir(parents=True)
    config = home / "apt.conf"
    config.write_text(APT_CONFIG.format(scratch=home.resolve(), timeout=timeout))
    apt = ["apt-get", "--config-file", "apt.conf", "--quiet"]
    updated = _run([*apt, "update"], home)
    try:
        _run([*apt, "download", package], home)
    except SourceError as error:
        # To apt, a server out of reach is but a warning: here it is the cause.
        cause = [line[3:] for line in updated.splitlines() if line.startswith("W: Failed")]
        raise SourceError("; ".join([str(error), *cause[:1]])) from None
    archives = list(home.glob("*.deb"))
    if len(archives) != 1:
        raise SourceError(f"apt-get download left {len(archives)} packages, expected 1")
    _run(["dpkg-deb", "--extract", archives[0].name, str(root.resolve())], home)
    return root


def _run(command: list[str], folder: Path) -> str:
    """Run a command whose output the user may watch; return its warnings.

    Raises:
        SourceError: it failed; its last error is the reason.
    """
    print(f"fetch: {' '.join(command)}", file=sys.stderr)
    options: dict[str, Any] = {
        **{"stdout": sys.stderr, "stderr": subprocess.PIPE, "text": True, "errors": "replace"},
        "env": {**os.environ, "LC_ALL": "C"},  # its reasons are looked for by their words
    }
    try:
        result = subprocess.run(command, cwd=folder, timeout=APT_SECONDS, check=False, **options)
    except subprocess.TimeoutExpired:
        raise SourceError(f"{command[0]} {command[-1]}: not done in {APT_SECONDS} s") from None
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.startswith("E:")]
        reason = (lines or result.stderr.splitlines() or ["no reason given"])[-1]
        raise SourceError(f"{command[0]} {command[-1]}: {reason.removeprefix('E: ')}")
    return result.stderr


def unpack(source: Path, target: Path, expected: File) -> None:
    """Copy a file, decompressed if it is gzip, and check length and SHA-256.

    Stops at the expected length, so that an archive made to expand without end can't.

    Raises:
        SourceError: another content than expected, or a broken archive.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with _open(source) as content, target.open("wb") as file:
            while block := content.read(CHUNK):
                size += len(block)
                if size > expected.bytes:
                    break
                digest.update(block)
                file.write(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{source.name}: broken gzip: {error}") from None
    if size != expected.bytes:
        found = f"{size:,}" if size < expected.bytes else "more"
        raise SourceError(f"{source.name}: expected {expected.bytes:,} bytes, got {found}")
    if digest.hexdigest() != expected.sha256:
        raise SourceError(
            f"{source.name}: expected SHA-256 {expected.sha256}, got {digest.hexdigest()}"
        )


def _open(source: Path) -> BinaryIO:
    """Open a file for reading its content, whatever its name says."""
    try:
        with source.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise SourceError(f"{source.name}: {error.strerror}") from None
    return gzip.open(source, "rb") if compressed else source.open("rb")  # type: ignore[return-value]


def main() -> None:
    params = load_params().fetch
    fetch(params.sources, params.files, params.timeout)


if __name__ == "__main__":
    run(main, clean_environment=False)  # proxies, apt, folders: the content's hash decides
