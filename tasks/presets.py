"""Lay a preset over params.yaml: `python -m tasks.presets presets/quick.yaml [SEED]`.

Of the section `train`, a preset says what differs from the paper's training: every other key
becomes the schema's default, whatever params.yaml has. Of other sections, the keys that it names
are replaced. A value is replaced whole: a preset that names an optimizer names all of it. `base`
names another preset, which comes before it.

Runs inside .venv.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.utils.serialize import load_yaml, modify_yaml
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from pipeline.params import PARAMS_FILE, Train, check_params, load_params
from tasks.check import check_counts, check_machine, check_optimizer


def overlay(values: Mapping[str, Any], preset: Path) -> dict[str, Any]:
    """Return the values of params.yaml with a preset laid over them, its base before it."""
    layers = with_bases(preset)
    found = {**values}
    if any("train" in sections for sections in layers):
        found["train"] = Train().model_dump()
    for sections in layers:
        found |= {name: {**found.get(name, {}), **keys} for name, keys in sections.items()}
    return found


def with_bases(preset: Path) -> list[dict[str, Any]]:
    """Read a preset's sections, those of its base before them."""
    sections = load_yaml(str(preset))
    base = sections.pop("base", None)
    return [*(with_bases(preset.with_name(f"{base}.yaml")) if base else []), sections]


def assign(node: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Give a mapping other values, in place, so that it keeps its order and its comments."""
    for key in [key for key in node if key not in values]:
        del node[key]
    for key, value in values.items():
        old = node.get(key)
        if isinstance(old, MutableMapping) and isinstance(value, Mapping):
            assign(old, value)
        elif old != value or isinstance(old, bool) != isinstance(value, bool) or key not in node:
            node[key] = quoted(value)


def quoted(value: Any) -> Any:
    """Quote the texts that YAML 1.1 reads as something else, such as `no` and `12:30`."""
    if isinstance(value, Mapping):
        return {key: quoted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [quoted(one) for one in value]
    if not isinstance(value, str):
        return value
    try:
        return value if yaml.safe_load(value) == value else SingleQuotedScalarString(value)
    except (yaml.YAMLError, ValueError):
        return SingleQuotedScalarString(value)


def apply(preset: Path, folder: Path, seed: str = "") -> None:
    """Write a preset into a folder's params.yaml, which keeps its comments.

    `seed` replaces `train.seed`, where it is not empty.

    Raises:
        ValueError: the preset is no YAML, or what comes out fits neither the schema, nor the data
            set, nor Keras; params.yaml is written where Keras is asked.
        OSError: a file can't be read or written.
    """
    path = folder / PARAMS_FILE
    try:
        # As DVC reads them, which is YAML 1.2: `1e-05` is a number there.
        values = overlay(load_yaml(str(path)), preset)
    except (DvcException, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, RecursionError):
            reason = "it nests too deeply, or `base` leads in a circle"
        raise ValueError(f"{preset}: expected sections of params.yaml: {reason}") from None
    if seed:
        values["train"]["seed"] = int(seed)
    check_params(values, str(preset))
    with modify_yaml(str(path)) as written:
        assign(written, values)
    try:
        params = load_params(path)
        check_counts(params)
        check_machine(params.train)
        check_optimizer(params.train.optimizer)
    except ValueError as error:
        faults = [line.partition(": ")[2] for line in str(error).splitlines()]  # without the file
        raise ValueError("\n".join(f"{preset}: {fault}" for fault in faults)) from None


def main() -> int:
    """Do it; the exit status is 1 and a line says why where it can't be done."""
    preset, *seed = sys.argv[1:]
    try:
        apply(Path(preset), Path(), *seed)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
