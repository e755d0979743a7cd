"""Write report.html: the last run in one file that needs no network and no script.

reads   dvc.lock, metrics/*.json, plots/*.png; consumers/conformance.json where it is
writes  report.html

Parameters and hashes are those that dvc.lock recorded, not those that params.yaml holds now: they
are what the metrics came from.
"""

from __future__ import annotations

import base64
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import yaml

from checks.repro import leaves, processor
from fashion_mlp.pictures import paper
from pipeline.files import write_text

PAGE = Path(__file__).with_name("page.html")
REPORT = Path("report.html")
LOCK = Path("dvc.lock")
CONFORMANCE = Path("consumers/conformance.json")
STAGES = ("fetch", "preprocess", "train", "evaluate", "export")
PACKAGES = ("tensorflow", "keras", "numpy", "onnx", "onnxruntime", "tf2onnx", "dvc", "matplotlib")

OWN_TABLES = ("per_class", "train_examples")  # of the keys in metrics/evaluate.json

# Files of plots/, in the order shown, with what to see in them.
PICTURES = {
    "contact_sheet": "Training images and their labels (the paper's figure 10).",
    "examples": "Training images with the class that the network names (figure 11); "
    "vermilion, with the label, where it is wrong.",
    "first_image": "All probabilities of training image 0 (figure 9).",
    "confusion": "Where the network goes wrong on the test set. Rows are labels, columns answers.",
    "reliability": "Left: how often an answer is right against how sure the network was of it; on "
    "the dashed line both are the same. Right: how many answers that is.",
    "mistakes": "The wrong answers that the network is surest of, on the test set. Some of the "
    "labels look odd to people too.",
    "averages": "What the classes look like: the average of each one's training images.",
    "hidden_units": "What light speaks for a class (vermilion) or against it (blue). Above, by all "
    "hidden units; below, by the one with the largest weight to the class, which still looks like "
    "the noise that its weights began as.",
}


def main() -> int:
    """Write the report; the exit status says whether it was."""
    try:
        page = build(Path())
    except (OSError, ValueError) as error:
        print(f"report: error: {error}", file=sys.stderr)
        return 1
    write_text(REPORT, page)
    print(f"report: wrote {REPORT}, {len(page.encode()) / 1e6:.1f} MB; open it in a browser")
    return 0


def build(root: Path) -> str:
    """Make the page from what lies in `root`.

    Raises:
        ValueError: a file that the pipeline writes is missing or is not what it should be.
    """
    lock = read_lock(root / LOCK)
    params = run_params(lock)
    train, evaluate, export = (
        read_json(root / f"metrics/{stage}.json") for stage in ("train", "evaluate", "export")
    )
    figures = {name: picture(root / f"plots/{name}.png") for name in ("history", *PICTURES)}
    compared = params["dataset"]["name"] == paper.DATASET
    return Template(read(PAGE)).substitute(
        name=escape(params["dataset"]["name"]),
        shape=escape(shape(params)),
        cards=cards(train, evaluate, export),
        paper_title=escape(paper.TITLE),
        paper=paper_table(train, evaluate)
        if compared
        else "<p>Its numbers are of other data than these.</p>",
        history=figure(
            figures.pop("history"),
            "Loss and accuracy by epoch, on the training images while the weights still move. "
            "The inset and the circles are the paper's log (figure 8).",
        ),
        pictures="".join(figure(figures[name], text) for name, text in PICTURES.items()),
        classes=class_table(evaluate.get("per_class", {})),
        measured=mapping_table(
            {key: value for key, value in (train | evaluate).items() if key not in OWN_TABLES}
        ),
        examples=example_table(evaluate.get("train_examples", {})),
        data=data_tables(params, lock),
        export=mapping_table(export),
        runtimes=runtimes(root / CONFORMANCE),
        params=escape(
            yaml.safe_dump(
                without_files(params), allow_unicode=True, sort_keys=False, default_flow_style=None
            )
        ),
        made=mapping_table(environment(root)),
    )


