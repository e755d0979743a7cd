"""evaluate: what the trained network knows, on the test set that the paper never looks at.

reads   models/fashion_mlp.keras, data/prepared/test_{images,labels}.npy, and the training
        images whose class the paper shows
writes  metrics/evaluate.json   test_loss, test_accuracy, top-2, calibration, figures by class
        plots/confusion.csv     actual and predicted class of each test image
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    top_k_accuracy_score,
)

from fashion_mlp import engine
from fashion_mlp.console import run
from fashion_mlp.dataset import Split, load_split
from fashion_mlp.files import write_json, write_text
from fashion_mlp.params import load_params

MODEL = Path("models/fashion_mlp.keras")
METRICS = Path("metrics/evaluate.json")
CONFUSION = Path("plots/confusion.csv")
BATCH_SIZE = 1000
DIGITS = 6


def measure(
    probabilities: np.ndarray, one_hot: np.ndarray, names: Sequence[str], bins: int
) -> dict[str, Any]:
    """Compute the figures that need no loss function.

    Args:
        probabilities: float32 (n, classes).
        one_hot: labels, float32 (n, classes).
        names: of the classes.
        bins: of the calibration error.

    Returns:
        test_accuracy, test_top2_accuracy, expected_calibration_error, and by class name
        precision, recall and f1.
    """
    labels, predicted = one_hot.argmax(axis=1), probabilities.argmax(axis=1)
    numbers = range(len(names))
    report = classification_report(
        labels, predicted, labels=numbers, target_names=names, output_dict=True, zero_division=0.0
    )
    figures: dict[str, Any] = {
        "test_accuracy": accuracy_score(labels, predicted),
        "test_top2_accuracy": top_k_accuracy_score(labels, probabilities, k=2, labels=numbers)
        if len(names) > 2
        else 1.0,
        "expected_calibration_error": expected_calibration_error(probabilities, labels, bins),
    }
    figures = {key: round(float(value), DIGITS) for key, value in figures.items()}
    figures["per_class"] = {
        name: {
            "precision": round(report[name]["precision"], DIGITS),
            "recall": round(report[name]["recall"], DIGITS),
            "f1": round(report[name]["f1-score"], DIGITS),
        }
        for name in names
    }
    return figures


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Mean distance between how sure the network is and how often it is right.

    Images are put into bins of equal width by the probability of the class that the network
    names; each bin's |accuracy - mean probability| counts by its number of images.
    Source: Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599), eq. 3.

    Args:
        probabilities: float32 (n, classes).
        labels: class numbers (n,).
        bins: how many.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    # Bin m holds the confidences in ((m-1)/bins, m/bins], as in the source.
    bin_number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    surplus = np.bincount(bin_number, confidence - correct, minlength=bins)
    return float(np.abs(surplus).sum() / len(labels))


def examples(
    probabilities: np.ndarray, numbers: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """Say what the network makes of single training images, by their number.

    Args:
        probabilities: float32 (len(numbers), classes).
        numbers: of the images.
        names: of the classes.
    """
    return {
        str(number): {
            "class": int(row.argmax()),
            "name": names[row.argmax()],
            "probability": round(float(row.max()), DIGITS),
        }
        for number, row in zip(numbers, probabilities, strict=True)
    }


def confusion_csv(probabilities: np.ndarray, one_hot: np.ndarray, names: Sequence[str]) -> str:
    """List actual and predicted class of each image, as DVC's `confusion` template reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    for actual, predicted in zip(one_hot.argmax(axis=1), probabilities.argmax(axis=1), strict=True):
        writer.writerow([names[actual], names[predicted]])
    return text.getvalue()


def pick(train: Split, numbers: Sequence[int]) -> np.ndarray:
    """Take single training images: float32 (len(numbers), pixels)."""
    if too_large := [number for number in numbers if number >= len(train.images)]:
        raise ValueError(
            f"evaluate.examples: {too_large} must be below {len(train.images):,}, "
            f"the number of training images"
        )
    return train.images[list(numbers)]


def main() -> None:
    params = load_params()
    names = getattr(params.dataset.classes, params.evaluate.language)
    test = load_split("test", params.dataset.pixels, len(names))
    train = load_split("train", params.dataset.pixels, len(names))
    example_images = pick(train, params.evaluate.examples)
    engine.start()

    from fashion_mlp.network import load_network, mean_loss, probabilities

    network = load_network(MODEL, (params.dataset.pixels, len(names)))
    predicted = probabilities(network, test.images, BATCH_SIZE)
    figures: dict[str, Any] = {
        "test_loss": round(mean_loss(network, predicted, test.labels), DIGITS)
    }
    figures |= measure(predicted, test.labels, names, params.evaluate.calibration_bins)
    if len(example_images):
        shown = probabilities(network, example_images, BATCH_SIZE)
        figures["train_examples"] = examples(shown, params.evaluate.examples, names)
    write_text(CONFUSION, confusion_csv(predicted, test.labels, names))
    write_json(METRICS, figures)
    print(
        f"evaluate: {len(predicted):,} test images, test_loss {figures['test_loss']:.4f}, "
        f"test_accuracy {figures['test_accuracy']:.4f}"
    )


if __name__ == "__main__":
    run(main)
