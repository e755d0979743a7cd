"""What cog writes into README.md and docs/: tables and outputs, each from its source.

`python -m cogapp -r README.md docs/*.md` writes them anew; tests/test_docs.py checks them.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from fashion_mlp.pictures import paper
from pipeline.environment import ROOT
from pipeline.params import Params
from tests.processes import run

METRICS = [f"metrics/{stage}.json" for stage in ("train", "evaluate", "export")]
PROOF = "metrics/proof.csv"
MOMENTUM = ROOT / "docs/momentum.json"  # metrics of the experiment that README shows, by file


def results(folder: Path = ROOT) -> list[Any]:
    """Read the metrics of train, evaluate and export."""
    return [json.loads((folder / name).read_text(encoding="utf-8")) for name in METRICS]


def rows_of(name: str, folder: Path = ROOT) -> list[dict[str, str]]:
    """Read a CSV file of a folder."""
    return list(csv.DictReader((folder / name).read_text(encoding="utf-8").splitlines()))


RUSSIAN = {
    "paper": "статья",
    "here": "здесь",
    "training loss, accuracy": "потери, доля верных (обучение)",
    "classes of images": "классы изображений",
    '"over 98 % correct answers"': "«более 98 % верных ответов»",
    "test loss, accuracy": "потери, доля верных (тест)",
    "claimed": "заявлено",
    "**no**": "**нет**",
    "its log ends at": "в её журнале",
    "not measured": "не измерено",
    "**does not hold**": "**не подтверждается**",
    "holds": "подтверждается",
}


def verdict(language: str = "en") -> str:
    """Compare the paper's claims with the committed metrics, within `gate.tolerances`."""
    train, evaluate, _ = results()
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    examples = {int(row["image"]): row for row in rows_of("plots/examples.csv")}
    classes = [int(examples[number]["class"]) for number in paper.EXAMPLES]
    last, most = paper.LAST_EPOCHS[-1], params["gate"]["tolerances"]
    near = (
        abs(train["train_loss"] - last.loss) <= most["train_loss"],
        abs(train["train_accuracy"] - last.accuracy) <= most["train_accuracy"],
        abs(float(examples[0]["probability"]) - paper.IMAGE_0[9]) <= most["train_accuracy"],
        classes == [*paper.EXAMPLES.values()],
    )
    holds = ["**does not hold**", "holds"]
    numbers, wanted, found = (
        ", ".join(map(str, of)) for of in (paper.EXAMPLES, paper.EXAMPLES.values(), classes)
    )
    rows = [
        ["", "paper", "here", ""],
        ["training loss, accuracy", f"{last.loss:.4f}, {last.accuracy:.4f}",
         f"{train['train_loss']:.4f}, {train['train_accuracy']:.4f}", holds[all(near[:2])]],
        [f"classes of images {numbers}", wanted, found, holds[all(near[2:])]],
        ['"over 98 % correct answers"', "claimed", "**no**",
         f"its log ends at {100 * last.accuracy:.2f} %"],
        ["test loss, accuracy", "not measured",
         f"{evaluate['test_loss']:.4f}, **{evaluate['test_accuracy']:.4f}**", ""],
    ]  # fmt: skip
    if language == "ru":
        words = re.compile("|".join(map(re.escape, RUSSIAN)))
        rows = [[words.sub(lambda it: RUSSIAN[it[0]], cell) for cell in row] for row in rows]
        pairs = re.compile(r"(\d), (?=[*\d])|(?<=\d)\.(?=\d)")  # 0.1, 0.2 -> 0,1; 0,2
        rows = [
            [pairs.sub(lambda it: f"{it[1]}; " if it[1] else ",", cell) for cell in row]
            for row in rows
        ]
    return tabulate(rows, "firstrow", "github", disable_numparse=True)


def export_lines(word: str) -> str:
    """Lay out the lines of stage export that have a word in them."""
    lines = [line for line in stage_lines() if line.startswith("export: ") and word in line]
    return "\n".join(["```", *lines, "```"])


def console(command: str, *lines: str) -> str:
    """Lay out a command and what it prints, or more commands."""
    return "\n".join(["```console", f"$ {command}", *lines, "```"])


