import gzip
import hashlib
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from checks.small_data import Data
from pipeline.files import sha256
from pipeline.params import File, Source
from stages.fetch import fetch, least_rate, stated_length
from tests.conftest import snapshot
from tests.server import Answer, Server, body, drip, redirect, reset, stall, status

FIRST = "train-images-idx3-ubyte"  # the file that is asked for first
TIMEOUT = 0.5
HTML = b"<!DOCTYPE html><title>Sign in to the hotel's network</title>" * 20


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "data/raw"


def serve(server: Server, data: Data, at: str) -> Source:
    """Serve the whole data set, compressed, below a path; return it as a source."""
    for name, content in data.contents.items():
        server.answers[f"/{at}/{name}.gz"] = body(gzip.compress(content))
    return Source(url=f"{server.url}/{at}/")


def flipped(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


# What the server does instead of answering, given the archive and the content; and the reason
# that is reported.
FAULTS: dict[str, tuple[Callable[[bytes, bytes], Answer], str]] = {
    "404": (lambda archive, _: status(404), "404 Client Error: Not Found for url: {url}"),
    "reset in mid-body": (lambda archive, _: reset(archive), "Connection reset by peer"),
    "a byte short": (lambda archive, _: body(archive[:-1], len(archive)), "IncompleteRead("),
    "a byte short, length not stated": (
        lambda archive, _: body(archive[:-1], None),
        "broken gzip: Compressed file ended before the end-of-stream marker",
    ),
    "a bit flipped in the archive": (lambda archive, _: body(flipped(archive)), "broken gzip: "),
    "a bit flipped in the content": (
        lambda _, content: body(gzip.compress(flipped(content))),
        "expected SHA-256 {wanted}, got {found}",
    ),
    "the wrong file": (
        lambda _, content: body(gzip.compress(content[:308])),
        "expected {size:,} bytes, got 308",
    ),
    "a gzip bomb": (  # 2 MiB of zeros in 2 kB
        lambda *_: body(gzip.compress(bytes(1 << 21))),
        "expected {size:,} bytes, got more",
    ),
    "a body that does not end": (lambda *_: body(bytes(1 << 24)), "bytes at most, got more"),
    "a byte at a time for ever": (lambda *_: drip(), "slower than 10,000 bytes a second"),
    "an answer that never begins": (lambda *_: drip(b""), "slower than 10,000 bytes a second"),
    "a stall": (lambda archive, _: stall(archive), "Read timed out."),
    "a redirect loop": (lambda *_: redirect(f"/bad/{FIRST}.gz"), "Exceeded 30 redirects."),
    "a redirect to nowhere": (lambda *_: redirect("http://127.0.0.1:1/"), "Connection refused"),
    "HTML": (lambda *_: body(HTML), f"expected {{size:,}} bytes, got {len(HTML):,}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fetch_of_a_bad_download_says_why_and_tries_the_next_source(
    fault: str, data: Data, server: Server, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = serve(server, data, "bad"), serve(server, data, "good")
    content = data.contents[FIRST]
    answer, reason = FAULTS[fault]
    server.answers[f"/bad/{FIRST}.gz"] = answer(gzip.compress(content), content)
    reason = reason.format(
        url=f"{bad.url}{FIRST}.gz",
        size=len(content),
        wanted=hashlib.sha256(content).hexdigest(),
        found=hashlib.sha256(flipped(content)).hexdigest(),
    )
    with pytest.raises(RuntimeError) as error:
        fetch([bad], data.files, TIMEOUT, raw)
    title, line, remedy = str(error.value).splitlines()
    assert title == "no source gave the 4 files:"
    assert line.startswith(f"  - {bad.url}: {FIRST}.gz: ")
    assert reason in line
    assert remedy.startswith("What to do: put the files")
    assert list(raw.iterdir()) == []

    fetch([bad, good], data.files, TIMEOUT, raw)
    assert snapshot(raw.parent) == {f"raw/{name}": data.contents[name] for name in data.contents}
    assert capsys.readouterr().out.endswith(f"verified, from {good.url}\n")


def test_a_look_that_comes_when_the_download_is_over_gives_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = signal.setitimer, signal.getsignal(signal.SIGALRM)

    def late(which: int, *seconds: float) -> None:
        if seconds == (0,):
            signal.raise_signal(signal.SIGALRM)
        real(which, *seconds)

    monkeypatch.setattr(signal, "setitimer", late)
    (tmp_path / "archive").touch()
    with least_rate(tmp_path / "archive", 60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_fetch_of_a_fault_in_the_last_file_keeps_what_was_there(
    data: Data, server: Server, raw: Path
) -> None:
    raw.mkdir(parents=True)
    (raw / FIRST).write_bytes(b"old")
    bad = serve(server, data, "bad")
    server.answers["/bad/t10k-labels-idx1-ubyte.gz"] = body(HTML)
    with pytest.raises(RuntimeError, match=r"t10k-labels-idx1-ubyte\.gz: expected [\d,]+ bytes"):
        fetch([bad], data.files, TIMEOUT, raw)
    assert snapshot(raw.parent) == {f"raw/{FIRST}": b"old"}


def test_fetch_lists_each_source_with_its_reason(
    data: Data, server: Server, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("MY_DATA", str(tmp_path / "gone"))
    sources = [
        Source(environment="NOT_SET"),
        Source(environment="MY_DATA"),
        Source(folder=str(tmp_path / "empty")),
        Source(folder=str(tmp_path / "file")),
        Source(url=f"{server.url}/nothing"),
    ]
    with pytest.raises(RuntimeError) as error:
        fetch(sources, data.files, TIMEOUT, raw)
    assert str(error.value) == (
        "no source gave the 4 files:\n"
        "  - $NOT_SET: the variable is not set\n"
        f"  - $MY_DATA ({tmp_path}/gone): no such folder\n"
        f"  - {tmp_path}/empty: has neither {FIRST} nor {FIRST}.gz\n"
        f"  - {tmp_path}/file: not a folder\n"
        f"  - {server.url}/nothing: {FIRST}.gz: 404 Client Error: Not Found for url: "
        f"{server.url}/nothing/{FIRST}.gz\n"
        "What to do: put the files (as they are or as .gz) into a folder and name it in "
        "a $variable above or in fetch.sources of params.yaml, or mend a source above."
    )


# Of data sets as they come.
LAYOUTS = ("{name}", "raw/{name}", "{name}/{name}", "one/{dotted}", "{dotted}.gz", "{name}.gz")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fetch_knows_a_local_file_by_its_content(
    layout: str, data: Data, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the home folder, by a literal tilde; beside files of the same name of another data set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MY_DATA", "~/mine")
    for name, content in data.contents.items():
        other = tmp_path / "mine/another data set" / name
        path = tmp_path / "mine" / layout.format(name=name, dotted=name.replace("-idx", ".idx"))
        for one, text in ((other, b"other"), (path, content)):
            one.parent.mkdir(parents=True, exist_ok=True)
            one.write_bytes(gzip.compress(text) if one.suffix == ".gz" else text)
    fetch([Source(environment="MY_DATA")], data.files, TIMEOUT, raw)
    assert snapshot(raw) == dict(sorted(data.contents.items()))


@pytest.mark.parametrize("fault", ["broken gzip", "Input/output error"])
def test_fetch_goes_on_from_a_local_file_that_is_broken(
    fault: str,
    data: Data,
    server: Server,
    raw: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = data.write(tmp_path / "mine", compressed=fault == "broken gzip")
    if fault == "broken gzip":
        archive = folder / f"{FIRST}.gz"
        archive.write_bytes(archive.read_bytes()[:-9])
    else:
        (folder / FIRST).unlink()
        (folder / FIRST).symlink_to("/proc/self/mem")  # is a file; reading it fails, even for root
    fetch([Source(folder=str(folder)), serve(server, data, "good")], data.files, TIMEOUT, raw)
    assert snapshot(raw) == dict(sorted(data.contents.items()))
    assert fault in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system to write to")
def test_fetch_fills_a_folder_of_another_file_system(data: Data, raw: Path, tmp_path: Path) -> None:
    raw.parent.mkdir()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        raw.symlink_to(other)
        fetch([Source(folder=str(data.write(tmp_path / "mine")))], data.files, TIMEOUT, raw)
        assert snapshot(Path(other)) == dict(sorted(data.contents.items()))


def test_fetch_removes_what_a_killed_run_left(data: Data, raw: Path, tmp_path: Path) -> None:
    data.write(raw / ".fetch-killed")
    fetch([Source(folder=str(data.write(tmp_path / "mine")))], data.files, TIMEOUT, raw)
    assert snapshot(raw) == dict(sorted(data.contents.items()))


@pytest.mark.parametrize(
    ("stated", "total"),
    [("30", 30), ("", 50), ("60", 50), ("-1", 50), ("3e1", 50), ("\u0663", 50), ("9" * 5000, 50)],
)
def test_stated_length_is_the_servers_where_it_can_be(stated: str, total: int) -> None:
    answer = requests.Response()
    answer.headers["Content-Length"] = stated
    assert stated_length(answer, 50) == total


def test_fetch_says_which_system_has_no_apt(
    data: Data, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = Source(debian_package="dataset-fashion-mnist", folder="/usr/share")
    with pytest.raises(RuntimeError) as error:
        fetch([source], data.files, TIMEOUT, raw)
    line = "  - Debian package dataset-fashion-mnist: this system has no apt-get"
    assert line in str(error.value).splitlines()


def test_fetch_says_why_apt_could_not(
    data: Data, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("LANGUAGE", "ru")  # apt speaks many languages
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    source = Source(debian_package="dataset-fashion-mnist", folder="/usr/share")
    with pytest.raises(RuntimeError) as error:
        fetch([source], data.files, TIMEOUT, raw)
    line = str(error.value).splitlines()[1]
    assert "Unable to locate package dataset-fashion-mnist; Failed to fetch http" in line
    assert "Connection refused" in line or "Unable to connect" in line
    assert list(raw.iterdir()) == []


FASHION_MNIST = {
    "train-images-idx3-ubyte": (
        47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte": (
        60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte": (
        7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte": (
        10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}  # fmt: skip


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.network
def test_fetch_brings_the_real_data_from_debian(raw: Path) -> None:
    before = times(Path("/var/lib/apt"))
    wanted = {name: File(bytes=size, sha256=it) for name, (size, it) in FASHION_MNIST.items()}
    source = Source(
        debian_package="dataset-fashion-mnist", folder="/usr/share/datasets/fashion-mnist"
    )
    fetch([source], wanted, 60, raw)
    found = {
        path.name: File(bytes=path.stat().st_size, sha256=sha256(path)) for path in raw.iterdir()
    }
    assert found == wanted
    assert times(Path("/var/lib/apt")) == before  # the system's own lists are untouched
