"""Whether an experiment is what a preset makes of a commit: its parameters, its code, its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dvc.utils.serialize import load_yaml, parse_yaml

from checks.common import git
from pipeline.params import PARAMS_FILE
from pipeline.records import LOCK, first_difference, take
from tasks.presets import overlay


def check_experiment(root: Path, ref: str, preset: Path) -> None:
    """Compare what the dvc.lock of an experiment records with a preset below `root`, and with HEAD.

    Raises:
        ValueError: a parameter, a module or a file is another one.
    """
    values = overlay(load_yaml(str(root / PARAMS_FILE)), root / preset)
    found = parse_yaml(git("show", f"{ref}:{LOCK}", folder=root).decode(), str(LOCK))["stages"]
    ours = load_yaml(str(root / LOCK))["stages"]
    name = ref.rpartition("/")[2]
    remedy = f"`make recipe NAME={preset.stem}` runs it anew"
    for stage, entry in found.items():
        used = entry.get("params", {}).get(str(PARAMS_FILE), {})
        wanted = {key: take(values, key) for key in used}
        if used != wanted:
            key, old, new = first_difference("", used, wanted)
            raise ValueError(f"experiment {name}: {key} {old}, and {preset} has {new}; {remedy}")
        if code(entry) != code(ours.get(stage, {})):
            raise ValueError(f"experiment {name}: stage {stage} had other code; {remedy}")
        for out in entry.get("outs", []):
            tracked = git("ls-tree", "--name-only", ref, out["path"], folder=root)
            content = git("show", f"{ref}:{out['path']}", folder=root) if tracked else b""
            if tracked and hashlib.md5(content, usedforsecurity=False).hexdigest() != out["md5"]:
                raise ValueError(
                    f"experiment {name}: {out['path']} is not what its dvc.lock records; {remedy}"
                )


def code(entry: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    """Take the MD5 of each module that a stage of dvc.lock depends on."""
    deps = entry.get("deps", [])
    return {dep["path"]: dep["md5"] for dep in deps if dep["path"].endswith(".py")}
