"""A project of two small stages behind the real Makefile: what `make` does, in a second."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.files import sha256
from tasks.environment import mark
from tasks.repair import object_of, outputs_of

ROOT = Path(__file__).resolve().parent.parent
STEPS = """
import json, os, pathlib, shutil, sys, time
import yaml

if sys.argv[1] == "fetch":
    pathlib.Path("data").mkdir(exist_ok=True)
    shutil.copy(pathlib.Path(os.environ["SOURCE"], "raw"), "data/raw")
else:
    pathlib.Path("training").write_text("train")
    time.sleep(float(os.environ.get("SECONDS_TO_TRAIN", 0)))
    pathlib.Path("training").unlink()
    train = yaml.safe_load(open("params.yaml"))["train"]
    pathlib.Path("models/set").mkdir(parents=True, exist_ok=True)
    text = open("data/raw").read() + json.dumps(train)
    pathlib.Path("models/model").write_text(text)
    pathlib.Path("models/set/input").write_text("input")
    pathlib.Path("models/set/output").write_text(text)
    pathlib.Path("metrics.json").write_text(json.dumps({"epochs": train["epochs"]}))
"""
DVC_YAML = {
    "stages": {
        "fetch": {"cmd": "python steps.py fetch", "outs": ["data/raw"]},
        "train": {
            "cmd": "python steps.py train",
            "deps": ["data/raw"],
            "params": ["train"],
            "outs": ["models/model", "models/set"],
            "metrics": [{"metrics.json": {"cache": False}}],
        },
    }
}
# Written by a stage, so that a test sees which arguments a target gives to its program.
ARGUMENTS = "import json, sys\nprint(json.dumps(sys.argv[1:]))\n"


class Tiny:
    """The project in a folder; its environment leads to this process' own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.source = folder / "source"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "SOURCE": str(self.source),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def create(self) -> Tiny:
        """Write the files and commit them."""
        self.source.mkdir()
        (self.source / "raw").write_text("raw")
        self.folder.mkdir()
        for name in ("tasks", "pipeline", "presets"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
        for name in ("Makefile", "params.yaml", "requirements.lock", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, self.folder)
        params = self.folder / "params.yaml"  # of the paper's length, whatever is committed
        params.write_text(re.sub(r"(?m)^  epochs: \d+", "  epochs: 100", params.read_text()))
        for name in (".dvc", "checks", "tests"):
            (self.folder / name).mkdir()
        shutil.copy(ROOT / ".dvc/config", self.folder / ".dvc/config")
        (self.folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (self.folder / "checks/gate.py").write_text(ARGUMENTS)
        (self.folder / "steps.py").write_text(STEPS)
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump(DVC_YAML, sort_keys=False))
        with (self.folder / ".gitignore").open("a") as file:
            file.write("/data/\n/models/\n/training\n")
        self.borrow_environment()
        self.do("git", "init", "--quiet", "--initial-branch", "main")
        self.commit()
        return self

    def borrow_environment(self) -> None:
        """Only links lead out, so that nothing that clears .venv harms the real one."""
        venv = self.folder / ".venv"
        venv.mkdir()
        for entry in Path(sys.prefix).iterdir():
            (venv / entry.name).symlink_to(entry)
        (venv / ".installed").unlink(missing_ok=True)
        mark(venv, self.folder / "requirements.lock")

    def commit(self) -> None:
        author = ("-c", "user.name=tiny", "-c", "user.email=tiny@localhost")
        self.do("git", "add", "--all")
        self.do("git", *author, "commit", "--quiet", "--allow-empty", "--message", "state")

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own; its output comes as one stream."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        process = self.start(*command, **environment)
        output, _ = process.communicate()
        return process.returncode, output

    def do(self, *command: str, **environment: str) -> str:
        """Run a command that must end well."""
        status, output = self.run(*command, **environment)
        assert status == 0, f"{command}: exit status {status}\n{output}"
        return output

    def params(self, **train: Any) -> None:
        values = yaml.safe_load((self.folder / "params.yaml").read_text())
        values["train"].update(train)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))

    def cached(self, name: str) -> Path:
        """Where DVC's cache keeps an output."""
        number = outputs_of(self.folder / "dvc.lock")[name]
        return object_of(number, self.folder / ".dvc/cache")

    def damage(self, path: Path, content: bytes = b"damaged") -> None:
        """Replace a file's content, leaving its mode, which DVC trusts."""
        mode = path.stat().st_mode
        path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(mode)

    def make_stale(self) -> None:
        """Make DVC run stage train once more: an output is gone, here and in its cache."""
        for path in (self.folder / "models/model", self.cached("models/model")):
            path.unlink()
        shutil.rmtree(self.folder / ".dvc/cache/runs")

    def results(self) -> dict[str, str]:
        """Hash what a run writes."""
        names = ("dvc.lock", "metrics.json", "data/raw", "models/model", "models/set/output")
        return {name: sha256(self.folder / name) for name in names}

    def metric(self) -> Any:
        return json.loads((self.folder / "metrics.json").read_text())
