"""Write report.html: the last run in one file that needs neither network nor scripts.

reads   dvc.lock, metrics/*.json, plots/*.{csv,png}; consumers/conformance.json if it exists
writes  report.html

Parameters and hashes are those that dvc.lock recorded, not those that params.yaml holds now: the
metrics come from them.
"""

from __future__ import annotations

import base64
import csv
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import yaml
from dvc.utils.flatten import flatten, unflatten
from tabulate import tabulate

from consumers.runtimes import MODELS, graph_hash
from fashion_mlp.formats import write_text
from fashion_mlp.pictures import paper
from pipeline.files import md5
from pipeline.records import LOCK, recorded

PAGE = Path(__file__).with_name("page.html")
REPORT = Path("report.html")
CONFORMANCE = Path("consumers/conformance.json")
STAGES = ("fetch", "preprocess", "train", "evaluate", "export")
PACKAGES = ("tensorflow", "keras", "numpy", "onnx", "onnxruntime", "tf2onnx", "dvc", "matplotlib")

# Files of plots/ in the order shown, with their captions.
PICTURES = {
    "history": "Loss and accuracy by epoch (the paper's figure 8), on the training images, "
    "measured during the epoch. The circles and the inset are the paper's log, where it fits.",
    "confusion": "Confusion matrix. Rows are labels, columns predictions.",
    "mistakes": "The wrong predictions of highest probability. Some of the labels look odd to "
    "people too.",
    "reliability": "Left: accuracy by the probability of the predicted class; the dashed line is "
    "perfect calibration. Right: the number of predictions.",
    "examples": "Training images with the predicted class (figure 11); vermilion, with the label, "
    "where it is wrong.",
    "first_image": "All probabilities of training image 0 (figure 9).",
    "hidden_units": "Pixels that speak for a class (vermilion) or against it (blue). Above: "
    "summed over all hidden units. Below: the unit with the largest weight to the class, which "
    "still looks like the noise that its weights were initialized with.",
    "averages": "The average of each class's training images.",
    "contact_sheet": "Training images and their labels (the paper's figure 10).",
}


def main() -> int:
    """Write the report; the exit status says whether it was written."""
    try:
        page = build(Path())
        check_outputs()
    except (OSError, ValueError) as error:
        print(f"report: error: {error}", file=sys.stderr)
        return 1
    write_text(REPORT, page)
    print(f"report: wrote {REPORT}, {len(page.encode()) / 1e6:.1f} MB; open it in a browser")
    return 0


def check_outputs() -> None:
    """Refuse metrics and pictures that are not of the run that dvc.lock records.

    Raises:
        ValueError: names the first.
    """
    for path, (number, _) in recorded().items():
        shown = path.startswith(("metrics/", "plots/")) and Path(path).is_file()
        if shown and md5(Path(path)) != number:
            raise ValueError(f"{path} is not of the run that dvc.lock records; run `make` first")


def build(root: Path) -> str:
    """Build the page from the files below `root`.

    Raises:
        ValueError: a file that the pipeline writes is missing or damaged.
    """
    lock = read(root / LOCK, yaml.safe_load).get("stages", {})
    if missing := [stage for stage in STAGES if stage not in lock]:
        raise ValueError(f"{root / LOCK} has no run of {', '.join(missing)}; run `make` first")
    params = run_params(lock)
    proof = [tuple(row.values()) for row in records(root / "metrics/proof.csv")]
    train, evaluate, export = (
        read(root / f"metrics/{stage}.json", json.loads)
        for stage in ("train", "evaluate", "export")
    )
    files = params.get("fetch", {}).pop("files", {})
    examples, classes = (records(root / f"plots/{name}.csv") for name in ("examples", "classes"))
    figures = {name: figure(root / f"plots/{name}.png", text) for name, text in PICTURES.items()}
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        name=escape(params["dataset"]["name"]),
        shape=shape(params),
        cards=cards(train, evaluate, export),
        paper_title=escape(paper.TITLE),
        paper=paper_table(train, evaluate, examples)
        if params["dataset"]["name"] == paper.DATASET
        else "<p>The paper's numbers are of other data than these.</p>",
        history=figures.pop("history"),
        pictures="".join(figures.values()),
        classes=record_table(classes),
        metrics=table(flatten(train | evaluate).items()),
        examples=record_table(examples),
        data=data_tables(files, lock),
        export=table(proof, ("check", "value")),
        runtimes=runtimes(root),
        params=escape(
            yaml.safe_dump(params, allow_unicode=True, sort_keys=False, default_flow_style=None)
        ),
        made=table(made_with(root).items()),
    )


