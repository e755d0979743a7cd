"""What README and the docs show: commands, and what they printed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.conftest import ROOT

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))


class Shown(NamedTuple):
    """A command of a `console` block, and the lines below it; `…` stands for what is left out."""

    command: str
    lines: list[str]


def shown(path: Path) -> list[Shown]:
    """List the commands of a document, in their order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Shown(line[2:], []))
            else:
                found[-1].lines.append(line)
    return found


def lines_of(command: str, path: Path = README) -> list[str]:
    """Give what a document shows below a command."""
    (lines,) = (found.lines for found in shown(path) if found.command == command)
    return lines


def pattern(lines: Sequence[str]) -> str:
    """Make a pattern of lines: `…` alone is any lines, or none; within a line, any text."""
    parts = [
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".+") + r"\n"
        for line in lines
    ]
    return "".join(parts)


def check_shown(lines: Sequence[str], printed: Sequence[str]) -> None:
    """Hold what is shown to what was printed, line for line."""
    text = "".join(f"{line}\n" for line in printed)
    said = "\n".join(["not as it is shown. Shown:", *lines, "Printed:", *printed])
    assert re.fullmatch(pattern(lines), text), said


def printed_by_stages(folder: Path, source: str) -> list[str]:
    """Write down what the stages print in a folder that holds their results.

    From the committed files; `…` where the figure is of a machine, or in no file.
    """
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    train, evaluate, export = (
        json.loads((folder / f"metrics/{stage}.json").read_text(encoding="utf-8"))
        for stage in ("train", "evaluate", "export")
    )
    sizes = {name: file["bytes"] for name, file in params["fetch"]["files"].items()}
    height, width = params["dataset"]["image_shape"]
    counts = [
        (sizes[f"{name}-images-idx3-ubyte"] - 16) // (height * width) for name in ("train", "t10k")
    ]
    batch_sizes = ", ".join(f"{size:,}" for size in params["export"]["batch_sizes"])
    (size,) = (out["size"] for out in lock["export"]["outs"] if out["path"].endswith("mlp.onnx"))
    total = f"{export['images']:,} of {export['images']:,} images"
    return [
        f"fetch: {len(sizes)} files, {sum(sizes.values()):,} bytes, verified, from {source}",
        f"preprocess: {counts[0]:,} train, 0 validation, {counts[1]:,} test",
        "train: " + ", ".join(f"{key} {value:.4f}" for key, value in train.items()),
        f"evaluate: {counts[1]:,} test images, test_loss {evaluate['test_loss']:.4f}, "
        f"test_accuracy {evaluate['test_accuracy']:.4f}; pictures in plots/",
        "export: Keras inside the bound on all images; largest distance …, at most …% of the "
        "bound used",
        "export: structure: MatMul -> Add -> Relu -> MatMul -> Add -> Softmax",
        f"export: weights: {export['initializers_bit_identical']} initializers, "
        f"{export['weights_bit_identical']:,} values, bit for bit Keras'",
        f"export: bounds: onnxruntime inside on {total}; largest distance …, at most …% of the "
        f"bound used",
        f"export: classes: the same on {total}; certified by the bound "
        f"{export['argmax_certified']:,}, listed {export['argmax_listed']:,}",
        f"export: batch sizes: {batch_sizes} agree on {counts[1]:,} images; probabilities move "
        f"by at most …",
        f"export: hostile inputs: {export['hostile_inputs_agreeing']} of "
        f"{export['hostile_inputs_agreeing']} as in Keras; where float32 overflows, … of … alike",
        f"export: uint8: bytes in, the same bits out on {export['uint8_bit_identical']:,} images",
        f"export: models/fashion_mlp.onnx, {size:,} bytes, equal to Keras on {total}",
    ]
