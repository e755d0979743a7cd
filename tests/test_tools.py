"""What targets do besides Python packages."""

import os
from pathlib import Path

import pytest

from tasks.tools import apt, c_layout, clean_up


@pytest.mark.parametrize(
    ("system", "libraries"),
    [
        ("libonnxruntime.so.1.32.0", ["libonnxruntime.so", "libonnxruntime.so.1"]),
        ("libonnxruntime.1.32.0.dylib", ["libonnxruntime.1.32.0.dylib", "libonnxruntime.dylib"]),
    ],
)
def test_the_c_library_is_laid_out_as_in_its_archive(
    tmp_path: Path, system: str, libraries: list[str]
) -> None:
    capi = tmp_path / ".venv/lib/python3.12/site-packages/onnxruntime/capi"
    capi.mkdir(parents=True)
    (capi / system).write_text("library")
    (capi / "libonnxruntime_providers_shared.so").write_text("another")
    for _ in range(2):  # again over what is there
        c_layout(tmp_path)
    lib = tmp_path / "c_api/onnxruntime/lib"
    assert sorted(path.name for path in lib.iterdir()) == libraries
    assert {(lib / name).read_text() for name in libraries} == {"library"}
    include = tmp_path / "c_api/onnxruntime/include"
    assert include.readlink().parts[:2] == ("..", "node_modules")


def test_clean_removes_environments_and_leaves_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere/kept").mkdir(parents=True)
    for name in (".mypy_cache", "consumers/node/node_modules", "data/raw", "models", ".dvc/cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".venv").symlink_to("elsewhere")
    monkeypatch.chdir(tmp_path)
    assert clean_up() == 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert left == {
        "elsewhere", "elsewhere/kept", "consumers", "consumers/node", "data", "data/raw",
        "models", ".dvc", ".dvc/cache", ".run",
    }  # fmt: skip


def test_apt_is_asked_for_nothing_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    assert apt("sh=dash", "make=make,libc6-dev") == 0
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="no apt-get here; install what provides one, two"):
        apt("there-is-no-such-program=one,two")
