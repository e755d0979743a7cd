"""A project of two small stages behind the real Makefile: what `make` does, in a second."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml

from checks.sandbox import Project
from pipeline.environment import ROOT

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
    pathlib.Path("metrics").mkdir(exist_ok=True)
    pathlib.Path("metrics/train.json").write_text(json.dumps({"epochs": train["epochs"]}))
"""
DVC_YAML = {
    "stages": {
        "fetch": {"cmd": "python steps.py fetch", "outs": ["data/raw"]},
        "train": {
            "cmd": "python steps.py train",
            "deps": ["data/raw"],
            "params": ["train"],
            "outs": ["models/model", "models/set"],
            "metrics": [{"metrics/train.json": {"cache": False}}],
        },
    }
}
# Written by a stage, so that a test sees which arguments a target gives to its program.
ARGUMENTS = "import json, sys\nprint(json.dumps(sys.argv[1:]))\n"


class Tiny(Project):
    """The project, written and committed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        source = folder / "source"
        source.mkdir()
        (source / "raw").write_text("raw")
        own = {"HOME": str(folder), "SOURCE": str(source), "GIT_CONFIG_GLOBAL": os.devnull}
        self.environment |= own
        self.folder.mkdir()
        for name in ("tasks", "pipeline", "presets"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
        for name in ("Makefile", "params.yaml", "requirements.lock", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, self.folder)
        self.set(train__epochs=100)  # the paper's, whatever is committed
        (self.folder / "presets/quick.yaml").write_text("train:\n  epochs: 3\n")  # without Keras
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
        self.good("git init --quiet --initial-branch main")
        self.commit()

    def cached(self, name: str) -> Path:
        """Where DVC's cache keeps an output."""
        return self.folder / ".dvc/cache" / self.object(name)

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
