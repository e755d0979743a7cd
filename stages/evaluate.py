"""evaluate: what the trained network knows, on the test set that the paper never looks at.

reads   models/fashion_mlp.keras, data/prepared/{train,test}_{images,labels}.npy,
        plots/history.csv
writes  metrics/evaluate.json   test_loss, test_accuracy, top-2, calibration, metrics by class
        plots/confusion.csv     actual and predicted class of each test image
        plots/*.png             the paper's figures 8 to 11 and what it does not show: confusion,
                                calibration, mistakes, what classes and hidden units look like

The training images serve the pictures alone; every metric but `train_examples` is of the test set.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_mlp.data.arrays import MAX_PIXEL, Split, load_split
from fashion_mlp.formats import DIGITS, write_csv, write_json
from fashion_mlp.network import engine
from fashion_mlp.paths import HISTORY, MODEL
from fashion_mlp.pictures import charts, grids, paper
from fashion_mlp.pictures.style import Answers
from pipeline.console import run
from pipeline.params import Params, load_params

if TYPE_CHECKING:
    import keras

METRICS = Path("metrics/evaluate.json")
CONFUSION = Path("plots/confusion.csv")
PICTURES = Path("plots")


def measure(
    probabilities: np.ndarray, one_hot: np.ndarray, names: Sequence[str], bins: int
) -> dict[str, Any]:
    """Compute the metrics that need no loss function.

    Args:
        probabilities: float32 (n, classes).
        one_hot: labels, float32 (n, classes).
        names: of the classes.
        bins: of the calibration error.

    Returns:
        test_accuracy, test_top2_accuracy, expected_calibration_error, and by class name
        precision, recall and f1.
    """
    # Here, as it takes a second: the stage's module is imported twice (pipeline/environment.py).
    from sklearn.metrics import (
        accuracy_score,
        precision_recall_fscore_support,
        top_k_accuracy_score,
    )

    labels, predicted = one_hot.argmax(axis=1), probabilities.argmax(axis=1)
    numbers = range(len(names))
    metrics: dict[str, Any] = {
        "test_accuracy": accuracy_score(labels, predicted),
        "test_top2_accuracy": top_k_accuracy_score(labels, probabilities, k=2, labels=numbers)
        if len(names) > 2
        else 1.0,
        "expected_calibration_error": calibration(probabilities, labels, bins).error,
    }
    metrics = {key: round(float(value), DIGITS) for key, value in metrics.items()}
    by_class = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0.0)
    metrics["per_class"] = {
        name: {
            key: round(float(value), DIGITS)
            for key, value in zip(("precision", "recall", "f1"), values, strict=True)
        }
        for name, *values in zip(names, *by_class[:3], strict=True)
    }
    return metrics


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> charts.Bins:
    """Put images into bins of equal width by how sure the network is of its answer.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599), whose
    equation 3, the expected calibration error, is the bins' `error`.

    Args:
        probabilities: float32 (n, classes).
        labels: class numbers (n,).
        bins: how many.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    # Bin m holds the confidences in ((m-1)/bins, m/bins], as in the source.
    bin_number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(bin_number, minlength=bins)
    sums = (np.bincount(bin_number, values, bins) for values in (confidence, correct))
    return charts.Bins(count, *(values / np.maximum(count, 1) for values in sums))


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


def pick(train: Split, numbers: Sequence[int]) -> np.ndarray:
    """Take single training images: float32 (len(numbers), pixels)."""
    if too_large := [number for number in numbers if number >= len(train.images)]:
        raise ValueError(
            f"evaluate.examples: {too_large} must be below {len(train.images):,}, "
            f"the number of training images"
        )
    return train.images[list(numbers)]


def read_history(path: Path) -> dict[str, list[float]]:
    """Read the log of stage `train`: the values of each column but `epoch`.

    Raises:
        ValueError: not the table that stage `train` writes.
        OSError: the file can't be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        columns = {key: [float(row[key]) for row in rows] for key in rows[0] if key != "epoch"}
        return {"loss": columns.pop("loss"), "accuracy": columns.pop("accuracy")} | columns
    except (IndexError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: expected a table of epoch, loss, accuracy with an epoch or more; "
            f"run `dvc repro --force train`"
        ) from None


def class_averages(split: Split, image_shape: tuple[int, int]) -> np.ndarray:
    """Average the images of each class: float64 (classes, height, width); 0 where it has none.

    Summed as the bytes that they were, exactly, so that the order of adding can't matter.
    """
    labels = split.labels.argmax(axis=1)
    means = np.zeros((split.labels.shape[1], split.images.shape[1]))
    for label in range(len(means)):
        if len(images := split.images[labels == label]):
            total = np.rint(images * MAX_PIXEL).astype(np.uint8).sum(axis=0, dtype=np.int64)
            means[label] = total / (len(images) * float(MAX_PIXEL))
    return means.reshape(-1, *image_shape)


def select(split: Split, numbers: Sequence[int], rows: np.ndarray, params: Params) -> Answers:
    """Take single images of a split, with the network's answers `rows`, to draw them."""
    images = split.images[list(numbers)].reshape(-1, *params.dataset.image_shape)
    return Answers(images, split.labels[list(numbers)].argmax(axis=1), rows, numbers)


