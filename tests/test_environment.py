"""The environment: made from the lock file, made again where that or the folder is another.

With a lock file of one small package, from a folder of wheels; pip and Python are real.
"""

import hashlib
import os
import re
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

import pytest

from checks.sandbox import Project
from pipeline.environment import ROOT
from tasks.environment import is_current, missing, probe

WHEEL = "tiny_package-{version}-py3-none-any.whl"


class Folder(Project):
    """A folder with the Makefile and the program in it, and a lock file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "a folder")  # with a space in its name
        self.wheels = folder / "wheels"
        self.wheels.mkdir(parents=True)
        shutil.copytree(ROOT / "tasks", self.folder / "tasks")
        shutil.copy(ROOT / "Makefile", self.folder)
        self.folder.joinpath("report").mkdir()
        # What `make report` would run, and what `make format` would: they say where they are.
        text = "import tiny_package, sys\nprint(tiny_package.VERSION, sys.prefix)\n"
        (self.folder / "report/sweep.py").write_text(text)
        self.lock("1.0")
        self.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        self.environment |= {"HOME": str(folder)}

    def lock(self, version: str) -> None:
        """Write a wheel and the lock file that names it by its hash."""
        path = self.wheels / WHEEL.format(version=version)
        info = f"tiny_package-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("tiny_package.py", f"VERSION = {version!r}\n")
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}"
            )
            wheel.writestr(
                f"{info}/WHEEL",
                "Wheel-Version: 1.0\nGenerator: tiny\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            wheel.writestr(f"{info}/RECORD", "")
        number = hashlib.sha256(path.read_bytes()).hexdigest()
        text = f"tiny-package=={version} \\\n    --hash=sha256:{number}\n    # via something\n"
        (self.folder / "requirements.lock").write_text(text)

    def make(self, *arguments: str, **environment: str) -> tuple[int, str]:
        return self.run("make", "sweep-picture", *arguments, **environment)


INSTALLING = "make: installing requirements.lock into .venv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """An environment made while everything that leads Python and pip astray is set."""
    folder = Folder(tmp_path_factory.mktemp("environment"))
    astray = folder.wheels.with_name("astray")
    (astray / "site").mkdir(parents=True)
    (astray / "site/tiny_package.py").write_text("VERSION = 'a foreign one'\n")
    conf = astray / "pip.conf"
    conf.write_text(f"[global]\ntarget = {astray}/target\nindex-url = {astray.as_uri()}\n")
    status, output = folder.make(
        PIP_CONFIG_FILE=str(conf),
        PIP_PREFIX=str(astray),
        PIP_USER="1",
        PIP_TARGET=str(astray),
        PYTHONPATH=str(astray / "site"),
        PYTHONHOME=str(astray),
        PYTHONSAFEPATH="1",
    )
    assert (status, INSTALLING in output) == (0, True), output
    assert output.endswith(f"\n1.0 {folder.folder}/.venv\n")
    assert not (astray / "target").exists()
    return folder


def test_a_second_make_installs_nothing(made: Folder) -> None:
    future = time.time() + 1e6  # the lock file's content counts, not its time
    os.utime(made.folder / "requirements.lock", (future, future))
    for arguments in ([], [f"PYTHON={sys.executable}"]):
        status, output = made.make(*arguments)
        assert (status, INSTALLING in output) == (0, False)


def test_an_environment_is_current_until_something_changes(made: Folder) -> None:
    venv, lock = made.folder / ".venv", made.folder / "requirements.lock"
    assert is_current(venv, lock)

    text = lock.read_text()
    lock.write_text(text + "# another\n")
    assert not is_current(venv, lock)
    lock.write_text(text)

    moved = venv.rename(venv.with_name("moved"))
    assert not is_current(moved, lock)
    moved.rename(venv)

    python = (venv / "bin/python").readlink()
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to("/nowhere/python")
    assert not is_current(venv, lock)
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(python)
    assert is_current(venv, lock)


def test_a_damaged_environment_is_named_after_a_failure_and_made_again(made: Folder) -> None:

    def fail() -> str:
        status, output = made.run("sh tasks/start.sh repro")  # as this folder is no repository
        assert status == 1
        return output

    assert "not as installed" not in fail()
    (module,) = made.folder.glob(".venv/lib/python3*/site-packages/pip/__init__.py")
    module.write_text("")
    assert f"make: {module.relative_to(made.folder)} is not as installed; `make` once" in fail()
    assert made.make()[1].count(INSTALLING) == 1
    assert "not as installed" not in fail()


def test_an_install_that_was_killed_starts_again(made: Folder) -> None:
    made.lock("2.0")
    process = made.start("make sweep-picture")
    while (made.folder / ".venv/.installed").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    status, output = made.make()
    assert (status, INSTALLING in output) == (0, True)
    assert output.endswith(f"\n2.0 {made.folder}/.venv\n")


def test_another_hash_is_refused_and_a_linked_environment_left_alone(
    made: Folder, tmp_path: Path
) -> None:
    other = Folder(tmp_path)
    lock = other.folder / "requirements.lock"
    lock.write_text(re.sub("sha256:.*", "sha256:" + "0" * 64, lock.read_text()))
    (other.folder / ".venv").symlink_to(made.folder / ".venv")
    status, output = other.make()
    assert (status, INSTALLING in output) == (2, True)
    assert "make: requirements.lock: 1 packages are not in .venv, tiny-package==1.0" in output
    assert "Traceback" not in output
    assert not (other.folder / ".venv/.installed").exists()
    assert is_current(made.folder / ".venv", made.folder / "requirements.lock")


BAD_PYTHONS = {
    "/nowhere/python": "(PYTHON=/nowhere/python: not found)",
    "false": "(PYTHON=false: exit status 1)",
}


@pytest.mark.parametrize("python", BAD_PYTHONS)
def test_a_python_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, python: str) -> None:
    status, output = Folder(tmp_path).make(f"PYTHON={python}")
    assert status != 0
    first, _ = output.splitlines()  # and make's own
    assert first.startswith("make: needs Python 3.11, 3.12 or 3.13 with venv ")
    assert BAD_PYTHONS[python] in first
    assert "make PYTHON=/path/to/python3.12" in first


def test_a_python_for_a_system_without_tensorflow_is_refused_by_name(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 3 11 7 darwin x86_64\n")  # as on an Intel Mac
    python.chmod(0o755)
    assert probe(str(python)) == (
        "is for darwin x86_64, and TensorFlow for linux x86_64, linux aarch64, darwin arm64 alone"
    )
    python.write_text("#!/bin/sh\necho 3 11 7 darwin arm64\n")
    assert probe(str(python)) == (3, 11, 7)


def test_missing_packages_are_those_for_every_system(tmp_path: Path) -> None:
    assert missing(Path(sys.prefix), ROOT / "requirements.lock") == []
    lock = tmp_path / "requirements.lock"
    lock.write_text("NumPy==0.1 \\\n    --hash=x\nnot.there==1 ; sys_platform == 'plan9' \\\n")
    assert missing(Path(sys.prefix), lock) == ["NumPy==0.1"]