def read(path: Path) -> str:
    """Read a text file; say what to run where it is missing."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; `make` writes it") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of metrics."""
    try:
        return dict(json.loads(read(path)))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}); `make` writes it anew") from None


def read_lock(path: Path) -> dict[str, Any]:
    """Read what the last run of each stage was made of.

    Raises:
        ValueError: the file is missing or broken, or some stage has never run.
    """
    try:
        stages = dict(yaml.safe_load(read(path))["stages"])
    except (yaml.YAMLError, KeyError, TypeError):
        raise ValueError(f"{path} is not a lock file of DVC's; `make` writes it anew") from None
    if missing := [stage for stage in STAGES if stage not in stages]:
        raise ValueError(f"{path} holds no run of {', '.join(missing)}; run `make` first")
    return stages


def run_params(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the parameters that the stages were last run with, by section."""
    params: dict[str, Any] = {}
    for stage in STAGES:
        for key, value in lock[stage]["params"]["params.yaml"].items():
            if "." not in key:  # a stage may need one key of another's section
                params[key] = value
    return params


def without_files(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out `fetch.files`, which has a table of its own."""
    fetch = {key: value for key, value in params.get("fetch", {}).items() if key != "files"}
    return {**params, "fetch": fetch}


def shape(params: Mapping[str, Any]) -> str:
    """Say the network's size."""
    height, width = params["dataset"]["image_shape"]
    units, classes = params["train"]["hidden_units"], len(params["dataset"]["classes"]["en"])
    return f"{height * width} pixels, {units} hidden units, {classes} classes"


def picture(path: Path) -> str:
    """Read a PNG as a data URI."""
    if not path.exists():
        raise ValueError(f"{path} is missing; `make` draws it")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def figure(source: str, text: str) -> str:
    """Show a picture; narrow screens scroll it, as its letters would be too small."""
    return (
        f'<figure><div class="scroll" tabindex="0"><img src="{source}" alt="{escape(text)}"></div>'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: bool = False) -> str:
    """Write a table; cells are escaped, numbers get thousands separators."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(f"<td>{escape(written(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    kind = ' class="numbers"' if numbers else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind}><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def written(value: object) -> str:
    """Write a value of a JSON or YAML file for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e-3 else f"{value:.6f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def mapping_table(values: Mapping[str, Any]) -> str:
    """Write nested mappings as a table of dotted keys and values."""
    return table(("", ""), leaves(values))


def cards(train: Mapping[str, Any], evaluate: Mapping[str, Any], export: Mapping[str, Any]) -> str:
    """Write the headline figures, as far as the metrics have them."""
    found = [
        ("test accuracy", evaluate.get("test_accuracy")),
        ("test loss", evaluate.get("test_loss")),
        ("training accuracy", train.get("train_accuracy")),
        ("calibration error", evaluate.get("expected_calibration_error")),
    ]
    shown = [(text, f"{value:.4f}") for text, value in found if value is not None]
    if {"images", "argmax_agreement"} <= export.keys():
        of = f"of {export['images']:,} images: ONNX names the class that Keras does"
        shown.append((of, f"{export['argmax_agreement']:,}"))
    return "".join(
        f'<div class="card"><b>{escape(value)}</b>{escape(text)}</div>' for text, value in shown
    )


def paper_table(train: Mapping[str, Any], evaluate: Mapping[str, Any]) -> str:
    """Put the paper's numbers beside this run's, and say what does not hold."""
    last = paper.LAST_EPOCHS[-1]
    examples = evaluate.get("train_examples", {})

    def ours(number: int, key: str) -> object:
        return examples.get(str(number), {}).get(key)

    rows: list[tuple[object, ...]] = [
        ("training loss, last epoch", last.loss, train["train_loss"], "figure 8"),
        ("training accuracy, last epoch", last.accuracy, train["train_accuracy"], "figure 8"),
        ("test loss", None, evaluate["test_loss"], "not in the paper"),
        ("test accuracy", None, evaluate["test_accuracy"], "not in the paper"),
    ]
    rows += [
        (f"class of training image {number}", answer, ours(number, "class"), "figure 11")
        for number, answer in sorted(paper.EXAMPLES.items())
    ]
    likeliest = max(paper.IMAGE_0.values())
    rows.append(("probability of image 0's class", likeliest, ours(0, "probability"), "figure 9"))
    claim = (
        f"The paper's text says that over {100 * paper.CLAIMED_ACCURACY:g} % of the answers are "
        f"right. That does not hold: its own log ends at {100 * last.accuracy:.2f} %, on the "
        f"images that it was trained on, and it measures no others. {likeliest:.5f} is the "
        f"probability of a single image. On the test set this run is right in "
        f"{100 * evaluate['test_accuracy']:.2f} %."
    )
    return f"<p>{escape(claim)}</p>" + table(("", "paper", "this run", "where"), rows)


def class_table(classes: Mapping[str, Mapping[str, float]]) -> str:
    """Write the figures of each class."""
    columns = list(next(iter(classes.values()), {}))
    rows = [
        (name, *(f"{values[column]:.3f}" for column in columns)) for name, values in classes.items()
    ]
    return table(("class", *columns), rows, numbers=True)


def example_table(examples: Mapping[str, Mapping[str, Any]]) -> str:
    """Write what the network says of single training images."""
    rows = [
        (number, row["class"], row["name"], row["probability"]) for number, row in examples.items()
    ]
    return table(("training image", "class", "name", "probability"), rows)


def data_tables(params: Mapping[str, Any], lock: Mapping[str, Any]) -> str:
    """Write the source files with their hashes, and the arrays made from them."""
    files = params.get("fetch", {}).get("files", {})
    rows = [(name, file["bytes"], file["sha256"]) for name, file in files.items()]
    made = [
        (output["path"], output["size"], output["md5"])
        for stage in lock.values()
        for output in stage.get("outs", [])
        if output["path"].startswith(("data/prepared/", "models/"))
    ]
    dataset = params["dataset"]
    height, width = dataset["image_shape"]
    pixels, classes = height * width, dataset["classes"]["en"]
    sizes = {output["path"]: output["size"] for output in lock["preprocess"]["outs"]}
    header = 128  # bytes before the values of such an .npy file
    counts = [
        (split, (sizes[f"data/prepared/{split}_images.npy"] - header) // (4 * pixels))
        for split in ("train", "validation", "test")
    ]
    return (
        f"<p>{escape(dataset['name'])}: images of {height} × {width} pixels, {len(classes)} "
        f"classes ({escape(', '.join(classes))}).</p>"
        + table(("split", "images"), counts, numbers=True)
        + "<h3>Source files, decompressed</h3>"
        + table(("file", "bytes", "SHA-256"), rows)
        + "<h3>What was made of them</h3>"
        + table(("path", "bytes", "MD5, as DVC records it"), made)
    )


def runtimes(path: Path) -> str:
    """Write what other runtimes make of the ONNX file, if that has been run."""
    if not path.exists():
        return "<p>Not run yet: <code>make conformance</code> runs the file in other runtimes.</p>"
    values = read_json(path)
    found = values.pop("runtimes", {})
    columns = list(dict.fromkeys(column for row in found.values() for column in row))
    rows = [(name, *(row.get(column) for column in columns)) for name, row in found.items()]
    titles = [column.replace("_", " ") for column in columns]
    return table(("runtime", *titles), rows) + mapping_table(values)


def environment(root: Path) -> dict[str, str]:
    """Name the commit and what the report was written with."""

    def git(*arguments: str) -> str:
        try:
            result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        except FileNotFoundError:
            return ""
        return result.stdout.strip()

    commit = git("log", "-1", "--format=%h, %cs: %s") or "not in git"
    return {
        "commit": commit + (" (with changes since)" if git("status", "--porcelain") else ""),
        "processor": processor(),
        "system": platform.platform(),
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


if __name__ == "__main__":
    sys.exit(main())