def draw_data(params: Params, train: Split, test: Split, predicted: np.ndarray) -> None:
    """Draw the pictures that show images.

    Args:
        params: all of params.yaml.
        train: images float32 (n, pixels) and one-hot labels float32 (n, classes).
        test: the same.
        predicted: probabilities of the test images, float32 (n, classes).
    """
    language, names = params.evaluate.language, shown_names(params)
    count = min(grids.MOST_TILES, len(train.images))
    first = select(train, range(count), np.empty(0), params)
    sheet = PICTURES / "contact_sheet.png"
    grids.contact_grid(sheet, language, first.images, first.labels, names)
    wrong = np.flatnonzero(test.labels.argmax(axis=1) != predicted.argmax(axis=1))
    mistakes = select(test, wrong.tolist(), predicted[wrong], params)
    grids.mistakes(PICTURES / "mistakes.png", language, mistakes, names)
    means = class_averages(train, params.dataset.image_shape)
    grids.averages(PICTURES / "averages.png", language, means, names)


def draw_network(params: Params, network: keras.Model, train: Split, shown: np.ndarray) -> None:
    """Draw what the network says of single images, and what its hidden units look for.

    Args:
        params: all of params.yaml.
        network: dense layers.
        train: images float32 (n, pixels) and one-hot labels float32 (n, classes).
        shown: probabilities of training image 0 and of those in `evaluate.examples`, float32
            (1 + n, classes).
    """
    from fashion_mlp.network.model import layers_of

    language, names = params.evaluate.language, shown_names(params)
    papers = paper.IMAGE_0 if params.dataset.name == paper.DATASET else {}
    first = select(train, [0], shown[:1], params)
    charts.first_image(PICTURES / "first_image.png", language, first, names, papers)
    examples = select(train, params.evaluate.examples, shown[1:], params)
    grids.answers(PICTURES / "examples.png", language, examples, names)
    kernels = [layer.kernel for layer in layers_of(network)]
    path, shape = PICTURES / "hidden_units.png", params.dataset.image_shape
    grids.hidden_units(path, language, kernels, shape, names)


def draw_metrics(
    params: Params,
    labels: np.ndarray,
    predicted: np.ndarray,
    metrics: dict[str, Any],
    loss: str,
) -> None:
    """Draw the training log, the confusion matrix and the calibration.

    Args:
        params: all of params.yaml.
        labels: class numbers of the test images (n,).
        predicted: their probabilities, float32 (n, classes).
        metrics: what `METRICS` will hold.
        loss: the name of what the network was trained on.
    """
    from sklearn.metrics import confusion_matrix

    language, names = params.evaluate.language, shown_names(params)
    comparable = params.dataset.name == paper.DATASET  # else the paper's numbers mean nothing
    charts.history(
        PICTURES / "history.png",
        language,
        read_history(HISTORY),
        {"loss": metrics["test_loss"], "accuracy": metrics["test_accuracy"]},
        paper.LAST_EPOCHS if comparable and loss == paper.LOSS else (),
        paper.CLAIMED_ACCURACY if comparable else None,
    )
    matrix = confusion_matrix(labels, predicted.argmax(axis=1), labels=range(len(names)))
    charts.confusion(PICTURES / "confusion.png", language, matrix, names)
    bins = calibration(predicted, labels, params.evaluate.calibration_bins)
    charts.reliability(PICTURES / "reliability.png", language, bins)


def shown_names(params: Params) -> list[str]:
    """Take the class names in the language of the pictures."""
    return params.dataset.names(params.evaluate.language)


def main() -> None:
    params = load_params()
    names = params.dataset.names()
    test = load_split("test", params.dataset.pixels, params.dataset.classes)
    train = load_split("train", params.dataset.pixels, params.dataset.classes)
    # Image 0 is what the paper's figure 9 shows; the others are figure 11's.
    example_images = pick(train, [0, *params.evaluate.examples])
    engine.start()

    from fashion_mlp.network.model import load_network, mean_loss, predict

    network = load_network(MODEL, (params.dataset.pixels, params.dataset.classes))
    predicted, shown = predict(network, test.images), predict(network, example_images)
    loss = mean_loss(network.loss, predicted, test.labels)
    metrics: dict[str, Any] = {"test_loss": round(loss, DIGITS)}
    metrics |= measure(predicted, test.labels, names, params.evaluate.calibration_bins)
    if params.evaluate.examples:
        metrics["train_examples"] = examples(shown[1:], params.evaluate.examples, names)
    labels, named = test.labels.argmax(axis=1), predicted.argmax(axis=1)
    draw_data(params, train, test, predicted)
    draw_network(params, network, train, shown)
    draw_metrics(params, labels, predicted, metrics, network.loss)
    pairs = ((names[actual], names[answer]) for actual, answer in zip(labels, named, strict=True))
    write_csv(CONFUSION, ["actual", "predicted"], pairs)
    write_json(METRICS, metrics)
    print(
        f"evaluate: {len(predicted):,} test images, test_loss {metrics['test_loss']:.4f}, "
        f"test_accuracy {metrics['test_accuracy']:.4f}; pictures in {PICTURES}/"
    )


if __name__ == "__main__":
    run(main)
