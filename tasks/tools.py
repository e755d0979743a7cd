"""What the targets need besides Python packages: npm's, apt's, a C header; and the lock files."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tasks.environment import ensure
from tasks.processes import VENV, alone, call, say

NPM_CI = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
# Headers of onnxruntime for C, as an npm package has them.
HEADERS = Path(
    "../node_modules/com.github.asus4.onnxruntime/Plugins/iOS~/onnxruntime.xcframework"
    "/ios-arm64/onnxruntime.framework/Headers"
)
CACHES = [
    *(".venv", "consumers/.venv", "benchmarks/.venv", "dist"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "dvc_plots"),
    *("consumers/c_api/onnxruntime", "consumers/*/node_modules"),
]


def node_modules() -> None:
    """Install each folder's package-lock.json of consumers/, unless it is installed.

    Where npm is missing or fails, what uses these packages is left out and says so.
    """
    for lock in sorted(Path("consumers").glob("*/package-lock.json")):
        marked = lock.parent / "node_modules/.installed"
        text = lock.read_text(encoding="utf-8")
        if marked.exists() and marked.read_text(encoding="utf-8") == text:
            continue
        say(f"npm ci in {lock.parent}")
        if shutil.which("npm") and call(NPM_CI, cwd=lock.parent) == 0:
            marked.write_text(text, encoding="utf-8")
        else:
            say(f"{lock} is not installed: there is no npm, or its reason is above")


def c_layout(folder: Path = Path("consumers")) -> None:
    """Lay out include/ and lib/ as onnxruntime's archive for C has them.

    Where only package registries are in reach, its header comes from an npm package and its
    library from the Python wheel.
    """
    include, lib = folder / "c_api/onnxruntime/include", folder / "c_api/onnxruntime/lib"
    lib.mkdir(parents=True, exist_ok=True)
    link(include, HEADERS)
    found = sorted((folder / VENV).glob("lib/python3*/site-packages/onnxruntime/capi/lib*"))
    # libonnxruntime.so.1.32.0; on macOS libonnxruntime.1.32.0.dylib
    for library in found:
        if re.fullmatch(r"libonnxruntime\.(so\.[\d.]+|[\d.]+\.dylib)", library.name):
            suffix = "dylib" if library.suffix == ".dylib" else "so"
            target = Path(os.path.relpath(library, lib))
            link(lib / f"libonnxruntime.{suffix}", target)
            # And the name that a program linked with it looks for.
            name = "libonnxruntime.so.1" if suffix == "so" else library.name
            link(lib / name, Path(f"libonnxruntime.{suffix}"))


def link(path: Path, target: Path) -> None:
    """Make a symbolic link, in place of an old one."""
    if path.is_symlink() or path.exists():
        path.unlink()
    path.symlink_to(target)


def is_set(name: str) -> bool:
    """Whether a value of make that is 1 or nothing is 1.

    Raises:
        RuntimeError: it is something else.
    """
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise RuntimeError(f"{name}: expected 1 or 0; got {value!r}")
    return value == "1"


def dataset() -> int:
    """Make a data set of a folder of pictures: `make dataset FOLDER=path`."""
    given = {key: os.environ.get(key.upper(), "") for key in ("folder", "shape", "name")}
    if not given["folder"]:
        raise RuntimeError("name a folder with one for each class: make dataset FOLDER=path")
    options = [f"--{key}={given[key]}" for key in ("shape", "name") if given[key]]
    options += ["--plain"] if is_set("PLAIN") else []
    ensure()
    with alone() as lock:  # not under a run that reads params.yaml
        command = ["python", "-m", "tasks.dataset", *options, "--", given["folder"]]
        return call(command, keep=(lock,))


def page() -> int:
    """Make consumers/web a whole page."""
    ensure()
    if not shutil.which("npm"):
        raise RuntimeError("page needs npm; on Debian or Ubuntu: apt-get install npm")
    return call(NPM_CI, cwd="consumers/web") or call(["python", "consumers/web/prepare.py"])


def test_web() -> int:
    """Test the page in Chromium."""
    ensure()
    chromium = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
    if not os.access(chromium, os.X_OK):
        raise RuntimeError(
            f"no {chromium}; on Debian or Ubuntu: apt-get install chromium; elsewhere: "
            f"make test-web CHROMIUM=PATH"
        )
    return call(["python", "-m", "pytest", "-m", "web", "-rP"])


def apt(*wanted: str) -> int:
    """Install Debian packages, as root, for the programs that are missing.

    Args:
        wanted: `PROGRAM=PACKAGE,PACKAGE` each.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    packages = []
    for item in wanted:
        program, _, names = item.partition("=")
        if not shutil.which(program, path=path):
            packages += names.split(",")
    if not packages:
        return 0
    if not shutil.which("apt-get"):
        raise RuntimeError(f"no apt-get here; install what provides {', '.join(packages)}")
    options = ["--quiet", "--yes", "--no-install-recommends"]
    return call(["apt-get", "update", "--quiet"]) or call(
        ["apt-get", "install", *options, *packages]
    )


def pull() -> int:
    """Bring results from the team's remote."""
    ensure()
    status = call(["dvc", "pull", "--run-cache"])
    if status:
        say(
            "dvc pull failed; docs/sharing.md says what its messages mean; "
            "`make` makes what is missing"
        )
    return status


def lock() -> int:
    """Write every requirements.lock; UPGRADE=1: with newest versions."""
    ensure()
    upgrade = ["--upgrade"] if is_set("UPGRADE") else []
    command = ["uv", "pip", "compile", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--quiet", *upgrade]
    main = "requirements.lock"
    if status := call([*command, "pyproject.toml", "--group", "dev", "--output-file", main]):
        return status
    for folder in ("consumers", "benchmarks"):
        files = [f"{folder}/requirements.in", "--output-file", f"{folder}/{main}"]
        if status := call([*command, *files]):
            return status
    say(f"wrote {main}, also in consumers/ and benchmarks/")
    return 0


def clean_up() -> int:
    """Remove environments and caches of tools; data, models and DVC's cache stay."""
    with alone():
        for path in (path for pattern in CACHES for path in Path().glob(pattern)):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)
            say(f"removed {path}")
    return 0
