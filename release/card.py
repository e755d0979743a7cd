"""The model card, with the front matter that model hubs read: README.md of a release.

docs/model-card.md is the same text, for the committed results.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from string import Template
from typing import Any

import yaml

from checks.common import table
from pipeline.records import LOCK
from report.__main__ import read, records, run_params, shape

TEXT = Path(__file__).with_name("card.txt")
METRICS = ("train", "evaluate", "export")
# What a card is made from, all of it in git.
SOURCES = (
    *(f"metrics/{stage}.json" for stage in METRICS),
    *("plots/classes.csv", "models/labels.json", str(LOCK)),
)


class Metrics(dict[str, Any]):
    """Metrics by name; one that is not there is named in an error."""

    def __missing__(self, name: str) -> Any:
        """Refuse."""
        raise ValueError(f"metrics/ has no {name}; `make` writes it")


def card(root: Path, accurate: dict[str, float] | None = None) -> str:
    """Write the card from the results below `root`.

    `accurate` are metrics of that preset, where the release has its file.

    Raises:
        ValueError: a file that the pipeline writes is missing or damaged.
    """
    metrics = Metrics()
    for stage in METRICS:
        metrics |= read(root / f"metrics/{stage}.json", json.loads)
    params = run_params(read(root / LOCK, yaml.safe_load)["stages"])
    labels = read(root / "models/labels.json", json.loads)
    split = "test" if "test_accuracy" in metrics else "validation"
    classes = records(root / "plots/classes.csv")
    images = sum(int(row["images"]) for row in classes)
    accuracy = metrics[f"{split}_accuracy"]
    rows = [
        (f"{split} accuracy", f"{accuracy:.4f}", spread(accuracy, images)),
        (f"{split} loss", f"{metrics[f'{split}_loss']:.4f}", ""),
        ("expected calibration error", f"{metrics[f'{split}_calibration_error']:.4f}", ""),
        ("training accuracy", f"{metrics['train_accuracy']:.4f}", ""),
    ]
    if accurate:
        value = accurate["test_accuracy"]
        rows.append(("test accuracy, preset `accurate`", f"{value:.4f}", spread(value, images)))
    names = next(iter(names for names in labels["class_names"].values() if names))
    shares = ("precision", "recall", "f1")
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        front=front_matter(params, split, accuracy),
        name=params["dataset"]["name"],
        license=params["dataset"]["license"],
        shape=shape(params),
        height=labels["image_shape"][0],
        width=labels["image_shape"][1],
        photos=labels["photos"],
        look="light on dark" if labels["photos"] == "trimmed" else "a photo in grey, resized",
        pixels=math.prod(labels["image_shape"]),
        count=len(names),
        names=", ".join(names),
        split=split,
        metrics=table(("", "", f"spread over the {images:,} {split} images"), rows),
        classes=table(
            ("class", "images", *shares),
            [[row["class"], row["images"], *(f"{float(row[it]):.3f}" for it in shares)]
             for row in classes],
        ),
        agreement=f"{metrics['argmax_agreement']:,} of {metrics['images']:,}",
        exact=f"{metrics['exact_argmax_agreement']:,}",
        seed=params["train"]["seed"],
        epochs=params["train"]["epochs"],
    )  # fmt: skip


def spread(accuracy: float, images: int) -> str:
    """Write the standard error of a share that was measured on so many images."""
    return f"standard error {math.sqrt(accuracy * (1 - accuracy) / images):.4f}"


def front_matter(params: dict[str, Any], split: str, accuracy: float) -> str:
    """Write the YAML at the head of the card."""
    dataset = params["dataset"]["name"]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": dataset.lower().replace("-", "_"), "split": split},
        "metrics": [{"type": "accuracy", "value": accuracy}],
    }
    values = {
        "license": "mit",
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", dataset.lower()],
        "metrics": ["accuracy"],
        "model-index": [{"name": "fashion-mlp", "results": [result]}],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip()
