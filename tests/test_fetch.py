import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.files import sha256
from pipeline.params import Source, load_params
from stages import fetch as stage
from stages.fetch import fetch
from tests.conftest import ROOT, Data, make_data, snapshot
from tests.server import Answer, Server, body, redirect, reset, stall, status, unmeasured

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


def bomb() -> bytes:
    """64 MiB of zeros in 64 kB."""
    return gzip.compress(bytes(1 << 26))


def expected_hash(data: Data, got: bytes) -> str:
    import hashlib

    wanted, found = (hashlib.sha256(x).hexdigest() for x in (data.contents[FIRST], got))
    return f"expected SHA-256 {wanted}, got {found}"


# What the server does instead of answering, by the archive and the data set; and the reason
# that must be remembered.
FAULTS: dict[str, tuple[Callable[[bytes, Data], Answer], Callable[[Data], str]]] = {
    "404": (
        lambda archive, data: status(404),
        lambda data: "404 Client Error: Not Found for url: {url}",
    ),
    "500": (
        lambda archive, data: status(500),
        lambda data: "500 Server Error: Internal Server Error for url: {url}",
    ),
    "reset in mid-body": (
        lambda archive, data: reset(archive),
        lambda data: "Connection reset by peer",
    ),
    "a byte short": (
        lambda archive, data: body(archive[:-1], len(archive)),
        lambda data: "IncompleteRead(",
    ),
    "a byte short, length not stated": (
        lambda archive, data: unmeasured(archive[:-1]),
        lambda data: "broken gzip: Compressed file ended before the end-of-stream marker",
    ),
    "a bit flipped in the archive": (
        lambda archive, data: body(flipped(archive)),
        lambda data: "broken gzip: ",
    ),
    "a bit flipped in the content": (
        lambda archive, data: body(gzip.compress(flipped(data.contents[FIRST]))),
        lambda data: expected_hash(data, flipped(data.contents[FIRST])),
    ),
    "the wrong file": (
        lambda archive, data: body(gzip.compress(data.contents["train-labels-idx1-ubyte"])),
        lambda data: f"expected {len(data.contents[FIRST]):,} bytes, got 308",
    ),
    "a gzip bomb": (
        lambda archive, data: body(bomb()),
        lambda data: f"expected {len(data.contents[FIRST]):,} bytes, got more",
    ),
    "a stall": (
        lambda archive, data: stall(archive),
        lambda data: "Read timed out.",
    ),
    "a redirect loop": (
        lambda archive, data: redirect(f"/bad/{FIRST}.gz"),
        lambda data: "Exceeded 30 redirects.",
    ),
    "a redirect to nowhere": (
        lambda archive, data: redirect("http://127.0.0.1:1/"),
        lambda data: "Connection refused",
    ),
    "HTML": (
        lambda archive, data: body(HTML),
        lambda data: f"expected {len(data.contents[FIRST]):,} bytes, got {len(HTML):,}",
    ),
    "nothing": (
        lambda archive, data: body(b""),
        lambda data: f"expected {len(data.contents[FIRST]):,} bytes, got 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fetch_of_a_bad_download_tries_the_next_source(
    fault: str, data: Data, server: Server, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = serve(server, data, "bad"), serve(server, data, "good")
    answer, _ = FAULTS[fault]
    path = f"/bad/{FIRST}.gz"
    server.answers[path] = answer(gzip.compress(data.contents[FIRST]), data)
    fetch([bad, good], data.files, TIMEOUT, raw)
    assert path in server.asked
    assert snapshot(raw.parent) == {f"raw/{name}": data.contents[name] for name in data.contents}
    assert list(raw.parent.iterdir()) == [raw]
    assert capsys.readouterr().out.endswith(f"verified, from {good.url}\n")


@pytest.mark.parametrize("fault", FAULTS)
def test_fetch_remembers_why_and_leaves_nothing(
    fault: str, data: Data, server: Server, raw: Path
) -> None:
    bad = serve(server, data, "bad")
    answer, reason = FAULTS[fault]
    url = f"{server.url}/bad/{FIRST}.gz"
    server.answers[f"/bad/{FIRST}.gz"] = answer(gzip.compress(data.contents[FIRST]), data)
    with pytest.raises(RuntimeError) as error:
        fetch([bad], data.files, TIMEOUT, raw)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[0] == "no source gave the 4 files:"
    assert lines[1].startswith(f"  - {bad.url}: {FIRST}.gz: ")
    assert reason(data).format(url=url) in lines[1]
    assert lines[2].startswith("What to do: put the files")
    assert list(raw.parent.iterdir()) == []


def test_fetch_of_a_fault_in_the_last_file_keeps_what_was_there(
    data: Data, server: Server, raw: Path
) -> None:
    raw.mkdir(parents=True)
    (raw / FIRST).write_bytes(b"old")
    bad = serve(server, data, "bad")
    server.answers["/bad/t10k-labels-idx1-ubyte.gz"] = body(HTML)
    with pytest.raises(RuntimeError, match=r"t10k-labels-idx1-ubyte\.gz: expected 108 bytes"):
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
        f"  - $MY_DATA ({tmp_path}/gone): not installed\n"
        f"  - {tmp_path}/empty: has neither {FIRST} nor {FIRST}.gz\n"
        f"  - {tmp_path}/file: not a folder\n"
        f"  - {server.url}/nothing: {FIRST}.gz: 404 Client Error: Not Found for url: "
        f"{server.url}/nothing/{FIRST}.gz\n"
        "What to do: put the files (as they are or as .gz) into a folder and name it in "
        "FASHION_MNIST_DIR, or mend a source above, or add one to fetch.sources in params.yaml."
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_fetch_takes_a_local_folder(
    compressed: bool, data: Data, raw: Path, tmp_path: Path
) -> None:
    folder = data.write(tmp_path / "mine", compressed)
    fetch([Source(folder=str(folder))], data.files, TIMEOUT, raw)
    assert snapshot(raw) == dict(sorted(data.contents.items()))


def test_fetch_takes_the_folder_that_a_variable_names(
    data: Data, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(data.write(tmp_path / "mine")))
    fetch([Source(environment="FASHION_MNIST_DIR")], data.files, TIMEOUT, raw)
    assert snapshot(raw) == dict(sorted(data.contents.items()))


def test_fetch_goes_on_from_a_broken_local_archive(
    data: Data, server: Server, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data.write(tmp_path / "mine", compressed=True)
    archive = folder / f"{FIRST}.gz"
    archive.write_bytes(archive.read_bytes()[:-9])
    fetch([Source(folder=str(folder)), serve(server, data, "good")], data.files, TIMEOUT, raw)
    assert snapshot(raw) == dict(sorted(data.contents.items()))
    assert f"fetch: {folder}: {FIRST}.gz: broken gzip: " in capsys.readouterr().err
    assert archive.exists()


def test_fetch_goes_on_from_a_local_file_that_cannot_be_read(
    data: Data, server: Server, raw: Path, tmp_path: Path
) -> None:
    folder = data.write(tmp_path / "mine")
    (folder / FIRST).unlink()
    (folder / FIRST).symlink_to("/proc/self/mem")  # is a file; reading it fails, even for root
    fetch([Source(folder=str(folder)), serve(server, data, "good")], data.files, TIMEOUT, raw)
    assert snapshot(raw) == dict(sorted(data.contents.items()))


def test_fetch_removes_what_a_killed_run_left(data: Data, raw: Path, tmp_path: Path) -> None:
    left = raw.parent / ".fetch-killed"
    data.write(left)
    fetch([Source(folder=str(data.write(tmp_path / "mine")))], data.files, TIMEOUT, raw)
    assert list(raw.parent.iterdir()) == [raw]


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
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    source = Source(debian_package="dataset-fashion-mnist", folder="/usr/share")
    with pytest.raises(RuntimeError) as error:
        fetch([source], data.files, TIMEOUT, raw)
    line = str(error.value).splitlines()[1]
    assert "Unable to locate package dataset-fashion-mnist; Failed to fetch http" in line
    assert "Connection refused" in line or "Unable to connect" in line
    assert list(raw.parent.iterdir()) == []


@pytest.mark.network
def test_fetch_brings_the_real_data_from_debian(raw: Path) -> None:
    params = load_params(ROOT / "params.yaml").fetch
    source = next(source for source in params.sources if source.debian_package)
    before = snapshot(Path("/var/lib/apt")) if os.access("/var/lib/apt", os.R_OK) else None
    fetch([source], params.files, 60, raw)
    found = {path.name: (path.stat().st_size, sha256(path)) for path in raw.iterdir()}
    assert found == {name: (file.bytes, file.sha256) for name, file in params.files.items()}
    assert list(raw.parent.iterdir()) == [raw]
    if before is not None:
        assert snapshot(Path("/var/lib/apt")) == before  # the system's own lists are untouched


PEAK = """
import sys
from pathlib import Path
from pipeline.params import File, Source
from stages.fetch import fetch
from pipeline.files import sha256
folder = Path(sys.argv[1])
names = sorted(path.name for path in folder.iterdir())
files = {
    name.removesuffix(".gz"): File(bytes=int(size), sha256=digest)
    for name, size, digest in (line.split() for line in sys.stdin)
}
fetch([Source(folder=str(folder))], files, 1, folder.parent / "out/raw")
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def peak(folder: Path, data: Data) -> int:
    """Peak memory in KiB of a process that fetches the data set from a folder of archives."""
    data.write(folder, compressed=True)
    table = "".join(f"{name} {f.bytes} {f.sha256}\n" for name, f in data.files.items())
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder)],
        input=table,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.rmtree(folder.parent)
    return int(result.stdout.splitlines()[-1])


def test_fetch_needs_no_more_memory_for_ten_times_the_data(tmp_path: Path) -> None:
    one = peak(tmp_path / "one/in", make_data(8_000, 10, 16, 16))
    ten = peak(tmp_path / "ten/in", make_data(80_000, 10, 16, 16))  # 20.5 MB of images
    assert abs(ten - one) < 4096


def test_main_reads_the_parameters(data: Data, work: Path) -> None:
    shutil.rmtree(work / "data/raw")
    os.environ["FASHION_MNIST_DIR"] = str(data.write(work / "mine", compressed=True))
    try:
        stage.main()
    finally:
        del os.environ["FASHION_MNIST_DIR"]
    assert snapshot(work / "data/raw") == dict(sorted(data.contents.items()))
