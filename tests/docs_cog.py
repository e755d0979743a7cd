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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from consumers.runtimes import RUNTIMES
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


VERDICT = {
    "en": {
        "log": "training loss, accuracy",
        "answers": "classes of images {}",
        "claim": '"over 98 % correct answers"',
        "test": "test loss, accuracy",
        "head": ["", "paper", "here", ""],
        "said": ["claimed", "**no**", "its log ends at {:.2f} %", "not measured"],
        "holds": ["**does not hold**", "holds"],
    },
    "ru": {
        "log": "потери, доля верных (обучение)",
        "answers": "классы изображений {}",
        "claim": "«более 98 % верных ответов»",
        "test": "потери, доля верных (тест)",
        "head": ["", "статья", "здесь", ""],
        "said": ["заявлено", "**нет**", "в её журнале {:.2f} %", "не измерено"],
        "holds": ["**неверно**", "верно"],
    },
}


def verdict(language: str = "en") -> str:
    """Compare the paper's claims with the committed metrics, within `gate.tolerances`."""
    texts: Any = VERDICT[language]
    train, evaluate, _ = results()
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    examples = {int(row["image"]): row for row in rows_of("plots/examples.csv")}
    classes = [int(examples[number]["class"]) for number in paper.EXAMPLES]
    probability, last = float(examples[0]["probability"]), paper.LAST_EPOCHS[-1]
    most = [params["gate"]["tolerances"][f"train_{key}"] for key in ("loss", "accuracy")]
    ours = [train["train_loss"], train["train_accuracy"]]
    log = all(
        abs(a - b) <= c for a, b, c in zip(ours, (last.loss, last.accuracy), most, strict=True)
    )
    answers = classes == [*paper.EXAMPLES.values()] and (
        abs(probability - paper.IMAGE_0[9]) <= most[1]
    )
    claimed, no, ends, unmeasured = texts["said"]
    rows = [
        texts["head"],
        [texts["log"], f"{last.loss:.4f}, {last.accuracy:.4f}",
         f"{ours[0]:.4f}, {ours[1]:.4f}", texts["holds"][log]],
        [texts["answers"].format(listed(paper.EXAMPLES)),
         listed(paper.EXAMPLES.values()),
         listed(classes), texts["holds"][answers]],
        [texts["claim"], claimed, no, ends.format(100 * last.accuracy)],
        [texts["test"], unmeasured,
         f"{evaluate['test_loss']:.4f}, **{evaluate['test_accuracy']:.4f}**", ""],
    ]  # fmt: skip
    return tabulate(rows, "firstrow", "github", disable_numparse=True)


def listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def conformance() -> str:
    """Sum up consumers/conformance.json."""
    found = json.loads((ROOT / "consumers/conformance.json").read_text(encoding="utf-8"))
    enforced = [
        found[file][one.key]
        for file in ("float32", "uint8")
        for one in RUNTIMES
        if one.enforced and file in one.files
    ]
    least, most = (
        choose(result[key] for result in enforced)
        for choose, key in ((min, "argmax_agreement"), (max, "max_difference"))
    )
    return (
        f"each names Keras' class for {least:,} of {found['images']:,} images, and no probability "
        f"differs from Keras' by more than {most:.1e}."
    )


def exact() -> str:
    """Say how near the exact file is to the original."""
    export = results()[2]
    proof = {row["check"]: float(row["value"]) for row in rows_of(PROOF)}
    return (
        f"On the {export['images']:,} images of the data set it names the class of the faithful "
        f"file on {export['exact_argmax_agreement']:,}; no probability differs by more than "
        f"{proof['exact_largest_difference']:.1e}; {proof['exact_sums_proven']:,.0f} sums are "
        f"proven exact."
    )


def largest_runtime_difference() -> str:
    """Say how far apart two float32 runtimes can be."""
    furthest = results()[2]["largest_runtime_difference"]
    return (
        f"> Two correct float32 runtimes never differ by more than **{furthest}** in any "
        f"probability, on any image in [0, 1]⁷⁸⁴."
    )


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
        "export: exact: a logit is within … on any image",
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
        rows = [["key", "allowed", "the paper's", "meaning"]]
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
    """Read the comment behind each key of params.yaml, by dotted key."""
    found, path = {}, dict[int, str]()
    for indent, key, comment in re.findall(r"^( *)(\w+):[^#\n]*(?:# *(.*))?$", text, re.M):
        path = {depth: name for depth, name in path.items() if depth < len(indent)}
        path[len(indent)] = key
        if comment:
            found[".".join(path.values())] = comment
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
