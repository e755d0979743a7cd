"""What is recorded of a stage's outputs, by DVC or by a stage run by hand: content, parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.files import md5, replacing
from pipeline.params import GIVEN, PARAMS_FILE

LOCK = Path("dvc.lock")
# What a run leaves for the next one, and nobody else: not DVC's, not git's.
STATE = Path(".run")
BY_HAND = STATE / "by_hand.json"  # what stages wrote that DVC did not start


def verify(paths: list[Path]) -> None:
    """Compare files with what dvc.lock has of the stage that wrote each: its MD5, its parameters.

    Or with what a stage that was run by hand wrote since: `python -m stages.preprocess`.

    Raises:
        ValueError: names the first that differs, and the command that heals.
        OSError: a file can't be read.
    """
    expected, by_hand, params = recorded(), recorded_by_hand(), read_values(PARAMS_FILE)
    for path in map(str, paths):
        made = [expected[path]] if path in expected else []
        number, values, before = by_hand.get(path, ("", {}, None))
        # What was written by hand counts until dvc.lock records something newer.
        if before == (made[0][0] if made else ""):
            made.append((number, values))
        if not made:
            continue
        source = LOCK if path in expected else BY_HAND
        got = md5(Path(path))
        if not (same := [values for number, values in made if number == got]):
            raise ValueError(
                f"{path}: damaged: expected MD5 {made[0][0]} ({source}), got {got}; "
                f"`make heal` removes what is damaged, in DVC's cache too, and makes it again"
            )
        now = {key: take(params, key) for key in same[-1]}
        if now not in same:
            key, old, new = first_difference("", same[-1], now)
            raise ValueError(
                f"{path}: made with {key} {GIVEN.repr(old)}, and {PARAMS_FILE} has "
                f"{GIVEN.repr(new)}; `make` makes it anew"
            )


def first_difference(key: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """Find the first key below `key` whose value differs: its name, and both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *now]:
            if (old := before.get(name)) != (new := now.get(name)):
                return first_difference(f"{key}.{name}".lstrip("."), old, new)
    return key, before, now


def recorded() -> dict[str, tuple[str, dict[str, Any]]]:
    """Read from dvc.lock, by path, the MD5 of each file that a stage wrote, and its parameters.

    Not of folders.
    """
    if not LOCK.exists():
        return {}
    stages = (read_values(LOCK) or {}).get("stages", {})
    return {
        out["path"]: (out["md5"], stage.get("params", {}).get(str(PARAMS_FILE), {}))
        for stage in stages.values()
        for out in stage.get("outs", [])
        if "md5" in out and not out["md5"].endswith(".dir")
    }


def record(outs: list[Path], sections: list[str]) -> None:
    """Note what a stage wrote that DVC did not start: MD5, parameters, and the MD5 in dvc.lock."""
    expected, params = recorded(), read_values(PARAMS_FILE)
    values = {section: take(params, section) for section in sections}
    written = {
        str(path): [md5(path), values, expected.get(str(path), ("", {}))[0]]
        for path in outs
        if path.is_file()
    }
    known = recorded_by_hand() | written
    with replacing(BY_HAND) as temporary:
        temporary.write_text(json.dumps(known), encoding="utf-8")


def recorded_by_hand() -> dict[str, list[Any]]:
    """Read what `record` noted."""
    try:
        known = json.loads(BY_HAND.read_text(encoding="utf-8"))
        return {path: entry for path, entry in known.items() if len(entry) == 3}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def read_values(path: Path) -> Any:
    """Read a YAML file as DVC does, to which `1e-05` is a number.

    Raises:
        ValueError: it is not YAML.
        OSError: it can't be read.
    """
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except YAMLError as error:  # which is not PyYAML's
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path}: not YAML: {reason}; `git checkout HEAD -- {path}` brings it back"
        ) from None


def take(params: Any, section: str) -> Any:
    """Take a section of params.yaml, dotted where a part of one is meant; None: there is none."""
    for key in section.split("."):
        params = params.get(key) if isinstance(params, dict) else None
    return params