def stage_lines(folder: Path = ROOT) -> list[str]:
    """Write lines that the stages print, from the results in a folder; `…` is any text."""
    train, evaluate, export = results(folder)
    proof = {row["check"]: float(row["value"]) for row in rows_of(PROOF, folder)}
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    files, held_out = params["fetch"]["files"], params["preprocess"]["validation_images"]
    size = sum(file["bytes"] for file in files.values())
    # An IDX file of labels has 8 bytes before them.
    learnt, test = (files[f"{it}-labels-idx1-ubyte"]["bytes"] - 8 for it in ("train", "t10k"))
    sizes = {out["path"]: out["size"] for out in lock["export"]["outs"]}
    total, images = f"{export['argmax_agreement']:,} of {export['images']:,}", f"{test:,} images"
    activation = params["train"]["activation"].capitalize()
    layers = [activation for _ in params["train"]["hidden_units"]] + ["Softmax"]
    batch_sizes = ", ".join(f"{size:,}" for size in params["export"]["batch_sizes"])
    edge_cases = f"{proof['edge_case_inputs_agreeing']:.0f}"
    return [
        f"fetch: {len(files)} files, {size:,} bytes, verified, from …",
        f"preprocess: {learnt - held_out:,} train, {held_out:,} validation, {test:,} test",
        "train: " + ", ".join(f"{key} {value:.4f}" for key, value in train.items()),
        f"evaluate: {test:,} test images, test_loss {evaluate['test_loss']:.4f}, "
        f"test_accuracy {evaluate['test_accuracy']:.4f}; pictures in plots/",
        "export: Keras inside the bound on all images; largest distance …",
        f"export: two float32 runtimes are at most {export['largest_runtime_difference']} apart on "
        "any image in [0, 1]; on the worst image that a search found, …",
        "export: exact: logits within … of the unrounded network's on any image",
        "export: structure: " + " -> ".join(f"MatMul -> Add -> {last}" for last in layers),
        f"export: weights: {proof['initializers_bit_identical']:.0f} initializers, "
        f"{proof['weights_bit_identical']:,.0f} values, bit for bit Keras'",
        f"export: float64: inside its rounding bound on {proof['float64_images']:,.0f} images; "
        "largest distance …",
        f"export: bounds: onnxruntime inside on {total} images; largest distance …",
        f"export: classes: the same on {total} images; certified by the bound "
        f"{export['argmax_certified']:,}, listed {proof['argmax_listed']:,.0f}",
        f"export: batch sizes: {batch_sizes} agree on {images}; probabilities move by at most …",
        f"export: edge cases: {edge_cases} of {edge_cases} as in Keras; where float32 overflows, …",
        f"export: uint8: bytes in, the same bits out on {export['uint8_bit_identical']:,} images",
        f"export: exact: {proof['exact_sums_proven']:,.0f} sums stay within 2^24 on every image "
        "(the largest …% of it), so none rounds",
        "export: exact: the class of the original on "
        f"{export['exact_argmax_agreement']:,} of {export['images']:,} images; probabilities "
        f"within {proof['exact_largest_difference']:.1e}",
        f"export: models/fashion_mlp.onnx, {sizes['models/fashion_mlp.onnx']:,} bytes, equal to "
        f"Keras on {total} images",
    ]