def read(path: Path, load: Callable[[str], Any]) -> dict[str, Any]:
    """Read a mapping from a JSON or YAML file; name what writes the file if it can't be read."""
    try:
        return dict(load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; `make` writes it") from None
    except (ValueError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({reason}); `make` writes it anew") from None


def run_params(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the parameters that the stages last ran with, as nested mappings.

    Sections that share keys are merged, so no key may hold a dot or an empty mapping.
    """
    params: dict[str, Any] = {}
    for stage in STAGES:
        for key, value in lock[stage].get("params", {}).get("params.yaml", {}).items():
            params |= flatten({key: value})  # a whole section, or a key of one
    return dict(unflatten(params))


def shape(params: Mapping[str, Any]) -> str:
    """Format the units of all layers, as 784-800-10."""
    height, width = params["dataset"]["image_shape"]
    units = [height * width, *params["train"]["hidden_units"], params["dataset"]["classes"]]
    return "-".join(map(str, units))


def figure(path: Path, text: str) -> str:
    """Embed a PNG; narrow screens scroll it, as its letters would be too small."""
    if not path.exists():
        raise ValueError(f"{path} is missing; `make` draws it")
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><div class="scroll" tabindex="0"><img src="{source}" alt="{escape(text)}"></div>'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def table(rows: Any, head: Sequence[str] = ()) -> str:
    """Format rows as a table, cells escaped; wider than a phone, it scrolls."""
    cells = [[written(cell) for cell in row] for row in rows]
    made = tabulate(cells, head, "html", disable_numparse=True)
    return f'<div class="scroll" tabindex="0">{made}</div>'


def written(value: object) -> str:
    """Format a value of a JSON or YAML file for reading."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return {int: "{:,}", float: "{:.6g}"}.get(type(value), "{}").format(value)


def cards(train: Mapping[str, Any], evaluate: Mapping[str, Any], export: Mapping[str, Any]) -> str:
    """Format the headline metrics that this run has."""
    found = {
        "test accuracy": evaluate.get("test_accuracy"),
        "test loss": evaluate.get("test_loss"),
        "validation accuracy": evaluate.get("validation_accuracy"),
        "validation loss": evaluate.get("validation_loss"),
        "training accuracy": train.get("train_accuracy"),
        "calibration error": evaluate.get(
            "test_calibration_error", evaluate.get("validation_calibration_error")
        ),
    }
    shown = [(text, f"{value:.4f}") for text, value in found.items() if value is not None]
    if {"images", "argmax_agreement"} <= export.keys():
        of = f"of {export['images']:,} images: ONNX predicts the class that Keras predicts"
        shown.append((of, f"{export['argmax_agreement']:,}"))
    return "".join(
        f'<div class="card"><b>{escape(value)}</b>{escape(text)}</div>' for text, value in shown
    )


def paper_table(
    train: Mapping[str, Any], evaluate: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]
) -> str:
    """Compare the paper's numbers with this run's, and say what does not hold."""
    last, likeliest = paper.LAST_EPOCHS[-1], max(paper.IMAGE_0.values())

    answers = {row["image"]: row for row in examples}

    def ours(number: int, key: str) -> object:
        return answers.get(str(number), {}).get(key)

    rows: list[tuple[object, ...]] = [
        ("training loss, last epoch", last.loss, train["train_loss"], "figure 8"),
        ("training accuracy, last epoch", last.accuracy, train["train_accuracy"], "figure 8"),
        ("test loss", None, evaluate.get("test_loss"), "not in the paper"),
        ("test accuracy", None, evaluate.get("test_accuracy"), "not in the paper"),
        *(
            (f"class of training image {number}", found, ours(number, "class"), "figure 11")
            for number, found in sorted(paper.EXAMPLES.items())
        ),
        ("probability of image 0's class", likeliest, ours(0, "probability"), "figure 9"),
    ]
    claim = (
        f"The paper claims an accuracy of over {100 * paper.CLAIMED_ACCURACY:g} %. That does not "
        f"hold: its own log ends at {100 * last.accuracy:.2f} %, on the images that it was trained "
        f"on, and it measures no others. {likeliest:.5f} is the probability of a single image."
    )
    if "test_accuracy" in evaluate:
        claim += f" On the test set this run reaches {100 * evaluate['test_accuracy']:.2f} %."
    return f"<p>{escape(claim)}</p>" + table(rows, ("what", "paper", "this run", "where"))


def records(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file."""
    if not path.exists():
        raise ValueError(f"{path} is missing; `make` writes it")
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def record_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format mappings as rows, a column for each key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(key) for key in columns] for row in rows]
    return table(cells, [key.replace("_", " ") for key in columns])


def data_tables(files: Mapping[str, Any], lock: Mapping[str, Any]) -> str:
    """Format the source files, and the arrays and models made from them."""
    sources = [(name, file["bytes"], file["sha256"]) for name, file in files.items()]
    outputs = [
        (output["path"], output["size"], output["md5"])
        for stage in lock.values()
        for output in stage.get("outs", [])
        if output["path"].startswith(("data/prepared/", "models/"))
    ]
    return (
        "<h3>Source files, decompressed</h3>"
        + table(sources, ("file", "bytes", "SHA-256"))
        + "<h3>Arrays and models made from them</h3>"
        + table(outputs, ("path", "bytes", "MD5, as DVC records it"))
    )


def runtimes(root: Path) -> str:
    """Format how other runtimes compare, if that has been measured with these models."""
    path = root / CONFORMANCE
    values, parts = read(path, json.loads) if path.exists() else {}, []
    here = {file: root / model for file, model in MODELS.items() if (root / model).exists()}
    if values.pop("models", None) != {file: graph_hash(model) for file, model in here.items()}:
        return (
            "<p>Not run with these models: <code>make conformance</code> runs them in other "
            "runtimes.</p>"
        )
    for file in [key for key, value in values.items() if isinstance(value, dict)]:
        rows = [{"runtime": name, **row} for name, row in values.pop(file).items()]
        parts.append(f"<h3>The {escape(file)} file</h3>{record_table(rows)}")
    return table(flatten(values).items()) + "".join(parts)


def made_with(root: Path) -> dict[str, str]:
    """Name the commit, the system and the versions that the report was written with."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        commit = result.stdout.strip()
    except OSError:  # no git
        commit = ""
    return {
        "commit": commit or "not in git",
        "system": platform.platform(),
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


if __name__ == "__main__":
    sys.exit(main())