def wrong_value() -> str:
    """Run a stage with `epochs: 0`; return its error."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["train"]["epochs"] = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return run(folder, sys.executable, "-m", "stages.train").stderr.rstrip()


def metrics_diff() -> str:
    """Run `dvc metrics diff` between the committed metrics and the experiment `momentum`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        for name in ("dvc.yaml", ".dvc/config", *METRICS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
        run(folder, "git", "init", "--quiet", "--initial-branch", "main")
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message", "main")
        for name, values in json.loads(MOMENTUM.read_text(encoding="utf-8")).items():
            (folder / name).write_text(json.dumps(values), encoding="utf-8")
        run(folder, "git", "checkout", "--quiet", "-b", "momentum")
        run(folder, "git", "commit", "--quiet", "--all", "--message", "momentum")
        printed = run(folder, "dvc", "metrics", "diff", "main", "momentum").stdout
    head, *rows = (line.rstrip() for line in printed.rstrip().splitlines())
    return "\n".join([head, *sorted(rows)])  # DVC's order changes from run to run


def parameters() -> str:
    """Write a table for each section of params.yaml: key, what is allowed, default, meaning."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    meanings, parts, sections = comments(text), [], Params.model_json_schema()["$defs"]
    for section, values in yaml.safe_load(text).items():
        known = sections[section.capitalize()]["properties"]
        rows = [["key", "allowed", "default", "meaning"]]
        for key in values:
            meaning = meanings.get(f"{section}.{key}", "")
            rows.append([f"`{key}`", allowed(known[key]), default(known[key]), meaning])
        table = tabulate(rows, "firstrow", "github", disable_numparse=True)
        parts.append(f"## {section}\n\n{table}\n")
    return "\n".join(parts).rstrip()


def default(field: Mapping[str, Any]) -> str:
    """Write the default of a field of a JSON schema as YAML has it; nothing for a section's."""
    if "default" not in field or isinstance(field["default"], dict):
        return ""
    return f"`{yaml.safe_dump(field['default'], default_flow_style=True).splitlines()[0]}`"


def comments(text: str) -> dict[str, str]:
    """Read the comment behind each key of params.yaml, or the line above it, by dotted key."""
    found, path, above = {}, dict[int, str](), ("", "")
    for line in text.splitlines():
        if match := re.fullmatch(r"( *)(\w+):[^#]*(?:# *(.*))?", line):
            indent, key, comment = match.groups()
            path = {depth: name for depth, name in path.items() if depth < len(indent)}
            path[len(indent)] = key
            if not comment and [it[:1] == "#" for it in above] == [False, True]:  # of one line
                comment = above[1].strip("# ")
            if comment:
                found[".".join(path.values())] = comment
        above = (above[1], line.strip())
    return found


def allowed(field: Mapping[str, Any]) -> str:
    """Say in words what a field of a JSON schema allows."""
    if "enum" in field:
        return ", ".join(field["enum"])
    if field.get("type") == "array":
        return f"list: {allowed(field.get('items') or field['prefixItems'][0])}"
    words = {"integer": "whole number", "number": "number", "string": "text"}
    words["boolean"] = "true, false"
    if field.get("type") not in words:
        return "see below"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = (f"{signs[name]} {field[name]:,}" for name in signs if name in field)
    return f"{words[field['type']]} {', '.join(limits)}".rstrip()


PACKAGES = ("stages", "fashion_mlp", "pipeline")
AROUND = ("tasks", "consumers", "checks", "benchmarks", "report", "release", "tests")


def tree() -> str:
    """Draw the modules that make results, and what is around them, each with its docstring."""
    rows = [("params.yaml", "every parameter; docs/parameters.md lists them"),
            ("dvc.yaml", "the stages: what each runs, reads and writes")]  # fmt: skip
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py"), key=place):
            parts = path.relative_to(ROOT).parts
            folder = path.name == "__init__.py"
            name = f"{parts[-2]}/" if folder else parts[-1]
            rows.append((f"{'  ' * (len(parts) - 1 - folder)}{name}", first_line(path)))
    rows.append(("Makefile", "the commands; `make help` lists them"))
    rows += [(f"{name}/", first_line(ROOT / name / "__init__.py")) for name in AROUND]
    rows += [("presets/", "named sets of parameters, for `make recipe`"),
             ("metrics/, plots/", "the committed results"),
             ("data/, models/", "what DVC keeps: arrays, the Keras model, the ONNX files"),
             ("docs/", "a page for each subject")]  # fmt: skip
    return "\n".join(["```", *(f"{name:23} {shorten(text, 76)}" for name, text in rows), "```"])


def place(path: Path) -> list[str]:
    """Sort modules of a folder before its folders, `__init__` first."""
    parts = path.relative_to(ROOT).parts
    run = ("__init__", "fetch", "preprocess", "train")  # of the stages, in the order of a run
    number = run.index(path.stem) if path.stem in run else len(run)
    return [f"1{part}/" for part in parts[:-1]] + [f"0{number}{parts[-1]}"]


def first_line(path: Path) -> str:
    """Take the first line of a module's docstring; of a stage, without its name."""
    line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
    return line.removeprefix(f"{path.stem}: ").rstrip(".")


def shorten(text: str, length: int) -> str:
    """Leave out the last parts of a sentence that is too long."""
    found = re.match(rf"(.{{20,{length}}})(?:(?:[:;,]|(?<!\.)\.) |$)", text)
    return found[1] if found else textwrap.shorten(text, length, placeholder=" …")
